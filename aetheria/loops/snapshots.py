"""Verified snapshots for a loop of one's own: any tree of arrays, with a position and facts."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from aetheria.build.provenance import versions
from aetheria.engine.record import EngineRecord, RunRecord, SnapshotRecord
from aetheria.errors import SnapshotError
from aetheria.events import Progress, SnapshotFailed
from aetheria.hardware.layout.leaves import check_leaves, export_leaf, is_key, named_leaves
from aetheria.snapshots import SnapshotStore
from aetheria.snapshots.retention import Retention
from aetheria.snapshots.snapshot_files import read_snapshot

_FACTS = "own_loop"  # where the record keeps what the loop adds


class Restored(NamedTuple):
    """What a snapshot holds.

    Attributes:
        tree: as it was saved.
        step: likewise.
        examples_seen: the position in the data.
        metrics: those that were saved with it.
        facts: what else was saved with it, JSON values.
    """

    tree: Any
    step: int
    examples_seen: int
    metrics: Mapping[str, float]
    facts: Mapping[str, Any]


class Snapshots:
    """Writes snapshots in the background, whole or not at all, and reads the newest that verifies.

    `aetheria snapshots` lists and verifies them, as those of any run.

    Args:
        folder: holds the folders `snapshot_step120`; made at the first save.
        keep_last: how many of the newest stay.
        monitor: of the metrics that are saved, the one whose best snapshot stays as well.
        mode: whether the best is the `min` or the `max`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 3,
        monitor: str = "eval/loss",
        mode: str = "min",
    ):
        retention = Retention(keep_last=keep_last, monitor=monitor, mode=mode)
        self._folder, self._store = Path(folder), SnapshotStore(Path(folder), retention)

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def save(
        self,
        step: int,
        tree: Any,
        *,
        examples_seen: int = 0,
        metrics: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts a save and returns; if the one before is still under way, waits for that first.

        Args:
            step: names the snapshot.
            tree: a tree of arrays, PRNG keys and numbers: everything that decides the rest of the
                loop. It is copied, so that the next step may use it up.
            examples_seen: the position in the data.
            metrics: to be kept with it, `eval/loss` style names.
            facts: other values to be kept, as JSON has them.
        """
        self.wait()
        known = {name: float(value) for name, value in (metrics or {}).items()}
        record = SnapshotRecord(
            progress=Progress(step=step, micro_step=step, examples_seen=examples_seen),
            engine=EngineRecord(
                metrics=known,
                num_eval_examples=None,
                eval_step=step if known else None,
                num_skipped=0,
                pending=None,
                interval=None,
            ),
            listeners={_FACTS: dict(facts or {})},
            run=RunRecord(config={"mixed_precision": False}, example_spec={}, versions=versions()),
        )
        leaves = {path: _exported(path, leaf) for path, leaf in named_leaves(tree).items()}
        self._store.save(f"snapshot_step{step}", leaves, record)

    def wait(self) -> None:
        """Waits for the save that is under way; warns if it has failed."""
        for event in self._store.finished(wait=True):
            if isinstance(event, SnapshotFailed):
                warnings.warn(
                    f"{self._folder / event.name}: not saved: {event.reason}", stacklevel=3
                )

    def restore(self, like: Any) -> Restored | None:
        """Reads the newest undamaged snapshot; None if there is none. Damaged ones are moved to
        `quarantine/`.

        Args:
            like: a tree of arrays of the shapes, dtypes and places (devices, shardings) that are
                expected, such as the state of step 0.

        Raises:
            SnapshotError: it holds another tree; the leaf is named.
        """
        self.wait()
        found = self._store.read_newest()
        if found is None:
            return None
        record = found.record
        facts = record.listeners.get(_FACTS)
        if not isinstance(facts, Mapping):
            raise SnapshotError(
                f"{found.path}: expected a snapshot of a loop of one's own, got one of `aetheria "
                "train`; resume it with that command, or choose another folder"
            )
        likes = named_leaves(like)
        expected = {path: _shape(path, leaf) for path, leaf in likes.items()}
        check_leaves(found.arrays, expected, str(found.path))
        leaves = [_as(leaf, found.arrays[path]) for path, leaf in likes.items()]
        return Restored(
            tree=jax.tree.unflatten(jax.tree.structure(like), leaves),
            step=record.progress.step,
            examples_seen=record.progress.examples_seen,
            metrics=record.engine.metrics,
            facts=facts,
        )


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads and verifies the arrays of any snapshot, leaf path -> array.

    Raises:
        SnapshotError: it is damaged; the leaf is named.
    """
    return dict(read_snapshot(Path(path)).arrays)


def _exported(path: str, leaf: object) -> ArrayLike:
    """A copy: of an array of JAX on its device, which is not waited for; of others in NumPy, which
    keeps their 64 bits.
    """
    if isinstance(leaf, jax.Array):
        return export_leaf(leaf)
    array = np.array(leaf)
    if array.dtype.kind not in "biufcV":
        raise SnapshotError(
            f"Snapshots, leaf {path!r}: expected an array or a number, got "
            f"{type(leaf).__name__}; give it among the `facts`"
        )
    return array


def _shape(path: str, leaf: object) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.Array):
        return jax.eval_shape(export_leaf, leaf)
    array = np.asarray(_exported(path, leaf))
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _as(like: object, array: np.ndarray) -> object:
    """The array as the kind of leaf that is expected, and where it is expected."""
    if isinstance(like, jax.Array):
        leaf = jnp.asarray(array)
        if is_key(like):
            leaf = jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))
        return jax.device_put(leaf, like.sharding)
    return array if isinstance(like, np.ndarray | np.generic) else array.item()
