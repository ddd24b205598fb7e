"""Completes commands and options in a shell."""

COMMANDS = {
    ("completion",): "aetheria.tools.completion.command:CompletionCommand",
}
