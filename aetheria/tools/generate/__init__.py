"""Generates text with a language model."""

COMMANDS = {
    ("generate",): "aetheria.tools.generate.command:GenerateCommand",
}
