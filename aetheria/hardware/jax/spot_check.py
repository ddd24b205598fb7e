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

from aetheria.engine.interfaces import Mismatch, Place
from aetheria.hardware.jax.digest import WORDS, digest
from aetheria.hardware.jax.each_device import EachDevice
from aetheria.hardware.jax.exchange import Exchange
from aetheria.hardware.jax.mesh import Device, name_device
from aetheria.hardware.jax.shards import wait_on_cpu
from aetheria.hardware.jax.state import LaneSums, Replicas
from aetheria.hardware.layout.counters import FROZEN, STEP
from aetheria.hardware.layout.state import TrainState
from aetheria.hardware.layout.trees import Columns

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
        devices: all of the mesh, in its order; see `Exchange`. Where a single device is its own
            partner, the same lane is computed twice.
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
        self._exchange = Exchange(devices, mine)
        # Functions of their own, as EachDevice needs them.
        digest_lane, digest_leaves = (lambda tree: digest(jax.tree.leaves(tree)) for _ in range(2))
        self._digest_lane = EachDevice(jax.jit(digest_lane), mine)
        self._digest_leaves = EachDevice(jax.jit(digest_leaves), mine)
        self._row = EachDevice(jax.jit(lambda *parts: jnp.concatenate(parts)[None]), mine)
        self._mark = EachDevice(jax.jit(partial(mark, len(devices) // 2)), mine)
        self._known = self._nothing_known()

    def at(self, step: int) -> "CheckedStep":
        """The check of the step after `step`."""
        return CheckedStep(self, step)

    def row(self, step: int) -> int:
        """Which of a device's lanes is computed again in the step after `step`: drawn by the run's
        seed.
        """
        chance = np.random.default_rng([self._seed, step])
        return int(chance.integers(self._num_lanes)) % self._share

    def digest_lane(self, place: int, sums: LaneSums) -> jax.Array:
        """Digests what a device of this process has computed of a lane: u32 [2]."""
        return self._digest_lane(place, sums)

    def mark(
        self, step: int, own: Sequence[jax.Array], whole: Replicas, batch: Columns
    ) -> Replicas:
        """Computes the partners' lanes, compares, and freezes the states if anything differs.

        Args:
            step: steps taken before.
            own: the digest of the checked lane of each device of this process.
            whole: the states, their parameters whole.
            batch: this process's lanes of the global batch.
        """
        row, rows = self.row(step), []
        batches = self._exchange.swap(self._rows_of(row, batch))
        for place, (replica, other) in enumerate(zip(whole, batches, strict=True)):
            lane = self._lane(self._exchange.partner(self._first + place), row)
            leaves = jax.tree.leaves(replica)
            parts = [
                self._digest_leaves(place, [leaves[i] for i in self._shared]),
                own[place],
                self._digest_lane(place, self._lane_gradient(place, replica, lane, other)),
            ]
            rows.append(self._row(place, *parts, variant=len(parts)))
        tables, marked = self._exchange.gather(rows), []
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
        indices = range(len(self._devices))
        if len(set(replicas)) > 1:
            return self._outvoted("the state", replicas, indices, is_of_state=True)
        row = self.row(step)
        batches, doubtful = self._exchange.share(self._rows_of(row, batch)), []
        for index in indices:
            partner = self._exchange.partner(index)
            seen = [tuple(table[index, _OWN].tolist()), tuple(table[partner, _OTHER].tolist())]
            if seen[0] == seen[1]:
                continue
            lane, rows = self._lane(index, row), []
            for place, replica in enumerate(whole):
                sums = self._lane_gradient(place, replica, lane, batches[index])
                rows.append(self._row(place, self._digest_lane(place, sums), variant=1))
            again = np.asarray(self._exchange.gather(rows)[0]).tolist()
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

    def _lane(self, index: int, row: int) -> np.int32:
        return np.int32(index * self._share + row)

    def _rows_of(self, row: int, batch: Columns) -> list[Columns]:
        """The batches of the checked lanes of this process's devices."""
        places = range(len(self._mine))
        return [{n: c[place * self._share + row] for n, c in batch.items()} for place in places]


class CheckedStep:
    """The check of one step.

    Args:
        check: of the program.
        step: steps taken before.
    """

    def __init__(self, check: SpotCheck, step: int):
        self._check, self._step, self._row = check, step, check.row(step)
        self._own: list[jax.Array] = []

    def watch(self, place: int, gradients: Iterator[LaneSums]) -> Iterator[LaneSums]:
        """Passes on the lanes of a device of this process, and digests the one that is checked,
        before it is added to others.
        """
        for number, sums in enumerate(gradients):
            if number == self._row:
                self._own.append(self._check.digest_lane(place, sums))
            yield sums

    def mark(self, whole: Replicas, batch: Columns) -> Replicas:
        """Compares, when all lanes were watched; see `SpotCheck.mark`."""
        return self._check.mark(self._step, self._own, whole, batch)


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
