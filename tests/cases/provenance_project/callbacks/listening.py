"""A callback with an argument."""

from aetheria import register_callback


@register_callback("listening")
class Listening:
    def __init__(self, context, patience: int = 3):
        self.patience = patience

    def notify(self, event):
        pass
