"""The elastic program: the same bits on 1, 2, 4, 8, … devices.

Everything that multiplies is compiled for one device and run on each: the gradient of a lane,
and the update. What crosses devices is added only, in one fixed tree, or moved only, where a state
is kept in parts. A program compiled for the mesh as a whole would not do: XLA simplifies it
otherwise for one partition than for several.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from aetheria.engine.interfaces import HostReport
from aetheria.hardware.jax.compiler import jit_for
from aetheria.hardware.jax.guard import unfreeze
from aetheria.hardware.jax.lanes import (
    LaneSums,
    add_lanes,
    make_lane_gradient,
    make_lane_update,
    tree_sum,
)
from aetheria.hardware.jax.mesh import make_mesh
from aetheria.hardware.jax.program import JaxProgram, count_traces
from aetheria.hardware.jax.run_ahead import RunAhead
from aetheria.hardware.jax.shards import Replicas, Shards, make_export, on_each_device, wait_on_cpu
from aetheria.hardware.jax.state import place_state
from aetheria.hardware.jax.step import make_eval_step
from aetheria.hardware.layout.contents import check_mergeable
from aetheria.hardware.layout.evaluation import evaluated
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.layout.report_rows import make_adder, rows_by_name
from aetheria.hardware.layout.state import StepOutput, Sums, TrainState
from aetheria.model.model import Model
from aetheria.model.precision import Precision

_AXIS = "lanes"


class LaneTotals(NamedTuple):
    """Evaluation totals.

    Attributes:
        num_batches: how many batches were taken.
        lanes: the sums of each lane so far.
        replicas: the states that are evaluated, their parameters whole.
    """

    num_batches: int
    lanes: tuple[Sums, ...]
    replicas: Replicas


class ElasticProgram:
    """One model on several devices, each with its share of the lanes, and of a split state.

    Lanes are the leading dim of a window, so that accumulation and data parallelism are one thing:
    lanes placed in time or in space. Evaluation batches go to the lanes in turn. Of several
    processes, each is given the data of its own devices' lanes.

    Args:
        model: the model.
        spec: what to compile for; the example window leads with [num_lanes, lane_size].
        mesh: a power of two of devices on `data` and `fsdp`, at most one a lane; those of a process
            follow each other.
    """

    def __init__(self, model: Model, spec: ProgramSpec, mesh: Mesh):
        devices = list(mesh.devices.flat)
        mine = [d for d in devices if d.process_index == jax.process_index()]
        self._first = JaxProgram(model, spec, make_mesh({}, mine))
        abstract = self._first.abstract_state
        check_mergeable(model, abstract.model_state)
        placed = place_state(model.partition_rules(), abstract, mesh)
        self._shards = Shards(abstract, placed, mine)
        self._export_parts = make_export(placed)
        self._num_compilations = dict.fromkeys(self._first.num_compilations, 0)
        self._devices, self._num_devices = mine, len(devices)
        self._share = len(spec.example_global_batch["mask"]) // len(devices)
        self._first_lane = devices.index(mine[0]) * self._share
        self._mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        precision = Precision.parse(spec.mixed_precision)
        gradient = make_lane_gradient(model, precision)
        update = make_lane_update(self._first.optimizer, spec.max_consecutive_skips)
        evaluate = make_eval_step(model, precision)
        # A leading dim of 1: the parts of all devices, side by side, are an array over the mesh.
        lead = lambda *lane: jax.tree.map(lambda a: a[None], gradient(*lane))
        jit = jit_for(mine[0].platform)
        self._lane_gradient = jit(count_traces(self._num_compilations, "train_step", lead))
        add = make_adder(self._first.train_rows)

        def step(state: TrainState, total: LaneSums, rows: Any) -> tuple[TrainState, StepOutput]:
            state, report = update(state, jax.tree.map(lambda a: a[0], total))
            return state, StepOutput(add(rows, report.values), report.counters)

        self._update = jit(step, donate_argnums=0)
        # The report is the first device's; the others add to nothing.
        self._no_rows = [jax.device_put(self._first.no_rows, device) for device in mine]
        self._unfreeze = jax.jit(unfreeze, donate_argnums=0)
        self._lane_eval = jit(
            count_traces(self._num_compilations, "eval_step", evaluate), donate_argnums=2
        )
        self._add_lanes = jax.jit(add_lanes, donate_argnums=0)
        self._add_over_devices = self._butterfly()
        self._ahead = RunAhead()

    @property
    def steps_per_call(self) -> int:
        """One: a step is several dispatches already."""
        return 1

    @property
    def optimizer(self) -> Any:
        """The model's."""
        return self._first.optimizer

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """What an evaluation reports, known before anything is compiled."""
        return self._first.eval_metrics

    @property
    def state_bytes(self) -> int:
        """The bytes of a whole state, and so of a snapshot of it."""
        return self._first.state_bytes

    @property
    def num_compilations(self) -> dict[str, int]:
        """How many times each step was traced: 1, or a shape is not constant."""
        return dict(self._num_compilations)

    def init(self) -> Replicas:
        """Makes the state of step 0 on the first device, and gives the others theirs."""
        return self._shards.spread(self._first.init())

    def train_steps(
        self,
        state: Replicas,
        arrays: Mapping[str, Any],
        start: int,
        count: int,
        since: StepOutput | None = None,
    ) -> tuple[Replicas, StepOutput]:
        """Takes `count` steps; every replica is donated."""
        report = since
        for index in range(start, start + count):
            global_batch = {name: column[index] for name, column in arrays.items()}
            whole = self._shards.gather(state, "params", free=True)
            totals = self._over_devices(
                tree_sum(self._gradients(whole[place], global_batch, place), self._add_lanes)
                for place in range(len(self._devices))
            )
            if self._shards.is_split:
                wait_on_cpu(totals)
            whole = self._shards.gather(whole, "opt_state", free=True)
            rows = [*self._no_rows]
            rows[0] = rows[0] if report is None else report.values
            stepped = [self._update(*each) for each in zip(whole, totals, rows, strict=True)]
            state, report = self._shards.part([new for new, _ in stepped]), stepped[0][1]
            self._ahead.follow(report)
        assert report is not None, "at least one step"
        return state, report

    def eval_step(
        self, state: Replicas, batch: Mapping[str, Any], totals: LaneTotals | None = None
    ) -> LaneTotals:
        """Adds a batch [lane_size, ...] to the totals of the lane whose turn it is. An evaluation
        is of one state, whose parameters are gathered at the first batch.
        """
        totals = self._no_totals(state) if totals is None else totals
        lanes = list(totals.lanes)
        turn = totals.num_batches % len(lanes)
        replica = totals.replicas[turn // self._share]
        lanes[turn] = self._lane_eval(_without_optimizer(replica), batch, lanes[turn])
        return LaneTotals(totals.num_batches + 1, tuple(lanes), totals.replicas)

    def fetch(self, report: StepOutput | LaneTotals) -> HostReport:
        """Waits for the device and turns sums into weighted means."""
        return self._first.fetch(
            self._sum(report.lanes) if isinstance(report, LaneTotals) else report
        )

    def import_report(self, sums: Mapping[str, Sequence[float]]) -> StepOutput:
        """A report to add to, of the sums that were fetched from one."""
        rows = rows_by_name(self._first.train_rows, sums, self._first.no_rows)
        return StepOutput(jax.device_put(rows, self._devices[0]), jnp.zeros(()))

    def export_state(self, state: Replicas) -> dict[str, jax.Array]:
        """Copies the state, as split as it is: path -> array. Without waiting, unless it is split
        over several processes: then it is gathered in the memory of process 0.
        """
        if not self._shards.is_split:
            return self._first.export_state(state[0])
        return self._export_parts(self._shards.join(state))

    def import_state(self, arrays: Mapping[str, Any]) -> Replicas:
        """Places host arrays as a state: whole on the first device, which gives the others theirs.

        Raises:
            SnapshotError: a leaf is missing, unknown, or of another shape or dtype; named.
        """
        return self._shards.spread(self._first.import_state(arrays))

    def unfreeze(self, state: Replicas, ignore_until_step: int) -> Replicas:
        """Lets a state that holds go on, on every device."""
        return [
            replica._replace(counters=self._unfreeze(replica.counters, ignore_until_step))
            for replica in state
        ]

    def check_state(self, arrays: Mapping[str, Any]) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        self._first.check_state(arrays)

    def adapt_state(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """A state of another precision policy as this program's policy keeps it."""
        return self._first.adapt_state(arrays)

    def _gradients(
        self, replica: TrainState, global_batch: Mapping[str, Any], place: int
    ) -> Iterator[LaneSums]:
        replica = _without_optimizer(replica)
        for row in range(place * self._share, (place + 1) * self._share):
            batch = {name: column[row] for name, column in global_batch.items()}
            yield self._lane_gradient(replica, np.int32(self._first_lane + row), batch)

    def _no_totals(self, state: Replicas) -> LaneTotals:
        zeros = [
            jax.device_put(self._first.no_totals(), SingleDeviceSharding(device))
            for device in self._devices
            for _ in range(self._share)
        ]
        shown = [evaluated(replica) for replica in state]
        whole = self._shards.gather(shown, "params", free=False)
        return LaneTotals(0, tuple(zeros), whole)

    def _sum(self, lanes: Sequence[Sums]) -> Sums:
        """The sum of all lanes' totals, those of other processes too."""
        as_lane = [LaneSums((), jax.tree.map(lambda a: a[None], sums), ()) for sums in lanes]
        parts = [as_lane[i : i + self._share] for i in range(0, len(lanes), self._share)]
        total, *_ = self._over_devices(tree_sum(part, self._add_lanes) for part in parts)
        return jax.tree.map(lambda a: a[0], total.sums)

    def _over_devices(self, parts: Iterator[LaneSums]) -> list[LaneSums]:
        """The sum of one part a device, on each device of this process."""
        trees = list(parts)
        if self._num_devices == 1:
            return trees
        wait_on_cpu(trees)
        sharding = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        join = lambda *leaves: jax.make_array_from_single_device_arrays(
            (self._num_devices, *leaves[0].shape[1:]), sharding, list(leaves)
        )
        total = self._add_over_devices(jax.tree.map(join, *trees))
        leaves, treedef = jax.tree.flatten(total)
        views = [on_each_device(leaf, self._devices) for leaf in leaves]
        return [treedef.unflatten(parts) for parts in zip(*views, strict=True)]

    def _butterfly(self) -> Any:
        """Adds the parts of neighbouring devices, then of neighbouring pairs, and so on. Both
        partners add the same two numbers, so that all devices end with the same bits.
        """
        size = self._num_devices

        def add(part: LaneSums) -> LaneSums:
            distance = 1
            while distance < size:
                pairs = [(index, index ^ distance) for index in range(size)]
                moved = jax.tree.map(lambda a: jax.lax.ppermute(a, _AXIS, pairs), part)  # noqa: B023
                part, distance = add_lanes(part, moved), 2 * distance
            return part

        spec = PartitionSpec(_AXIS)
        return jax.jit(
            jax.shard_map(add, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False),
            donate_argnums=0,
        )


def _without_optimizer(state: TrainState) -> TrainState:
    """What a lane reads: its program knows of no optimizer's state, whole or in parts."""
    return state._replace(opt_state=())
