"""The JAX program: init, steps, and a state's way in and out, for one mesh.

Compiles and calls; what a step computes stands in `step`, where things lie in `placement`. It
decides nothing about a run: no cadence, no file, no event.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aetheria.engine.interfaces import ArraySpec, DeviceMemory, GuardCounters, HostReport
from aetheria.hardware.jax.compiler import TraceCounter, begin_to_compile, jit_for
from aetheria.hardware.jax.cpu.memory import give_back_freed_memory
from aetheria.hardware.jax.export import make_export
from aetheria.hardware.jax.guard import unfreeze
from aetheria.hardware.jax.operations import Operations, count_operations
from aetheria.hardware.jax.placement import Placement, place_state
from aetheria.hardware.jax.run_ahead import RunAhead
from aetheria.hardware.jax.step import make_eval_step, make_train_step, make_train_steps
from aetheria.hardware.jax.steps_per_call import choose_steps_per_call
from aetheria.hardware.jax.transfers import (
    all_transfers,
    no_implicit_transfers,
    reads_from_device,
    sends_to_device,
)
from aetheria.hardware.jax.utilization import device_memory, device_peak_flops
from aetheria.hardware.layout.adapt import adapt_state
from aetheria.hardware.layout.leaves import check_leaves, export_leaves, import_leaves, leaf_paths
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import (
    make_adder,
    means,
    no_rows,
    pack_values,
    rows_by_name,
)
from aetheria.hardware.layout.signature import make_signature
from aetheria.hardware.layout.state import (
    StepOutput,
    Sums,
    TrainState,
    init_options,
    is_pretrained,
    make_first_state,
    make_init,
)
from aetheria.hardware.layout.trees import Columns, Leaves
from aetheria.model.model import Model
from aetheria.model.precision import Precision
from aetheria.model.tallies import finished


class JaxProgram:
    """One model compiled for one mesh: parameters split as the model's rules say, micro-batches
    over `data` and `fsdp`.

    Attributes:
        optimizer: the model's.
        mesh_shape: axis name -> number of devices.
        train_rows: the names of the rows of a train report.
        layers: which of them are of layers; None: there are none.
        no_rows: the rows of a report of no step.
    """

    def __init__(self, model: Model, spec: ProgramSpec, mesh: Mesh):
        self._seed, self._mesh, self.mesh_shape = spec.seed, mesh, mesh.shape
        self._model, self._own_peak_flops = model, spec.peak_flops
        self._precision = precision = Precision.parse(spec.mixed_precision)
        self._signature = signature = make_signature(model, spec)
        self.optimizer, self._abstract = signature.optimizer, signature.state
        self._placement = at = Placement(
            mesh, place_state(model.partition_rules(), signature.state, mesh)
        )
        self._example_global_batch, self._chunk_size = spec.example_global_batch, spec.chunk_size
        self._example = {name: column[0] for name, column in spec.example_global_batch.items()}
        self._traces = TraceCounter("train_step", "eval_step")
        platform = mesh.devices.flat[0].platform
        jit = jit_for(platform, deterministic=spec.deterministic)
        self._init = jit(
            make_init(model, self.optimizer, precision),
            compiler_options=init_options(platform),
            out_shardings=at.state,
        )
        self._first_state = jit(
            make_first_state(model, self.optimizer, precision), out_shardings=at.state
        )
        self._step = jax.jit(
            make_train_step(
                model,
                self.optimizer,
                precision,
                spec.max_consecutive_skips,
                layers=signature.layers,
                branches=platform == "cpu",
            )
        )
        self._train_steps = jit(
            make_train_steps(self._step, make_adder(signature.train_rows)),
            around=self._traces.around("train_step", mesh),
            donate_argnums=0,
            in_shardings=(at.state, at.chunk, at.whole, at.whole, at.whole),
            out_shardings=(at.state, at.whole),
        )
        self._eval_step = jit(
            make_eval_step(model, precision),
            around=self._traces.around("eval_step", mesh),
            donate_argnums=2,
            in_shardings=(at.state, at.batch, at.whole),
            out_shardings=at.whole,
        )
        self._zeros = jax.jit(
            lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), signature.eval_sums),
            out_shardings=at.whole,
        )
        self._unfreeze = jax.jit(unfreeze, donate_argnums=0, out_shardings=at.whole)
        self.train_rows, self.layers = signature.train_rows, signature.layers
        self.no_rows = no_rows(self.train_rows, wide=precision.is_wide)
        # Placed as the step returns them: rows from the host would be another set of shapes to it.
        self._place_rows = jax.jit(lambda rows: rows, out_shardings=at.whole)
        self._ahead = RunAhead()
        self._export = make_export(at.state)
        self._wait_for_train_steps: Callable[[], None] | None = None

    @functools.cached_property
    def _rows_of_no_step(self) -> jax.Array:
        return self._place_rows(self.no_rows)

    @property
    def steps_per_call(self) -> int:
        """How many steps to offer in one call; a function of the model and the data's shapes."""
        return choose_steps_per_call(self._mesh, lambda: self._step_operations)

    @functools.cached_property
    def _step_operations(self) -> Operations:
        at = self._placement.global_batch
        global_batch = {
            name: jax.ShapeDtypeStruct(column.shape, column.dtype, sharding=at)
            for name, column in self._example_global_batch.items()
        }
        # On the mesh, as the train steps are traced, so that both share one trace.
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            return count_operations(self._step.trace(self.abstract_state, global_batch).jaxpr)

    @functools.cached_property
    def peak_flops(self) -> float | None:
        """Operations a second of one device; None: not known."""
        device = self._mesh.devices.flat[0]
        return device_peak_flops(device, self._precision, self._own_peak_flops)

    def mfu(self, steps_per_second: float) -> float | None:
        """The share of the peak of all devices; counts the traced step once the peak is known."""
        if self.peak_flops is None:
            return None
        return self._step_operations.utilization(
            steps_per_second, self.peak_flops * self._mesh.devices.size
        )

    def memory(self) -> DeviceMemory | None:
        """Of the fullest device of this process."""
        return device_memory(self._mesh.local_devices)

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """The names that an evaluation reports, known before anything is compiled."""
        return self._signature.eval_metrics

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return self._signature.state_bytes

    @property
    def params(self) -> dict[str, ArraySpec]:
        """The path of every parameter -> its shape and dtype."""
        return self._signature.params

    @property
    def num_compilations(self) -> dict[str, int]:
        """How many times each step was compiled: 1, or a shape is not constant."""
        return dict(self._traces.counts)

    @property
    def abstract_state(self) -> TrainState:
        """The state's shapes, dtypes and shardings, without values."""
        return self._placement.abstract(self._abstract)

    @property
    def abstract_global_batch(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The columns of a chunk of one global batch, likewise."""
        return {
            name: jax.ShapeDtypeStruct(
                (1, *column.shape), column.dtype, sharding=self._placement.chunk
            )
            for name, column in self._example_global_batch.items()
        }

    def trace_train_step(self) -> jax.stages.Traced:
        """Traces `train_steps` on a chunk of one global batch, to be looked at; nothing runs."""
        chunk = self.abstract_global_batch
        return self._train_steps.trace(self._abstract, chunk, 0, 1, self.no_rows)

    def loop_context(self) -> AbstractContextManager[None]:
        """Makes every transfer that this program does not ask for an error, in a training loop."""
        return no_implicit_transfers()

    def init(self) -> TrainState:
        """Makes the state of step 0 from the run's seed, already placed."""
        with all_transfers():
            key = jax.random.key(self._seed)
            if is_pretrained(self._model):
                from aetheria.hardware.layout.pretrained import pretrained_weights

                weights = pretrained_weights(self._model, key, self._example)
                self._begin_train_steps()
                return self._first_state(key, *weights)
            wait = begin_to_compile(self._init.lower(key, self._example))
            self._begin_train_steps()
            wait()
            return self._init(key, self._example)

    def _begin_train_steps(self) -> None:
        """Compiles them in the background; of several processes, all have to compile in one order,
        so that each does it where it needs them.
        """
        is_traced = self._traces.counts["train_step"] > 0  # before a rollback
        if self._mesh.is_multi_process or self._chunk_size is None or is_traced:
            return
        size = self._chunk_size(self.steps_per_call)
        chunk = {
            name: jax.ShapeDtypeStruct((size, *column.shape), column.dtype)
            for name, column in self._example_global_batch.items()
        }
        rows = self._rows_of_no_step
        lowered = self._train_steps.lower(self.abstract_state, chunk, 0, 1, rows)
        self._wait_for_train_steps = begin_to_compile(lowered)

    def train_steps(
        self,
        state: TrainState,
        arrays: Columns,
        start: int,
        count: int,
        since: StepOutput | None = None,
    ) -> tuple[TrainState, StepOutput]:
        """Takes `count` steps in one call, on the chunk's global batches from `start` on; the state
        is donated, the report to add to is not.
        """
        if self._wait_for_train_steps is not None:
            self._wait_for_train_steps()
            self._wait_for_train_steps = None
            give_back_freed_memory()
        with sends_to_device():
            rows = self._rows_of_no_step if since is None else since.values
            chunk = arrays
            if self._mesh.is_multi_process:
                chunk = self._placement.join(arrays, self._placement.chunk, self._slice_size)
            state, report = self._train_steps(state, chunk, start, count, rows)
        self._ahead.follow(report)
        return state, report

    def eval_step(self, state: TrainState, batch: Columns, totals: Sums | None = None) -> Sums:
        """Adds a batch [slice_size, ...] to the totals, which are donated."""
        with sends_to_device():
            totals = self.no_totals() if totals is None else totals
            joined = batch
            if self._mesh.is_multi_process:
                joined = self._placement.join(batch, self._placement.batch, self._slice_size)
            return self._eval_step(state, joined, totals)

    @property
    def _slice_size(self) -> int:
        return len(self._example["mask"])

    def no_totals(self) -> Sums:
        """Makes the totals of no batch."""
        return self._zeros()

    def fetch(self, report: StepOutput | Sums) -> HostReport:
        """Waits for the device and turns sums into weighted means."""
        if isinstance(report, Sums):
            with all_transfers():
                fetched = pack_values(report), report.num_examples, report.tallies
                values, num_examples, tallies = jax.device_get(fetched)
            metrics = means(self._signature.eval_rows, values) | finished(tallies)
            return HostReport(metrics, int(num_examples), None)
        with reads_from_device():
            # np.asarray, not jax.device_get: a tenth of the time for two small arrays.
            values, counters = np.asarray(report.values), np.asarray(report.counters)
        return self._signature.host_report(values, GuardCounters.of(counters.tolist()))

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> StepOutput:
        """Makes a report to add to from the sums of one that was fetched."""
        rows = rows_by_name(self._signature.train_rows, sums, self.no_rows)
        with all_transfers():
            return StepOutput(self._place_rows(rows), jnp.zeros(()))

    def export_state(self, state: TrainState) -> Leaves:
        """Copies the state on the device: path -> array, keys as uint32 data. Does not wait, unless
        the state is split over several processes: then it is gathered in process 0's memory.
        """
        with all_transfers():
            return self._export(state)

    def import_state(self, arrays: Leaves) -> TrainState:
        """Places host arrays as a state.

        Raises:
            SnapshotError: a leaf is missing, unknown, or of another shape or dtype; named.
        """
        self.check_state(arrays)
        # The jitted copy makes buffers of our own: a placed NumPy array may alias host memory,
        # and the first step donates it.
        place = jax.jit(
            lambda leaves: import_leaves(leaves, self._abstract),
            out_shardings=self._placement.state,
        )
        with all_transfers():
            self._begin_train_steps()
            return place([np.asarray(arrays[path]) for path in leaf_paths(self._abstract)])

    def unfreeze(self, state: TrainState, ignore_until_step: int) -> TrainState:
        """Unfreezes a state; its counters are donated."""
        with all_transfers():
            return state._replace(counters=self._unfreeze(state.counters, ignore_until_step))

    def check_state(self, arrays: Leaves) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        check_leaves(arrays, jax.eval_shape(export_leaves, self._abstract), "snapshot")

    def adapt_state(self, arrays: Leaves) -> Leaves:
        """Casts a state of another precision policy to what this program's policy keeps."""
        return adapt_state(arrays, jax.eval_shape(export_leaves, self._abstract), self._precision)
