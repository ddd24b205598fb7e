"""Finds out why two runs differ."""

COMMANDS = {
    ("compare",): "aetheria.tools.compare.command:CompareCommand",
}
