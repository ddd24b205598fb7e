"""What is known of a run's state and reports before anything is compiled, for every backend."""

from typing import NamedTuple

import jax
import numpy as np

from aetheria.logic.missing_column import named_missing_column
from aetheria.logic.model import Model
from aetheria.logic.precision import Precision
from aetheria.logic.program_spec import ProgramSpec
from aetheria.logic.report_rows import metric_names
from aetheria.logic.state import Sums, TrainState, make_init
from aetheria.logic.step import make_eval_sums


class Outline(NamedTuple):
    """Shapes, dtypes and names.

    Attributes:
        state: of every leaf of a state.
        eval_sums: of the sums of an evaluation.
        own_names: what a training report has beside the loss and the model's metrics.
        train_names: the model's metrics in training, in the order of `pack_values`.
        eval_names: those in evaluation.
    """

    state: TrainState
    eval_sums: Sums
    own_names: tuple[str, ...]
    train_names: tuple[str, ...]
    eval_names: tuple[str, ...]

    @property
    def train_rows(self) -> tuple[str, ...]:
        """What the rows of a training report are called; see `pack_values`."""
        return ("loss", *self.own_names, *self.train_names)

    @property
    def eval_rows(self) -> tuple[str, ...]:
        """The same of an evaluation."""
        return ("loss", *self.eval_names)

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """What an evaluation reports, under the names of events."""
        return tuple(f"eval/{name}" for name in self.eval_rows)

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.state))


def make_outline(model: Model, spec: ProgramSpec) -> Outline:
    """Traces the model once in each of its hooks; nothing runs.

    Raises:
        AetheriaError: the model does not fit the data, reads a column that is not there, or names
            a metric as we name one.
    """
    precision = Precision.parse(spec.mixed_precision)
    example = {name: column[0] for name, column in spec.example_window.items()}
    with named_missing_column(model, example):
        return _trace(model, spec, precision, example)


def _trace(
    model: Model, spec: ProgramSpec, precision: Precision, example: dict[str, np.ndarray]
) -> Outline:
    key = jax.random.key(0)
    init = make_init(model, model.optimizer(spec.total_steps), precision)
    state = jax.eval_shape(init, key, example)
    eval_sums = jax.eval_shape(make_eval_sums(model, precision), state, example)
    train_loss = lambda s, b, k: model.loss(s.params, s.model_state, b, k, True)
    train_out = jax.eval_shape(train_loss, state, example, key)
    own_names = ("grad_norm", *(["loss_scale"] if precision.scales_loss else []))
    return Outline(
        state=state,
        eval_sums=eval_sums,
        own_names=own_names,
        train_names=metric_names(train_out.metrics, own_names),
        eval_names=metric_names(eval_sums.metrics, own_names),
    )
