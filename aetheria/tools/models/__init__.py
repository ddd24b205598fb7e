"""Lists the models, datasets, loggers and callbacks that a config can name."""

COMMANDS = {
    ("models",): "aetheria.tools.models.command:ModelsCommand",
}
