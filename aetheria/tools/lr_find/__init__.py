"""Finds a learning rate: trains a few steps with a rising one, and looks at the loss."""

COMMANDS = {
    ("lr-find",): "aetheria.tools.lr_find.command:LrFindCommand",
}
