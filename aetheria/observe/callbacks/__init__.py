"""The callbacks that ship: listeners that may ask the run to stop.

A new callback is a file here with a class under `@register_callback("name")`; a config selects it
by that name. Nothing else has to be changed: the registry searches this folder.
"""
