"""Trains a config with a learning rate that rises exponentially; keeps nothing.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186).
"""

import contextlib
import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import optax

from aetheria.build import build_feed, build_model, prepare_environment
from aetheria.build.devices import build_strategy, cut_for_devices
from aetheria.build.run import build_program
from aetheria.config import Config
from aetheria.engine.interfaces import SingleProcess
from aetheria.errors import AetheriaError
from aetheria.model.model import Model
from aetheria.model.optimizers import Optimizer
from aetheria.model.overriding import with_hooks


class Point(NamedTuple):
    """One step: its learning rate, and the mean loss of its global batch before the update."""

    rate: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Rise:
    """A learning rate that rises from `low` to `high` within `steps` steps, each time by the same
    factor.
    """

    low: float
    high: float
    steps: int

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))

    def schedule(self) -> optax.Schedule:
        """The same, as Optax calls it."""
        factor = math.log(self.high / self.low) / (self.steps - 1)
        return lambda count: self.low * jnp.exp(factor * count)


def train(config: Config, project: Path | None, rise: Rise) -> Generator[Point, None, None]:
    """Trains on the data of the config in its order; ends before `rise.steps` if the loss is not
    finite.

    Raises:
        AetheriaError: the config is wrong, or the model's learning rate cannot be set.
    """
    if config.strategy == "torch":
        raise AetheriaError(
            "lr-find: expected a strategy of JAX, got 'torch'; add --set strategy=auto"
        )
    prepare_environment(config, os.environ)
    model = with_rate(build_model(config, project), rise.schedule())
    feed = build_feed(config, project, model)
    strategy = build_strategy(config, SingleProcess())
    feed = cut_for_devices(feed, strategy)
    program = build_program(config, model, feed, strategy)
    state = program.init()
    chunks = feed.train_chunks(0, 1)
    with contextlib.closing(chunks):
        for step in range(rise.steps):
            state, report = program.train_steps(state, next(chunks).arrays, 0, 1)
            loss = program.fetch(report).metrics["loss"]
            if not math.isfinite(loss):
                return
            yield Point(rise.rate(step), loss)


def with_rate(model: Model, schedule: optax.Schedule) -> Model:
    """The same model, whose optimizer has another learning rate.

    Raises:
        AetheriaError: the model has no field `learning_rate`, or an optimizer that hides it.
    """
    kind = type(model)
    if not hasattr(model, "learning_rate"):
        raise AetheriaError(
            f"lr-find: expected a model with a field learning_rate, got {kind.__name__}, which has "
            "none; give it one, and use it in its optimizer()"
        )
    if not isinstance(own := model.optimizer(1), Optimizer):
        raise AetheriaError(
            f"lr-find: expected {kind.__name__}.optimizer() to return an aetheria.Optimizer, got "
            f"{type(own).__name__} of optax, which hides its learning rate; write "
            "aetheria.Optimizer(aetheria.AdamW(...), ...)"
        )

    def optimizer(self: Model, total_steps: int) -> Optimizer:
        own = kind.optimizer(self, total_steps)
        assert isinstance(own, Optimizer), "it was one before"
        return Optimizer(
            own.rule, schedule, max_grad_norm=own.max_grad_norm, ema_decay=own.ema_decay
        )

    return with_hooks(model, optimizer=optimizer)
