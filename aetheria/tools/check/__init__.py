"""Checks a config before a run, and tells all problems at once."""

COMMANDS = {
    ("check",): "aetheria.tools.check.command:CheckCommand",
}
