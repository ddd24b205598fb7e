"""Calls of several threads computed at once, where no bit of an answer changes."""

from aetheria.hardware.jax.joining.joined import JoinedPredictor
from aetheria.hardware.jax.joining.joiner import Joinable, Joiner, Predicts

__all__ = ["Joinable", "JoinedPredictor", "Joiner", "Predicts"]
