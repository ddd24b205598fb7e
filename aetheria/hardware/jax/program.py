"""The JAX program: init, steps, and the state's way in and out, for one mesh."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aetheria.engine.interfaces import GuardCounters, HostReport
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.guard import unfreeze
from aetheria.hardware.jax.run_ahead import RunAhead
from aetheria.hardware.jax.shards import make_export
from aetheria.hardware.jax.state import place_state
from aetheria.hardware.jax.step import make_eval_step, make_train_step, make_train_steps
from aetheria.hardware.layout.adapt import adapt_state
from aetheria.hardware.layout.leaves import check_leaves, export_leaves, import_leaves, leaf_paths
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import (
    make_adder,
    means,
    no_rows,
    pack_values,
    rows_by_name,
    sums_by_name,
)
from aetheria.hardware.layout.signature import make_signature
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState, make_init
from aetheria.model.model import Model
from aetheria.model.precision import Precision
from aetheria.model.sharding import BATCH_AXES

# Three steps of the small Transformer make a call, or five of SimpleCNN: a fifth of a second of two
# fast cores, two seconds of a slow one. That is long against a dispatch (0.4 ms, the caches cold),
# and short against a scheduler's patience with a signal, which is heard between calls.
_MAX_STEPS_PER_CALL = 32
_MAX_FLOPS_PER_CALL = 4e10


class JaxProgram:
    """One model compiled over one mesh: parameters split as the model's rules say, micro-batches
    over `data` and `fsdp`.

    Attributes:
        optimizer: the model's.
        no_rows: those of a report of no step.
    """

    def __init__(self, model: Model, spec: ProgramSpec, mesh: Mesh):
        self._seed = spec.seed
        self._mesh = mesh
        self._precision = precision = Precision.parse(spec.mixed_precision)
        example = {name: column[0] for name, column in spec.example_global_batch.items()}
        self._signature = signature = make_signature(model, spec)
        self.optimizer = optimizer = signature.optimizer
        init = make_init(model, optimizer, precision)
        self._abstract, eval_sums = signature.state, signature.eval_sums
        self._num_compilations = {"train_step": 0, "eval_step": 0}

        whole = NamedSharding(mesh, PartitionSpec())
        chunk = NamedSharding(mesh, PartitionSpec(None, None, BATCH_AXES))
        batch = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        placed = place_state(model.partition_rules(), self._abstract, mesh)
        self._placed, self._chunk, self._batch = placed, chunk, batch
        self._example = example
        self._one_global_batch = {
            name: jax.ShapeDtypeStruct((1, *column.shape), column.dtype, sharding=chunk)
            for name, column in spec.example_global_batch.items()
        }
        jit = jit_for(mesh.devices.flat[0].platform)
        self._init = jit(init, out_shardings=placed)
        num_micro = len(spec.example_global_batch["mask"])  # a loop, whose body is counted once
        step = jax.jit(make_train_step(model, optimizer, precision, spec.max_consecutive_skips))
        rows = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
        global_batch = {
            name: jax.ShapeDtypeStruct(column.shape, column.dtype, sharding=rows)
            for name, column in spec.example_global_batch.items()
        }

        # On the mesh, as the train steps are traced, so that both share one trace.
        def step_flops() -> float:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return num_micro * _flops(step.lower(self.abstract_state, global_batch))

        self._step_flops = step_flops
        self._train_steps = jit(
            self._counted("train_step", make_train_steps(step, make_adder(signature.train_rows))),
            donate_argnums=0,
            in_shardings=(placed, chunk, whole, whole, whole),
            out_shardings=(placed, whole),
        )
        self._eval_step = jit(
            self._counted("eval_step", make_eval_step(model, precision)),
            donate_argnums=2,
            in_shardings=(placed, batch, whole),
            out_shardings=whole,
        )
        self._zeros = jax.jit(
            lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), eval_sums),
            out_shardings=whole,
        )
        self._unfreeze = jax.jit(unfreeze, donate_argnums=0, out_shardings=whole)
        self.no_rows = no_rows(signature.train_rows, wide=precision.is_wide)
        # As the step gives them back: rows from the host would be another set of shapes to it.
        self._place_rows = jax.jit(lambda rows: rows, out_shardings=whole)
        self._ahead = RunAhead()
        self._export = make_export(placed)

    @property
    def steps_per_call(self) -> int:
        """How many steps to offer in one call; a function of the model and the window's shapes."""
        return _steps_per_call(self._mesh, self._step_flops)

    @property
    def train_rows(self) -> tuple[str, ...]:
        """What the rows of a training report are called."""
        return self._signature.train_rows

    @functools.cached_property
    def _rows_of_no_step(self) -> jax.Array:
        return self._place_rows(self.no_rows)

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """What an evaluation reports, known before anything is compiled."""
        return self._signature.eval_metrics

    @property
    def num_compilations(self) -> dict[str, int]:
        """How many times each step was compiled: 1, or a shape is not constant."""
        return dict(self._num_compilations)

    @property
    def mesh_shape(self) -> Mapping[str, int]:
        """Axis name -> number of devices."""
        return self._mesh.shape

    @property
    def abstract_state(self) -> TrainState:
        """The state's shapes, dtypes and shardings, without a value."""
        as_placed = lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place)
        return jax.tree.map(as_placed, self._abstract, self._placed)

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return self._signature.state_bytes

    @property
    def abstract_global_batch(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The columns of a chunk of one window, likewise."""
        return self._one_global_batch

    def trace_train_step(self) -> jax.stages.Traced:
        """Traces `train_steps` on a chunk of one window, to be looked at; nothing runs."""
        return self._train_steps.trace(self._abstract, self._one_global_batch, 0, 1, self.no_rows)

    def init(self) -> TrainState:
        """Makes the state of step 0 from the run's seed, already placed."""
        return self._init(jax.random.key(self._seed), self._example)

    def train_steps(
        self,
        state: TrainState,
        arrays: Mapping[str, Any],
        start: int,
        count: int,
        since: StepOutput | None = None,
    ) -> tuple[TrainState, StepOutput]:
        """Takes `count` steps in one call, on the chunk's windows from `start` on; the state is
        donated, the report to add to is not.
        """
        rows = self._rows_of_no_step if since is None else since.values
        chunk = self._joined(arrays, self._chunk)
        state, report = self._train_steps(state, chunk, start, count, rows)
        self._ahead.follow(report)
        return state, report

    def eval_step(
        self, state: TrainState, batch: Mapping[str, Any], totals: Sums | None = None
    ) -> Sums:
        """Adds a batch [micro_batch, ...] to the totals, which are donated."""
        totals = self.no_totals() if totals is None else totals
        return self._eval_step(state, self._joined(batch, self._batch), totals)

    def no_totals(self) -> Sums:
        """Totals of no batch."""
        return self._zeros()

    def fetch(self, report: StepOutput | Sums) -> HostReport:
        """Waits for the device and turns sums into weighted means."""
        if isinstance(report, Sums):
            values, num_examples = jax.device_get((pack_values(report), report.num_examples))
            return HostReport(means(self._signature.eval_rows, values), int(num_examples), None)
        # np.asarray, not jax.device_get: a tenth of the time for two small arrays.
        values, counters = np.asarray(report.values), np.asarray(report.counters)
        guard, names = GuardCounters.of(counters.tolist()), self._signature.train_rows
        return HostReport(means(names, values), None, guard, sums_by_name(names, values))

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> StepOutput:
        """A report to add to, of the sums that were fetched from one."""
        rows = rows_by_name(self._signature.train_rows, sums, self.no_rows)
        return StepOutput(self._place_rows(rows), jnp.zeros(()))

    def export_state(self, state: TrainState) -> dict[str, jax.Array]:
        """Copies the state on the device: path -> array, keys as uint32 data. Without waiting,
        unless it is split over several processes: then it is gathered in the memory of process 0.
        """
        return self._export(state)

    def import_state(self, arrays: Mapping[str, Any]) -> TrainState:
        """Places host arrays as a state.

        Raises:
            SnapshotError: a leaf is missing, unknown, or of another shape or dtype; named.
        """
        self.check_state(arrays)
        # The jitted copy gives buffers of our own: a placed NumPy array may alias host memory,
        # and the first step donates it.
        place = jax.jit(
            lambda leaves: import_leaves(leaves, self._abstract), out_shardings=self._placed
        )
        return place([np.asarray(arrays[path]) for path in leaf_paths(self._abstract)])

    def unfreeze(self, state: TrainState, ignore_until_step: int) -> TrainState:
        """Lets a state that holds go on; its counters are donated."""
        return state._replace(counters=self._unfreeze(state.counters, ignore_until_step))

    def check_state(self, arrays: Mapping[str, Any]) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        check_leaves(arrays, jax.eval_shape(export_leaves, self._abstract), "snapshot")

    def _joined(self, arrays: Mapping[str, Any], sharding: NamedSharding) -> Mapping[str, Any]:
        """Of several processes, each gives its own rows; together they are one array."""
        if not self._mesh.is_multi_process:
            return arrays
        rows = len(sharding.spec) - 1  # the dim that is split over the batch axes, the last named
        whole = len(self._example["mask"])
        return {
            name: jax.make_array_from_process_local_data(
                sharding, column, (*column.shape[:rows], whole, *column.shape[rows + 1 :])
            )
            for name, column in arrays.items()
        }

    def adapt_state(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """A state of another precision policy as this program's policy keeps it."""
        return adapt_state(arrays, jax.eval_shape(export_leaves, self._abstract), self._precision)

    def _counted(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def on_mesh(*args: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                return step(*args)

        return count_traces(self._num_compilations, name, on_mesh)


def count_traces(counts: dict[str, int], name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    """Counts in `counts[name]` how often a function is traced: once for each set of shapes."""

    # Not the size of jit's cache, which counts more: on jax 0.10 a key's two spellings of one
    # sharding have an entry each.
    @functools.wraps(step)
    def traced(*args: Any) -> Any:
        counts[name] += 1
        return step(*args)

    return traced


def _steps_per_call(mesh: Mesh, step_flops: Callable[[], float]) -> int:
    """Several where a step is small, so that its dispatch counts; one elsewhere.

    The bound is in operations, not in measured time: how a run is cut decides which program is
    compiled, and must be the same wherever it runs. Accelerators take one at a time, since there
    each turn of a loop of unknown length waits for the host.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return 1
    return max(1, min(_MAX_STEPS_PER_CALL, int(_MAX_FLOPS_PER_CALL / max(step_flops(), 1.0))))


def _flops(lowered: jax.stages.Lowered) -> float:
    """Operations of a computation, the body of a loop counted once; unknown ones as none."""
    cost = lowered.cost_analysis()
    return cost.get("flops", 0.0) if isinstance(cost, dict) else 0.0
