"""Exports weights to PyTorch and imports weights from it."""

COMMANDS = {
    ("export",): "aetheria.tools.weights.command:ExportCommand",
    ("import",): "aetheria.tools.weights.command:ImportCommand",
}
