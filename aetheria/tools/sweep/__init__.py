"""Searches hyperparameters: many trials of one config, chosen by Optuna."""

COMMANDS = {
    ("sweep",): "aetheria.tools.sweep.command:SweepCommand",
}
