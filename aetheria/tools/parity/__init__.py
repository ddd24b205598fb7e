"""Compares the training steps of PyTorch with those of JAX."""

COMMANDS = {
    ("parity",): "aetheria.tools.parity.command:ParityCommand",
}
