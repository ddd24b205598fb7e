"""Compares the snapshots of two runs leaf by leaf, at the steps at which both have one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aetheria.engine.interfaces import Snapshot
from aetheria.errors import SnapshotError
from aetheria.hardware.layout.trees import Leaves
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.retention import SnapshotInfo
from aetheria.tools.compare.history import History

# In this order a difference is named: what a step computes before what it is computed from.
_PARTS = ("params", "model_state", "opt_state", "loss_scale", "counters", "base_key")


@dataclass(frozen=True, kw_only=True)
class LeafDifference:
    """How two states differ.

    Attributes:
        leaf: the path of the first leaf that differs, parameters first.
        how: in words.
        num_differ: how many leaves differ.
        num_leaves: how many there are, of both together.
        same_shapes: whether all leaves have the same names, shapes and dtypes.
    """

    leaf: str
    how: str
    num_differ: int
    num_leaves: int
    same_shapes: bool


@dataclass(frozen=True, kw_only=True)
class SnapshotComparison:
    """The snapshots of two runs.

    Attributes:
        equal: a snapshot of each step at which both are equal, up to the parting.
        parting: the first step at which two snapshots differ, and how; None: none do.
        parted: the states there, of A and of B; empty: none differ.
        missing: which runs have no snapshots.
        damaged: a line for each that cannot be used.
    """

    equal: Mapping[int, SnapshotInfo]
    parting: tuple[int, LeafDifference] | None
    parted: Sequence[Leaves]
    missing: Sequence[str]
    damaged: Sequence[str]

    @property
    def last_equal(self) -> int | None:
        """The last step at which both are equal; None: there is none."""
        return max(self.equal, default=None)


def compare_snapshots(a: History, b: History) -> SnapshotComparison:
    """Verifies and compares, the oldest step first, up to the first that differ."""
    mine, others = _by_step(a.snapshots), _by_step(b.snapshots)
    damaged = [
        f"{run.name}: {each.path.name} cannot be read"
        for run in (a, b)
        for each in run.snapshots
        if each.step is None
    ]
    equal: dict[int, SnapshotInfo] = {}
    parting, parted = None, ()
    for step in sorted(mine.keys() & others.keys()):
        one = read_sound(a.name, mine[step], damaged)
        other = one
        if mine[step].path != others[step].path:  # else one was forked from the other
            other = read_sound(b.name, others[step], damaged)
        if one is None or other is None:
            continue
        difference = compare_leaves(one.arrays, other.arrays)
        if difference is not None:
            parting, parted = (step, difference), (one.arrays, other.arrays)
            break
        equal[step] = mine[step]
    return SnapshotComparison(
        equal=equal,
        parting=parting,
        parted=parted,
        missing=[run.name for run in (a, b) if not run.snapshots],
        damaged=damaged,
    )


def read_sound(name: str, info: SnapshotInfo, damaged: list[str]) -> Snapshot | None:
    """Reads a snapshot of a run; None: it is damaged, which adds a line, or gone meanwhile."""
    try:
        return read_snapshot(info.path)
    except SnapshotError as error:
        if info.path.is_dir():  # else a living run has retired it
            reason = str(error).partition("got ")[2].rpartition(";")[0] or str(error)
            damaged.append(f"{name}: {info.path.name} is damaged and left out: {reason}")
        return None


def compare_leaves(a: Leaves, b: Leaves) -> LeafDifference | None:
    """Compares two states bit for bit; None: they are equal.

    >>> one, other = {"params/w": np.zeros(3)}, {"params/w": np.array([0, 0, 1e-9])}
    >>> compare_leaves(one, one), compare_leaves(one, other).how
    (None, 'largest difference 1e-09')
    """
    paths = sorted({**a, **b}, key=_rank)
    hows = {path: _how(a, b, path) for path in paths}
    differing = [path for path, how in hows.items() if how]
    if not differing:
        return None
    first = differing[0]
    return LeafDifference(
        leaf=first,
        how=hows[first],
        num_differ=len(differing),
        num_leaves=len(hows),
        same_shapes=all(_same_shape(a, b, path) for path in hows),
    )


def _rank(path: str) -> int:
    part = path.split("/")[0]
    return _PARTS.index(part) if part in _PARTS else len(_PARTS)


def _same_shape(a: Leaves, b: Leaves, path: str) -> bool:
    if path not in a or path not in b:
        return False
    return (a[path].shape, a[path].dtype) == (b[path].shape, b[path].dtype)


def _how(a: Leaves, b: Leaves, path: str) -> str:
    """How a leaf differs, in words; empty: it does not."""
    if path not in a or path not in b:
        return f"{'B' if path not in a else 'A'} alone has it"
    if not _same_shape(a, b, path):
        one, other = (f"{each[path].dtype}{list(each[path].shape)}" for each in (a, b))
        return f"{one} and {other}"
    one, other = np.asarray(a[path]), np.asarray(b[path])
    if one.tobytes() == other.tobytes():
        return ""
    with np.errstate(all="ignore"):
        size = np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)))
    return f"largest difference {size:.2g}"


def _by_step(snapshots: Sequence[SnapshotInfo]) -> Mapping[int, SnapshotInfo]:
    """The last snapshot of each step."""
    return {each.step: each for each in snapshots if each.step is not None}
