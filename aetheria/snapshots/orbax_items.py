"""How Orbax writes and reads the items of a snapshot.

Imported when a snapshot is written or read: importing Orbax takes a third of a second.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.args import CheckpointArgs, register_with_handler
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals, Future
from orbax.checkpoint.handlers import AsyncCheckpointHandler

from aetheria.engine.typed_json import JsonObject


class ManifestHandler(AsyncCheckpointHandler):
    """Writes JSON that is made while the other items are being written.

    Digests of a gigabyte take a third of the time of writing it; side by side they cost little.
    """

    async def async_save(self, directory: epath.Path, args: "ManifestSave") -> list[Future]:
        async def write() -> None:
            self.save(directory, args)

        return [CommitFutureAwaitingContractedSignals(write(), name="manifest")]

    def save(self, directory: epath.Path, args: "ManifestSave") -> None:
        (directory / "metadata").write_text(json.dumps(args.make()))

    def restore(self, directory: epath.Path, args: "ManifestRestore | None" = None) -> object:
        return json.loads((directory / "metadata").read_text())


@register_with_handler(ManifestHandler, for_save=True)
@dataclass
class ManifestSave(CheckpointArgs):
    """Asks for the item to be written.

    Attributes:
        make: returns the JSON values; called once, in a thread.
    """

    make: Callable[[], JsonObject]


@register_with_handler(ManifestHandler, for_restore=True)
@dataclass
class ManifestRestore(CheckpointArgs):
    """Asks for the item to be read."""


def save_items(
    path: Path,
    state: Mapping[str, object],
    record: JsonObject,
    make_manifest: Callable[[], JsonObject],
) -> None:
    """Writes the three items; `state` is a tree of NumPy arrays."""
    with _make_checkpointer() as checkpointer:
        checkpointer.save(
            path,
            ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                record=ocp.args.JsonSave(dict(record)),
                manifest=ManifestSave(make_manifest),
            ),
        )


def restore_texts(path: Path) -> tuple[JsonObject, object]:
    """Reads the record and the manifest."""
    with _make_checkpointer() as checkpointer:
        args = ocp.args.Composite(record=ocp.args.JsonRestore(), manifest=ManifestRestore())
        texts = checkpointer.restore(path, args)
    return texts.record, texts.manifest


def restore_state(path: Path, tree: Mapping[str, object]) -> Mapping[str, object]:
    """Reads the arrays, independent of the devices that wrote them.

    Args:
        path: of the snapshot.
        tree: has a None for each array that is asked for.
    """
    as_array = ocp.RestoreArgs(restore_type=np.ndarray)
    is_leaf = lambda node: node is None
    with _make_checkpointer() as checkpointer:
        args = ocp.args.PyTreeRestore(
            jax.tree.map(lambda _: 0, tree, is_leaf=is_leaf),
            restore_args=jax.tree.map(lambda _: as_array, tree, is_leaf=is_leaf),
        )
        return checkpointer.restore(path, ocp.args.Composite(state=args)).state


def _make_checkpointer() -> ocp.Checkpointer:
    """Makes a checkpointer for this process alone. Orbax's default waits for all processes of a
    run, but here one of them writes, and each reads when it likes.

    The arrays are not compressed: floats shrink by 7 %, and at a gigabyte it takes three times as
    long as all the rest. One database holds all leaves: a file each would be 1,200 files for a
    model of 400 leaves.
    """
    index = ocp.multihost.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone),
        record=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        manifest=ManifestHandler(),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
