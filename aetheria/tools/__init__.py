"""Vertical slices above the trainer, which imports none of them: each package has the commands, the
logic and the texts of one tool.

A package declares `COMMANDS`: the words of a command -> `module:Class`, imported on demand. Its
docstring is the help of the first word where several commands share that word.
"""
