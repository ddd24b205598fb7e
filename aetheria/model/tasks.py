"""Classifiers and regressors: networks with the usual loss, metrics and optimizer, written once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from aetheria.errors import ModelError, shown
from aetheria.model.adapters import LinenModel, Metrics
from aetheria.model.classes import Classes
from aetheria.model.metrics import weighted
from aetheria.model.model import Batch, ModelState, Params, WeightedSum
from aetheria.model.optimizers import (
    SCHEDULES,
    SGD,
    Adam,
    AdamW,
    Lion,
    Optimizer,
    UpdateRule,
)
from aetheria.model.tallies import Tallies
from aetheria.plugins.resolved import ADDED

Chosen = TypeVar("Chosen")


@dataclass(frozen=True, kw_only=True)
class SupervisedModel(LinenModel):
    """A Linen network with an optimizer: AdamW, a warm-up and a cosine, gradient clipping.

    The fields are keyword-only, so a subclass may add fields of its own in any order.

    Attributes:
        rule: how the optimizer updates: `adamw`, `adam`, `sgd` or `lion`.
        momentum: of `sgd`; 0: none.
        schedule: the learning rate after the warm-up: it falls to zero along a `cosine` or a line
            (`linear`), or stays (`constant`).
        warmup_steps: the steps in which it rises from zero; None: a tenth of the run.
        metrics: what an evaluation reports beside its means: of a classifier `f1`, `precision`,
            `recall`, `auroc`, `confusion` and `perplexity`, of a regressor `rmse` and `r2`; see
            `aetheria.model.scores`.
        learning_rate: its largest value, at the end of the warm-up.
        weight_decay: of `adamw` and `lion`.
        max_grad_norm: gradients are clipped to this global norm; 0 turns clipping off.
        ema_decay: the decay of the averaged parameters; 0 keeps no average.
    """

    rule: str = field(default="adamw", metadata=ADDED)
    momentum: float = field(default=0.9, metadata=ADDED)
    schedule: str = field(default="cosine", metadata=ADDED)
    warmup_steps: int | None = field(default=None, metadata=ADDED)
    metrics: tuple[str, ...] = field(default=(), metadata=ADDED)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0

    def score_tallies(
        self,
        of: Literal["classes", "numbers"],
        params: Params,
        model_state: ModelState,
        batch: Batch,
    ) -> Tallies:
        """The tallies that `metrics` names, for outputs that are logits of classes, or numbers.

        Raises:
            ModelError: a name is unknown.
        """
        if not self.metrics:
            return {}
        from aetheria.model import scores

        known, make = {
            "classes": (scores.CLASS_METRICS, scores.class_tallies),
            "numbers": (scores.NUMBER_METRICS, scores.number_tallies),
        }[of]
        # One name is a list of one, as for loggers in a config.
        names = (self.metrics,) if isinstance(self.metrics, str) else self.metrics
        for name in names:
            _one_of("metrics", name, dict.fromkeys(known))
        outputs, _ = self.apply(params, model_state, batch["inputs"], None, False)
        return make(names, outputs, batch["labels"], example_weights(batch))

    def update_rule(self) -> UpdateRule:
        """Returns the rule of the optimizer; override it for another rule or other settings."""
        rules: dict[str, UpdateRule] = {
            "adamw": AdamW(weight_decay=self.weight_decay),
            "adam": Adam(),
            "sgd": SGD(momentum=self.momentum),
            "lion": Lion(weight_decay=self.weight_decay),
        }
        return _one_of("rule", self.rule, rules)

    def optimizer(self, total_steps: int) -> optax.GradientTransformation:
        make_schedule = _one_of("schedule", self.schedule, SCHEDULES)
        return Optimizer(
            self.update_rule(),
            make_schedule(self.learning_rate, total_steps, warmup_steps=self.warmup_steps),
            max_grad_norm=self.max_grad_norm,
            ema_decay=self.ema_decay,
        )


class Classifier(SupervisedModel):
    """A network that predicts one of `num_classes` classes. A subclass returns it from `network`.

    The network's outputs are logits, f32 [batch, ..., num_classes]. The column `labels` holds class
    numbers, i32 [batch, ...].

    Attributes:
        num_classes: set by the subclass, as a field or as a plain class attribute. Labels are
            checked against it. 0 or absent: nothing is checked.

    >>> from flax import linen as nn
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         return nn.Dense(3)(x)
    >>> class Flowers(Classifier):
    ...     num_classes = 3
    ...     def network(self):
    ...         return Linear()
    >>> model = Flowers(learning_rate=0.1)
    >>> batch = {
    ...     "inputs": jax.numpy.eye(3), "labels": jax.numpy.arange(3), "mask": jax.numpy.ones(3)
    ... }
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> loss = lambda params: model.loss(params, state, batch, jax.random.key(1), True).total
    >>> stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    >>> bool(loss(stepped) < loss(params))
    True
    """

    num_classes: int

    def tallies(self, params: Params, model_state: ModelState, batch: Batch) -> Tallies:
        return self.score_tallies("classes", params, model_state, batch)

    def class_columns(self) -> dict[str, Classes]:
        num_classes = getattr(self, "num_classes", 0)
        return {"labels": Classes(num_classes)} if num_classes else {}

    def score(self, outputs: jax.Array, batch: Batch) -> tuple[WeightedSum, Metrics]:
        return cross_entropy(outputs, batch)

    def probabilities(self, outputs: jax.Array) -> jax.Array:
        return jax.nn.softmax(outputs)


class Regressor(SupervisedModel):
    """A network that predicts numbers, scored by squared error. A subclass returns it from
    `network`.

    The network's outputs are f32 [batch, ...]. The column `labels` has as many numbers an example:
    [batch] fits outputs [batch, 1].
    """

    def tallies(self, params: Params, model_state: ModelState, batch: Batch) -> Tallies:
        return self.score_tallies("numbers", params, model_state, batch)

    def score(self, outputs: jax.Array, batch: Batch) -> tuple[WeightedSum, Metrics]:
        return squared_error(outputs, batch)


def _one_of(field: str, value: str, choices: Mapping[str, Chosen]) -> Chosen:
    if value not in choices:
        raise ModelError(
            f"model_params.{field}: expected one of {', '.join(choices)}, got {shown(value)}; use "
            "one of these"
        )
    return choices[value]


def cross_entropy(
    logits: Float[Array, "batch ... num_classes"], batch: Batch
) -> tuple[WeightedSum, Metrics]:
    """Computes the cross entropy of class numbers, and the accuracy.

    Args:
        logits: f32 [batch, ..., num_classes].
        batch: `labels` i32 [batch, ...], `mask` f32 [batch], and perhaps `weight` f32 [batch].

    Returns:
        The summed loss, and the metric `accuracy`.
    """
    labels, mask = batch["labels"], example_weights(batch)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return weighted(loss, mask), {"accuracy": weighted(logits.argmax(-1) == labels, mask)}


def squared_error(outputs: Float[Array, "batch ..."], batch: Batch) -> tuple[WeightedSum, Metrics]:
    """Computes the squared error, and the absolute error.

    Args:
        outputs: f32 [batch, ...].
        batch: `labels`, as many numbers as `outputs`, `mask` f32 [batch], and perhaps `weight` f32
            [batch].

    Returns:
        The summed loss, and the metric `mae` (mean absolute error).
    """
    # Labels [batch] beside outputs [batch, 1] would broadcast to a square.
    error = outputs - batch["labels"].reshape(outputs.shape)
    weights = example_weights(batch)
    return weighted(error**2, weights), {"mae": weighted(abs(error), weights)}


def example_weights(batch: Batch) -> jax.Array:
    """What each example counts, f32 [batch]: the column `weight` of the data if it has one, and 0
    for padding. A `weight` [batch, length] weighs the positions of an example.
    """
    mask = jnp.asarray(batch["mask"])
    if "weight" not in batch:
        return mask
    weight = jnp.asarray(batch["weight"])
    return mask.reshape(mask.shape + (1,) * (weight.ndim - 1)) * weight
