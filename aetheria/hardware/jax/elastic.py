"""The elastic program: the same bits on 1, 2, 4, 8, … devices.

Everything that multiplies is compiled for one device and run on each: the gradient of a lane, and
the update. What crosses devices is only added, in one fixed tree, or only moved, where a state is
kept in parts. One program compiled for the whole mesh would not do: XLA simplifies it differently
for one partition than for several. This module knows no formula of a step; those stand in `lanes`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, SingleDeviceSharding

from aetheria.engine.interfaces import ArraySpec, DeviceMemory, HostReport, Mismatch
from aetheria.hardware.jax.compiler import TraceCounter, jit_for
from aetheria.hardware.jax.each_device import EachDevice
from aetheria.hardware.jax.export import make_export
from aetheria.hardware.jax.guard import unfreeze
from aetheria.hardware.jax.lane_sum import DeviceSum
from aetheria.hardware.jax.lanes import add_lanes, make_lane_gradient, make_lane_update, tree_sum
from aetheria.hardware.jax.mesh import Device, make_mesh
from aetheria.hardware.jax.operations import Operations, count_operations
from aetheria.hardware.jax.placement import place_state
from aetheria.hardware.jax.program import JaxProgram
from aetheria.hardware.jax.run_ahead import RunAhead
from aetheria.hardware.jax.shards import Shards, wait_on_cpu
from aetheria.hardware.jax.spot_check import CheckedStep, SpotCheck
from aetheria.hardware.jax.state import LaneSums, LaneTotals, Replicas
from aetheria.hardware.jax.step import make_eval_step
from aetheria.hardware.jax.transfers import all_transfers, no_implicit_transfers, sends_to_device
from aetheria.hardware.jax.utilization import device_memory
from aetheria.hardware.layout.contents import check_mergeable
from aetheria.hardware.layout.counters import FROZEN
from aetheria.hardware.layout.evaluation import evaluated
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import make_adder, rows_by_name
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState
from aetheria.hardware.layout.trees import Columns, Leaves
from aetheria.model.model import Model
from aetheria.model.precision import Precision


class ElasticProgram:
    """One model on several devices, each with its share of the lanes, and of a split state.

    Lanes are the leading dim of a global batch, so that accumulation and data parallelism are one
    thing: lanes placed in time or in space. Evaluation batches go to the lanes in turn. Each of
    several processes is given the data of its own devices' lanes.

    Args:
        model: the model.
        spec: what to compile for; the example global batch leads with [num_lanes, slice_size].
        mesh: a power of two of devices on `data` and `fsdp`, at most one for each lane; those of a
            process follow each other.
    """

    def __init__(self, model: Model, spec: ProgramSpec, mesh: Mesh):
        devices = list(mesh.devices.flat)
        self._devices = mine = [d for d in devices if d.process_index == jax.process_index()]
        # It makes and reads states. Its train steps are not taken: nothing is to be compiled ahead.
        no_steps = replace(spec, chunk_size=None)
        self._first = first = JaxProgram(model, no_steps, make_mesh({}, mine))
        check_mergeable(model, first.abstract_state.model_state)
        placed = place_state(model.partition_rules(), first.abstract_state, mesh)
        self._shards = Shards(first.abstract_state, placed, mine)
        self._export_parts = make_export(placed)
        self._num_devices, self._num_lanes = len(devices), len(spec.example_global_batch["mask"])
        self._share = self._num_lanes // len(devices)
        self._first_lane = devices.index(mine[0]) * self._share
        self._traces = TraceCounter(*first.num_compilations)
        precision, platform = Precision.parse(spec.mixed_precision), mine[0].platform
        jit = jit_for(platform)
        gradient = jit(
            make_lane_gradient(model, precision), around=self._traces.around("train_step")
        )
        self._lane_gradient = EachDevice(gradient, mine)
        # Functions of their own, as EachDevice needs them.
        add_lanes_of, add_totals_of = (lambda a, b: add_lanes(a, b) for _ in range(2))
        self._add_lanes = EachDevice(jax.jit(add_lanes_of, donate_argnums=0), mine)
        self._add_totals = EachDevice(jax.jit(add_totals_of, donate_argnums=0), mine)
        self._over_devices = DeviceSum(devices, mine)
        add = make_adder(first.train_rows)
        max_skips = spec.max_consecutive_skips
        update = make_lane_update(
            first.optimizer, max_skips, add, layers=first.layers, branches=platform == "cpu"
        )
        self._update = EachDevice(jit(update, donate_argnums=0), mine)
        # The report is the first device's; the others add to nothing.
        self._no_rows = [jax.device_put(first.no_rows, device) for device in mine]
        self._unfreeze = jax.jit(unfreeze, donate_argnums=0)
        evaluate = jit(
            make_eval_step(model, precision),
            around=self._traces.around("eval_step"),
            donate_argnums=2,
        )
        self._lane_eval = EachDevice(evaluate, mine)
        self._continue = jax.jit(lambda c: c.at[FROZEN].set(0), donate_argnums=0)
        self._ahead = RunAhead()
        self._check = self._make_check(spec, placed, devices) if spec.spot_checks else None

    def _make_check(
        self, spec: ProgramSpec, placed: TrainState, devices: Sequence[Device]
    ) -> SpotCheck:
        num_params = len(jax.tree.leaves(placed.params))
        # Parameters are whole when they are looked at; of the optimizer's state some may be split.
        shared = [
            place
            for place, sharding in enumerate(jax.tree.leaves(placed))
            if place < num_params or sharding.is_fully_replicated
        ]
        return SpotCheck(
            devices,
            self._devices,
            lane_gradient=self._lane_sums,
            num_lanes=self._num_lanes,
            seed=spec.seed,
            shared=shared,
        )

    @property
    def steps_per_call(self) -> int:
        """One: a step is several dispatches already."""
        return 1

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The model's."""
        return self._first.optimizer

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """The names that an evaluation reports, known before anything is compiled."""
        return self._first.eval_metrics

    def mfu(self, steps_per_second: float) -> float | None:
        """The share of the peak of all devices, of the gradients of all lanes."""
        peak, lane = self._first.peak_flops, self._lane_operations
        if peak is None or lane is None:
            return None
        return lane.utilization(steps_per_second * self._num_lanes, peak * self._num_devices)

    @cached_property
    def _lane_operations(self) -> Operations | None:
        traced = self._lane_gradient.traced
        return None if traced is None else count_operations(traced.jaxpr)

    def memory(self) -> DeviceMemory | None:
        """Of the fullest device of this process."""
        return device_memory(self._devices)

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return self._first.state_bytes

    @property
    def params(self) -> dict[str, ArraySpec]:
        """The path of every parameter -> its shape and dtype."""
        return self._first.params

    @property
    def num_compilations(self) -> dict[str, int]:
        """How many times each step was traced: 1, or a shape is not constant."""
        return dict(self._traces.counts)

    def loop_context(self) -> AbstractContextManager[None]:
        """Makes every transfer that this program does not ask for an error, in a training loop."""
        return no_implicit_transfers()

    def init(self) -> Replicas:
        """Makes the state of step 0 on the first device, and gives the others theirs."""
        with all_transfers():
            return self._shards.spread(self._first.init())

    def train_steps(
        self,
        state: Replicas,
        arrays: Columns,
        start: int,
        count: int,
        since: StepOutput | None = None,
    ) -> tuple[Replicas, StepOutput]:
        """Takes `count` steps; every replica is donated."""
        report = since
        with sends_to_device():
            for index in range(start, start + count):
                global_batch = {name: column[index] for name, column in arrays.items()}
                state, report = self._train_step(state, global_batch, report)
                self._ahead.follow(report)
        assert report is not None, "at least one step"
        return state, report

    def checked_step(
        self,
        state: Replicas,
        arrays: Columns,
        start: int,
        since: StepOutput | None,
        step: int,
    ) -> tuple[Replicas, StepOutput]:
        """Takes one step if the devices agree, else freezes every replica before it; each is
        donated.
        """
        assert self._check is not None, "the spec asked for checks"
        global_batch = {name: column[start] for name, column in arrays.items()}
        with sends_to_device():
            check = self._check.at(step)
            state, report = self._train_step(state, global_batch, since, check)
        self._ahead.follow(report)
        return state, report

    def examine(self, state: Replicas, arrays: Columns, start: int, step: int) -> Mismatch:
        """Finds which device was wrong at the check at which the state froze."""
        assert self._check is not None, "there was a check"
        with all_transfers():
            whole = self._shards.gather(state, "params", free=False)
            global_batch = {name: column[start] for name, column in arrays.items()}
            return self._check.examine(step, whole, global_batch)

    def continue_frozen(self, state: Replicas) -> Replicas:
        """Lets a state go on that froze at a check, on every device."""
        with all_transfers():
            return [each._replace(counters=self._continue(each.counters)) for each in state]

    def _train_step(
        self,
        state: Replicas,
        global_batch: Columns,
        since: StepOutput | None,
        check: CheckedStep | None = None,
    ) -> tuple[Replicas, StepOutput]:
        """Gradients with whole parameters, their sum, then the update with a whole state.

        Args:
            state: donated.
            global_batch: this process's lanes of it.
            since: the report of the steps before.
            check: of this step; None: the devices do not check each other.
        """
        whole = self._shards.gather(state, "params", free=True)
        parts = []
        for place, replica in enumerate(whole):
            gradients = self._gradients(_without_optimizer(replica), global_batch, place)
            if check is not None:
                gradients = check.watch(place, gradients)
            parts.append(tree_sum(gradients, partial(self._add_lanes, place)))
        if check is not None:
            whole = check.mark(whole, global_batch)
        totals = self._over_devices(parts)
        if self._shards.is_split:
            wait_on_cpu(totals)
        whole = self._shards.gather(whole, "opt_state", free=True)
        rows = [*self._no_rows]
        rows[0] = rows[0] if since is None else since.values
        each_device = enumerate(zip(whole, totals, rows, strict=True))
        stepped = [self._update(place, *each) for place, each in each_device]
        return self._shards.part([new for new, _ in stepped]), stepped[0][1]

    def _gradients(
        self, replica: TrainState, global_batch: Columns, place: int
    ) -> Iterator[LaneSums]:
        """Dispatches the gradients of one device's lanes, one after the other."""
        for row in range(place * self._share, (place + 1) * self._share):
            batch = {name: column[row] for name, column in global_batch.items()}
            lane = np.int32(self._first_lane + row)
            yield self._lane_gradient(place, replica, lane, batch, variant=_shapes(batch))

    def _lane_sums(
        self, place: int, replica: TrainState, lane: np.int32, batch: Columns
    ) -> LaneSums:
        """The lane again, for a check, of a whole state."""
        seen = _without_optimizer(replica)
        return self._lane_gradient(place, seen, lane, batch, variant=_shapes(batch))

    def eval_step(
        self, state: Replicas, batch: Columns, totals: LaneTotals | None = None
    ) -> LaneTotals:
        """Adds a batch [slice_size, ...] to the totals of the lane whose turn it is. An evaluation
        is of one state, whose parameters are gathered at the first batch.
        """
        with sends_to_device():
            totals = self._no_totals(state) if totals is None else totals
            lanes = list(totals.lanes)
            turn = totals.num_batches % len(lanes)
            place = turn // self._share
            replica = _without_optimizer(totals.replicas[place])
            lanes[turn] = self._lane_eval(
                place, replica, batch, lanes[turn], variant=_shapes(batch)
            )
            return LaneTotals(totals.num_batches + 1, tuple(lanes), totals.replicas)

    def _no_totals(self, state: Replicas) -> LaneTotals:
        zeros = [
            jax.device_put(self._first.no_totals(), SingleDeviceSharding(device))
            for device in self._devices
            for _ in range(self._share)
        ]
        shown = [evaluated(replica) for replica in state]
        whole = self._shards.gather(shown, "params", free=False)
        return LaneTotals(0, tuple(zeros), whole)

    def fetch(self, report: StepOutput | LaneTotals) -> HostReport:
        """Waits for the device and turns sums into weighted means."""
        if isinstance(report, StepOutput):
            return self._first.fetch(report)
        with all_transfers():
            return self._first.fetch(self._sum(report.lanes))

    def _sum(self, lanes: Sequence[Sums]) -> Sums:
        """Adds the totals of all lanes, those of other processes too."""
        as_lane = [LaneSums((), jax.tree.map(lambda a: a[None], sums), ()) for sums in lanes]
        parts = [as_lane[i : i + self._share] for i in range(0, len(lanes), self._share)]
        sums = [
            tree_sum(part, partial(self._add_totals, place)) for place, part in enumerate(parts)
        ]
        total, *_ = self._over_devices(sums)
        return jax.tree.map(lambda a: a[0], total.sums)

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> StepOutput:
        """Makes a report to add to from the sums of one that was fetched."""
        rows = rows_by_name(self._first.train_rows, sums, self._first.no_rows)
        with all_transfers():
            return StepOutput(jax.device_put(rows, self._devices[0]), jnp.zeros(()))

    def export_state(self, state: Replicas) -> Leaves:
        """Copies the state, split as it is: path -> array. Does not wait, unless it is split over
        several processes: then it is gathered in process 0's memory.
        """
        if not self._shards.is_split:
            return self._first.export_state(state[0])
        with all_transfers():
            return self._export_parts(self._shards.join(state))

    def import_state(self, arrays: Leaves) -> Replicas:
        """Places host arrays as a state: whole on the first device, which gives the others theirs.

        Raises:
            SnapshotError: a leaf is missing, unknown, or of another shape or dtype; named.
        """
        with all_transfers():
            return self._shards.spread(self._first.import_state(arrays))

    def unfreeze(self, state: Replicas, ignore_until_step: int) -> Replicas:
        """Unfreezes a state, on every device."""
        with all_transfers():
            return [
                replica._replace(counters=self._unfreeze(replica.counters, ignore_until_step))
                for replica in state
            ]

    def check_state(self, arrays: Leaves) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        self._first.check_state(arrays)

    def adapt_state(self, arrays: Leaves) -> Leaves:
        """Casts a state of another precision policy to what this program's policy keeps."""
        return self._first.adapt_state(arrays)


def _shapes(batch: Columns) -> tuple[tuple[int, ...], ...]:
    """What differs between batches of padded columns that are cut to different lengths."""
    return tuple(column.shape for column in batch.values())


def _without_optimizer(state: TrainState) -> TrainState:
    """What a lane reads: its program knows no optimizer state, neither whole nor in parts."""
    return state._replace(opt_state=())
