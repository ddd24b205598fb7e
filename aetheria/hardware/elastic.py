"""The elastic program: the same bits on 1, 2, 4, 8, … devices.

Everything that multiplies is compiled for one device and run on each: the gradient of a lane,
and the update. What crosses devices is added only, in one fixed tree. A program compiled for the
mesh as a whole would not do: XLA simplifies it otherwise for one partition than for several.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from aetheria.hardware.program import JaxProgram, ProgramSpec, count_traces
from aetheria.logic.lanes import (
    LaneSums,
    add_lanes,
    make_lane_gradient,
    make_lane_update,
    tree_sum,
)
from aetheria.logic.model import Model
from aetheria.logic.precision import Precision
from aetheria.logic.step import StepOutput, Sums, TrainState, make_eval_step

_AXIS = "lanes"

Replicas = list[TrainState]  # one state a device, all of the same bits


class LaneTotals(NamedTuple):
    """Evaluation totals: how many batches were taken, and the sums of each lane so far."""

    num_batches: int
    lanes: tuple[Sums, ...]


class ElasticProgram:
    """One model on several devices, each with a whole replica and its share of the lanes.

    Lanes are the leading dim of a window, so that accumulation and data parallelism are one thing:
    lanes placed in time or in space. Evaluation batches go to the lanes in turn.

    Args:
        model: the model.
        spec: what to compile for; the example window leads with [num_lanes, lane_size].
        devices: a power of two of them, at most one a lane.
    """

    def __init__(self, model: Model, spec: ProgramSpec, devices: Sequence[Any]):
        first = Mesh(np.asarray(devices[:1]), ("data",), axis_types=(AxisType.Auto,))
        self._first = JaxProgram(model, spec, first)
        self._compiles = dict.fromkeys(self._first.compiles, 0)
        self._devices = list(devices)
        self._num_lanes = len(spec.example_window["mask"])
        self._mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        precision = Precision.parse(spec.mixed_precision)
        optimizer = model.optimizer(spec.total_steps)
        gradient = make_lane_gradient(model, precision)
        update = make_lane_update(optimizer, spec.max_consecutive_skips)
        # A leading dim of 1: the parts of all devices, side by side, are an array over the mesh.
        lead = lambda *lane: jax.tree.map(lambda a: a[None], gradient(*lane))
        self._lane_gradient = jax.jit(count_traces(self._compiles, "train_step", lead))
        self._update = jax.jit(
            lambda state, total: update(state, jax.tree.map(lambda a: a[0], total)),
            donate_argnums=0,
        )
        evaluate = make_eval_step(model, precision)
        self._lane_eval = jax.jit(
            count_traces(self._compiles, "eval_step", evaluate), donate_argnums=2
        )
        self._add_lanes = jax.jit(add_lanes, donate_argnums=0)
        self._add_over_devices = self._butterfly()

    @property
    def windows_per_chunk(self) -> int:
        """One: a step is several dispatches already."""
        return 1

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """What an evaluation reports, known before anything is compiled."""
        return self._first.eval_metrics

    @property
    def compiles(self) -> dict[str, int]:
        """How many times each step was traced: 1, or a shape is not constant."""
        return dict(self._compiles)

    def init(self) -> Replicas:
        """Makes the state of step 0 on the first device, and copies it to the others."""
        return self._replicate(self._first.init())

    def train_steps(
        self, state: Replicas, arrays: Mapping[str, Any], start: int, count: int
    ) -> tuple[Replicas, StepOutput]:
        """Takes `count` steps; every replica is donated."""
        report = None
        for index in range(start, start + count):
            window = {name: column[index] for name, column in arrays.items()}
            totals = self._over_devices(
                tree_sum(self._gradients(replica, window, lanes), self._add_lanes)
                for replica, lanes in zip(state, self._lanes_of_devices(), strict=True)
            )
            stepped = [self._update(*pair) for pair in zip(state, totals, strict=True)]
            state, report = [new for new, _ in stepped], stepped[0][1]
        assert report is not None, "at least one step"
        return state, report

    def eval_step(
        self, state: Replicas, batch: Mapping[str, Any], totals: LaneTotals | None = None
    ) -> LaneTotals:
        """Adds a batch [lane_size, ...] to the totals of the lane whose turn it is."""
        totals = self._no_totals() if totals is None else totals
        lane = totals.num_batches % self._num_lanes
        replica = state[lane * len(self._devices) // self._num_lanes]
        lanes = list(totals.lanes)
        lanes[lane] = self._lane_eval(replica, batch, lanes[lane])
        return LaneTotals(totals.num_batches + 1, tuple(lanes))

    def fetch(self, report: StepOutput | LaneTotals) -> Any:
        """Waits for the device and turns sums into weighted means."""
        if isinstance(report, LaneTotals):
            add = lambda one, other: jax.tree.map(np.add, one, other)
            return self._first.fetch(tree_sum(map(jax.device_get, report.lanes), add))
        return self._first.fetch(report)

    def export_state(self, state: Replicas) -> dict[str, jax.Array]:
        """Copies the first replica, without waiting: path -> array."""
        return self._first.export_state(state[0])

    def import_state(self, arrays: Mapping[str, Any]) -> Replicas:
        """Places host arrays as a state on every device.

        Raises:
            SnapshotError: a leaf is missing, unknown, or of another shape or dtype; named.
        """
        return self._replicate(self._first.import_state(arrays))

    def check_state(self, arrays: Mapping[str, Any]) -> None:
        """Raises SnapshotError, naming the leaf, if the arrays are not a state of this model."""
        self._first.check_state(arrays)

    def adapt_state(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """A state of another precision policy as this program's policy keeps it."""
        return self._first.adapt_state(arrays)

    def _replicate(self, state: TrainState) -> Replicas:
        return [jax.device_put(state, SingleDeviceSharding(device)) for device in self._devices]

    def _lanes_of_devices(self) -> Iterator[range]:
        share = self._num_lanes // len(self._devices)
        for index in range(len(self._devices)):
            yield range(index * share, (index + 1) * share)

    def _gradients(
        self, replica: TrainState, window: Mapping[str, Any], lanes: range
    ) -> Iterator[LaneSums]:
        for lane in lanes:
            batch = {name: column[lane] for name, column in window.items()}
            yield self._lane_gradient(replica, np.int32(lane), batch)

    def _no_totals(self) -> LaneTotals:
        zeros = [
            jax.device_put(self._first.no_totals(), SingleDeviceSharding(device))
            for device, lanes in zip(self._devices, self._lanes_of_devices(), strict=True)
            for _ in lanes
        ]
        return LaneTotals(0, tuple(zeros))

    def _over_devices(self, parts: Iterator[LaneSums]) -> list[LaneSums]:
        """The sum of one part a device, on each device."""
        trees = list(parts)
        if len(trees) == 1:
            return trees
        if self._devices[0].platform == "cpu":
            # The devices of one CPU share a pool of threads, and meet in a collective by blocking
            # one each: with other work still queued there, the last may never get its thread (a
            # deadlock, seen on jax 0.10.2 with eight devices on two cores).
            jax.block_until_ready(trees)
        sharding = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        join = lambda *leaves: jax.make_array_from_single_device_arrays(
            (len(leaves), *leaves[0].shape[1:]), sharding, list(leaves)
        )
        total = self._add_over_devices(jax.tree.map(join, *trees))
        leaves, treedef = jax.tree.flatten(total)
        shards = [{s.device: s.data for s in leaf.addressable_shards} for leaf in leaves]
        return [treedef.unflatten([of[device] for of in shards]) for device in self._devices]

    def _butterfly(self) -> Any:
        """Adds the parts of neighbouring devices, then of neighbouring pairs, and so on. Both
        partners add the same two numbers, so that all devices end with the same bits.
        """
        size = len(self._devices)

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
