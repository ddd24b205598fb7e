"""Evaluates a snapshot on the data of its run, or on other data."""

COMMANDS = {("eval",): "aetheria.tools.evaluate.command:EvalCommand"}
