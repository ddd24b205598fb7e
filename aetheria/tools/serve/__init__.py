"""Serves the predictions of trained models over HTTP."""

COMMANDS = {
    ("serve",): "aetheria.tools.serve.command:ServeCommand",
}
