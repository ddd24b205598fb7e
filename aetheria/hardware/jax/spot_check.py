"""Spot checks of an elastic program: whether its devices compute what they should.

At a checked step every device computes one of its lanes as ever, and one of its partner's lanes
beside. A lane has the same bits wherever it is computed, so the digests of both results must agree,
and so must the digests of all replicas. They are compared on the devices: where one differs, the
state freezes before the step, and the host learns of it when it next reads a report. It then has
all the time to find which device was wrong. Nothing here knows what follows from that.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aetheria.engine.interfaces import Mismatch, Place
from aetheria.hardware.jax.digest import WORDS, digest
from aetheria.hardware.jax.each_device import EachDevice
from aetheria.hardware.jax.mesh import Device, name_device
from aetheria.hardware.jax.shards import on_each_device, wait_on_cpu
from aetheria.hardware.jax.state import LaneSums, Replicas
from aetheria.hardware.layout.counters import FROZEN, STEP
from aetheria.hardware.layout.state import TrainState
from aetheria.hardware.layout.trees import Columns

_AXIS = "devices"
# The columns of a table u32 [devices, 6]: the digests of the device's replica, of its own lane, and
# of its partner's lane as this device computed it.
_REPLICA, _OWN, _OTHER = (slice(WORDS * i, WORDS * (i + 1)) for i in range(3))

# (place of the device in this process, its whole state, lane number, its batch) -> sums
LaneGradient = Callable[[int, TrainState, np.int32, Columns], LaneSums]


class Verdicts(NamedTuple):
    """What a device knows of the checks.

    Attributes:
        table: u32 [devices, 6], of the last checked step, or of the one at which a check failed.
        failed: bool [], whether one failed since the host last looked.
    """

    table: jax.Array
    failed: jax.Array


class SpotCheck:
    """The checks of one program. All processes make the same calls.

    Args:
        devices: all of the mesh, a power of two, in its order; those of a process follow each
            other. The partner of a device is half of them away: of several processes, in another
            one. A single device is its own partner: then the same lane is computed twice.
        mine: those of this process.
        lane_gradient: what computes a lane.
        num_lanes: of a global batch.
        seed: the run's.
        shared: the places, among the leaves of a state, of those that every device holds whole.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        mine: Sequence[Device],
        *,
        lane_gradient: LaneGradient,
        num_lanes: int,
        seed: int,
        shared: Sequence[int],
    ):
        self._devices, self._mine, self._lane_gradient = devices, mine, lane_gradient
        self._share, self._first = num_lanes // len(devices), devices.index(mine[0])
        self._num_lanes, self._seed, self._shared = num_lanes, seed, shared
        self._distance = len(devices) // 2
        mesh = Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))
        self._over, whole = NamedSharding(mesh, PartitionSpec(_AXIS)), PartitionSpec()
        # Copies, by which every device comes to hold what all have.
        self._gather = jax.jit(lambda rows: rows, out_shardings=NamedSharding(mesh, whole))
        self._swap = self._make_swap(mesh)
        self._digest_lane = EachDevice(jax.jit(_digest_tree), mine)
        self._digest_replica = EachDevice(jax.jit(self._digest_shared), mine)
        self._row = EachDevice(jax.jit(lambda *parts: jnp.concatenate(parts)[None]), mine)
        self._mark = EachDevice(jax.jit(partial(mark, self._distance)), mine)
        self._known = self._nothing_known()
        self._own: list[jax.Array] = []

    def row(self, step: int) -> int:
        """Which of a device's lanes is computed again in the step after `step`: drawn by the run's
        seed.
        """
        chance = np.random.default_rng([self._seed, step])
        return int(chance.integers(self._num_lanes)) % self._share

    def watch(self, step: int, gradients: Iterator[LaneSums]) -> Iterator[LaneSums]:
        """Passes on the lanes of the next device, and digests the one that is checked, before it is
        added to others.
        """
        place, row = len(self._own), self.row(step)
        for number, sums in enumerate(gradients):
            if number == row:
                self._own.append(self._digest_lane(place, sums))
            yield sums

    def mark(self, step: int, whole: Replicas, batch: Columns) -> Replicas:
        """Computes the partners' lanes, compares, and freezes the states if anything differs.

        Args:
            step: steps taken before.
            whole: the states, their parameters whole.
            batch: this process's lanes of the global batch.
        """
        row, rows = self.row(step), []
        batches = self._partners_batches(row, batch)
        own, self._own = self._own, []
        for place, (replica, other) in enumerate(zip(whole, batches, strict=True)):
            lane = self._lane(self._partner(self._first + place), row)
            sums = self._lane_gradient(place, _seen_by_a_lane(replica), lane, other)
            shared = jax.tree.leaves(replica)
            parts = [
                self._digest_replica(place, [shared[i] for i in self._shared]),
                own[place],
                self._digest_lane(place, sums),
            ]
            rows.append(self._row(place, *parts, variant=len(parts)))
        tables, marked = self._gathered(rows), []
        for place, (replica, table) in enumerate(zip(whole, tables, strict=True)):
            known = self._known[place]
            counters, known = self._mark(place, replica.counters, table, known, np.int32(step))
            self._known[place] = known
            marked.append(replica._replace(counters=counters))
        wait_on_cpu([replica.counters for replica in marked])
        return marked

    def examine(self, step: int, whole: Replicas, batch: Columns) -> Mismatch:
        """Finds which device was wrong at the check at which the state froze: every device computes
        the lanes in doubt again, and what most of them say is right.

        Args:
            step: steps taken before.
            whole: the frozen states, their parameters whole.
            batch: this process's lanes of the global batch.
        """
        table, self._known = np.asarray(self._known[0].table), self._nothing_known()
        replicas = [tuple(row) for row in table[:, _REPLICA].tolist()]
        if len(set(replicas)) > 1:
            indices = range(len(self._devices))
            return self._outvoted("the state", replicas, indices, is_of_state=True)
        row = self.row(step)
        batches, doubtful = self._all_batches(row, batch), []
        for index in range(len(self._devices)):
            partner = self._partner(index)
            seen = [tuple(table[index, _OWN].tolist()), tuple(table[partner, _OTHER].tolist())]
            if seen[0] == seen[1]:
                continue
            lane, other = self._lane(index, row), batches[index]
            rows = []
            for place, replica in enumerate(whole):
                sums = self._lane_gradient(place, _seen_by_a_lane(replica), lane, other)
                rows.append(self._row(place, self._digest_lane(place, sums), variant=1))
            again = np.asarray(self._gathered(rows)[0]).tolist()
            what = f"the gradient of lane {int(lane)}"
            votes = [*seen, *map(tuple, again)]
            doubtful.append(self._outvoted(what, votes, [index, partner], is_of_state=False))
        # A device that is always wrong computes its partner's lane wrong, too.
        sure = [each for each in doubtful if each.is_decided] or doubtful
        places = dict.fromkeys(place for each in sure for place in each.places)
        what = " and ".join(each.what for each in sure)
        return Mismatch(what, tuple(places), sure[0].is_decided, is_of_state=False)

    def _nothing_known(self) -> list[Verdicts]:
        shape = len(self._devices), 3 * WORDS
        nothing = Verdicts(jnp.zeros(shape, jnp.uint32), jnp.zeros((), jnp.bool_))
        return [jax.device_put(nothing, device) for device in self._mine]

    def _outvoted(
        self,
        what: str,
        votes: Sequence[tuple[int, ...]],
        voters: Sequence[int],
        *,
        is_of_state: bool,
    ) -> Mismatch:
        """Those whose vote differs from the majority's; without a majority, all.

        Args:
            what: was voted on.
            votes: digests; the first are those of the voters.
            voters: the devices.
            is_of_state: whether it is the state.
        """
        (right, count), *_ = Counter(votes).most_common()
        decided = 2 * count > len(votes)
        pairs = zip(voters, votes, strict=False)
        wrong = [self._devices[i] for i, vote in pairs if vote != right or not decided]
        places = dict.fromkeys(Place(name_device(device), device.process_index) for device in wrong)
        return Mismatch(what, tuple(places), decided, is_of_state)

    def _partner(self, index: int) -> int:
        return index ^ self._distance

    def _lane(self, index: int, row: int) -> np.int32:
        return np.int32(index * self._share + row)

    def _rows_of(self, row: int, batch: Columns) -> list[Columns]:
        """The batches of the checked lanes of this process's devices."""
        places = range(len(self._mine))
        return [{n: c[place * self._share + row] for n, c in batch.items()} for place in places]

    def _partners_batches(self, row: int, batch: Columns) -> list[Columns]:
        mine = self._rows_of(row, batch)
        if len(self._mine) == len(self._devices):
            return [mine[self._partner(place)] for place in range(len(mine))]
        swapped = self._swap(self._joined(mine))
        views = {name: on_each_device(column, self._mine) for name, column in swapped.items()}
        return [
            {name: _from_bits(view[place], mine[0][name])[0] for name, view in views.items()}
            for place in range(len(mine))
        ]

    def _all_batches(self, row: int, batch: Columns) -> list[Columns]:
        mine = self._rows_of(row, batch)
        if len(self._mine) == len(self._devices):
            return mine
        whole = {
            name: _from_bits(self._gather(column).addressable_shards[0].data, mine[0][name])
            for name, column in self._joined(mine).items()
        }
        return [{n: c[index] for n, c in whole.items()} for index in range(len(self._devices))]

    def _joined(self, batches: Sequence[Columns]) -> dict[str, jax.Array]:
        """The batches of all devices, one array of bits [devices, bytes] for each column: to be
        moved, and nothing else.
        """
        return {name: self._join([_to_bits(each[name]) for each in batches]) for name in batches[0]}

    def _join(self, rows: Sequence[jax.Array | np.ndarray]) -> jax.Array:
        placed = [jax.device_put(row, device) for row, device in zip(rows, self._mine, strict=True)]
        shape = (len(self._devices), *rows[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self._over, placed)

    def _gathered(self, rows: Sequence[jax.Array]) -> list[jax.Array]:
        """The rows [1, n] of all devices, on each device of this process: [devices, n]."""
        wait_on_cpu(rows)
        return on_each_device(self._gather(self._join(rows)), self._mine)

    def _digest_shared(self, leaves: Sequence[jax.Array]) -> jax.Array:
        return digest(leaves)

    def _make_swap(self, mesh: Mesh) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
        pairs = [(index, self._partner(index)) for index in range(len(self._devices))]
        spec = PartitionSpec(_AXIS)

        def swap(columns: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return jax.tree.map(lambda c: jax.lax.ppermute(c, _AXIS, pairs), columns)

        return jax.jit(
            jax.shard_map(swap, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        )


def mark(
    distance: int, counters: jax.Array, table: jax.Array, before: Verdicts, step: jax.Array
) -> tuple[jax.Array, Verdicts]:
    """Freezes the counters if anything in the table differs that should not: then `FROZEN` is minus
    the step that was to be taken. Not if they are frozen by a global batch that was not finite: the
    host hears of that first, and returns.

    Args:
        distance: between partners.
        counters: i32 [6], of this device.
        table: u32 [devices, 6], of all.
        before: what this device knew.
        step: i32 [], steps taken before; what the counters say of it may be what is wrong.
    """
    partners = np.arange(len(table)) ^ distance
    replicas, own, other = table[:, _REPLICA], table[:, _OWN], table[partners, _OTHER]
    differs = jnp.any(replicas != replicas[0]) | jnp.any(own != other)
    is_nonfinite = (counters[FROZEN] > 0) & (counters[FROZEN] == counters[STEP])
    fails = differs & ~is_nonfinite & ~before.failed
    frozen = jnp.where(fails, -(step + 1), counters[FROZEN])
    kept = jnp.where(before.failed, before.table, table)
    return counters.at[FROZEN].set(frozen), Verdicts(kept, before.failed | fails)


def _to_bits(column: np.ndarray) -> np.ndarray:
    """u8 [1, bytes]."""
    return np.ascontiguousarray(column).reshape(1, -1).view(np.uint8)


def _from_bits(bits: jax.Array, like: np.ndarray) -> np.ndarray:
    """The inverse of `_to_bits`, of several rows."""
    return np.asarray(bits).view(like.dtype).reshape(-1, *like.shape)


def _seen_by_a_lane(state: TrainState) -> TrainState:
    return state._replace(opt_state=())


def _digest_tree(tree: LaneSums) -> jax.Array:
    return digest(jax.tree.leaves(tree))
