"""Command: an argument vector becomes a frozen command value, and its `execute()` an exit code.

Imports neither jax nor, by name, any tool: a mistake on the command line is reported before
anything slow is loaded.
"""
