"""Finds out what went wrong in a run."""

COMMANDS = {
    ("debug", "nan"): "aetheria.tools.nan.command:DebugNanCommand",
}
