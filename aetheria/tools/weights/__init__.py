"""Exports weights and whole predictions for other programs, and imports weights."""

COMMANDS = {
    ("export",): "aetheria.tools.weights.export_command:ExportCommand",
    ("import",): "aetheria.tools.weights.import_command:ImportCommand",
}
