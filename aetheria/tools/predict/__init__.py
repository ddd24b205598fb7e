"""Predicts for files of any length, in bounded memory, and continues where it was interrupted."""

COMMANDS = {("predict",): "aetheria.tools.predict.command:PredictCommand"}
