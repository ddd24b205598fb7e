"""The loggers that ship: listeners that write what happens.

A new logger is a file here with a class under `@register_logger("name")`; a config selects it by
that name. Nothing else has to be changed: the registry searches this folder.
"""
