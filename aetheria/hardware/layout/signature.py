"""What is known of a run's state and reports before anything is compiled, for every backend.

Traces the model's hooks on shapes; knows no device.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import optax

from aetheria.engine.interfaces import ArraySpec, GuardCounters, HostReport
from aetheria.hardware.layout.contents import check_contents
from aetheria.hardware.layout.evaluation import make_eval_sums
from aetheria.hardware.layout.leaves import named_leaves
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import (
    LOSS_SCALE,
    latest_names,
    means,
    metric_names,
    sums_by_name,
)
from aetheria.hardware.layout.state import Sums, TrainState, make_init
from aetheria.model.contract import call_hook, check_loss, check_same
from aetheria.model.fitting import fit_optimizer, optimizer_of
from aetheria.model.metrics import traced_shapes
from aetheria.model.missing_column import named_missing_column
from aetheria.model.model import Batch, LossOutput, Model
from aetheria.model.precision import Precision, widen
from aetheria.model.tallies import finished_names

if TYPE_CHECKING:  # most runs have no statistics of layers
    from aetheria.hardware.layout.layer_rows import LayerRows


class ProgramSignature(NamedTuple):
    """Shapes, dtypes and names.

    Attributes:
        optimizer: the model's, as a step drives it.
        state: shape and dtype of every leaf of a state.
        eval_sums: shapes and dtypes of the sums of an evaluation.
        own_names: what a train report has beside the loss and the model's metrics.
        train_names: the model's metrics in training, in the order of `pack_values`.
        eval_names: the model's metrics in evaluation.
        layers: the rows of each layer; None: there are none.
    """

    optimizer: optax.GradientTransformation
    state: TrainState
    eval_sums: Sums
    own_names: tuple[str, ...]
    train_names: tuple[str, ...]
    eval_names: tuple[str, ...]
    layers: "LayerRows | None" = None

    @property
    def mean_rows(self) -> tuple[str, ...]:
        """The names of the rows that every train report has; see `pack_values`."""
        return ("loss", *self.own_names, *self.train_names)

    @property
    def train_rows(self) -> tuple[str, ...]:
        """The names of all rows of a train report; those of the layers come last."""
        return self.mean_rows if self.layers is None else (*self.mean_rows, *self.layers.names)

    @property
    def eval_rows(self) -> tuple[str, ...]:
        """The names of the rows of an evaluation."""
        return ("loss", *self.eval_names)

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """The names that an evaluation reports, as events spell them."""
        finished = finished_names(self.eval_sums.tallies)
        return tuple(f"eval/{name}" for name in (*self.eval_rows, *finished))

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.state))

    @property
    def params(self) -> dict[str, ArraySpec]:
        """The path of every parameter -> its shape and dtype."""
        leaves = named_leaves(self.state.params)
        return {path: ArraySpec(leaf.shape, str(leaf.dtype)) for path, leaf in leaves.items()}

    def host_report(self, values: np.ndarray, guard: GuardCounters) -> HostReport:
        """Makes the report of training of its rows, f [len(train_rows), 2]."""
        names = self.mean_rows
        rows = values[: len(names)]
        report = HostReport(
            means(names, rows), None, guard, sums_by_name(names, rows), latest_names(names)
        )
        if self.layers is None:
            return report
        metrics, histograms = self.layers.read(values[len(names) :])
        return report._replace(layers=metrics, histograms=histograms)


def make_signature(model: Model, spec: ProgramSpec) -> ProgramSignature:
    """Traces the model once in each of its hooks; nothing runs.

    Raises:
        AetheriaError: the model does not fit the data, reads a column that does not exist, or gives
            a metric a name that every report has.
    """
    precision = Precision.parse(spec.mixed_precision)
    example = {name: column[0] for name, column in spec.example_global_batch.items()}
    with named_missing_column(model, example):
        return _trace(model, spec, precision, example)


def _trace(
    model: Model, spec: ProgramSpec, precision: Precision, example: dict[str, np.ndarray]
) -> ProgramSignature:
    key = jax.random.key(0)
    optimizer = optimizer_of(model, spec.total_steps)
    state = jax.eval_shape(make_init(model, optimizer, precision), key, example)
    check_contents(model, state)

    def train_loss(state: TrainState, batch: Batch, key: jax.Array) -> LossOutput:
        params = precision.cast_params(widen(state.params))  # as a step computes it
        batch = precision.cast_batch(batch)
        out = call_hook(model, "loss", params, state.model_state, batch, key, True)
        return check_loss(model, out)

    with traced_shapes(example) as shapes:
        train_out = jax.eval_shape(train_loss, state, example, key)
    if (other := shapes.other_batch()) is not None:
        shapes.compare(lambda: jax.eval_shape(train_loss, state, other, key))
    check_same(model, "loss", "model_state", state.model_state, train_out.model_state)
    eval_sums = jax.eval_shape(make_eval_sums(model, precision), state, example)
    optimizer = fit_optimizer(model, optimizer, state.params, state.opt_state)
    own_names = ("grad_norm", *([LOSS_SCALE] if precision.scales_loss else []))
    signature = ProgramSignature(
        optimizer=optimizer,
        state=state,
        eval_sums=eval_sums,
        own_names=own_names,
        train_names=metric_names(train_out.metrics, own_names),
        eval_names=metric_names(eval_sums.metrics, own_names),
    )
    if spec.layer_statistics is None:
        return signature
    from aetheria.hardware.layout.layer_rows import make_layer_rows

    layers = make_layer_rows(spec.layer_statistics, signature.params, model.stacked_params)
    return signature._replace(layers=layers)
