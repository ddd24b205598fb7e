"""How Orbax writes a snapshot's items. What it says meanwhile is `aetheria.snapshots.quiet_orbax`.

Imported when a snapshot is written or read: Orbax takes a third of a second.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.args import CheckpointArgs, register_with_handler
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals, Future
from orbax.checkpoint.handlers import AsyncCheckpointHandler


class ManifestHandler(AsyncCheckpointHandler):
    """Writes JSON that is made while the other items are being written.

    Digests of a gigabyte take as long as a third of its writing; side by side they cost little.
    """

    async def async_save(self, directory: Any, args: "ManifestSave") -> list[Future]:
        async def write() -> None:
            self.save(directory, args)

        return [CommitFutureAwaitingContractedSignals(write(), name="manifest")]

    def save(self, directory: Any, args: "ManifestSave") -> None:
        (directory / "metadata").write_text(json.dumps(args.make()))

    def restore(self, directory: Any, args: "ManifestRestore | None" = None) -> Any:
        return json.loads((directory / "metadata").read_text())


@register_with_handler(ManifestHandler, for_save=True)
@dataclass
class ManifestSave(CheckpointArgs):
    """Asks for the item.

    Attributes:
        make: returns the JSON values; called once, in a thread.
    """

    make: Callable[[], Any]


@register_with_handler(ManifestHandler, for_restore=True)
@dataclass
class ManifestRestore(CheckpointArgs):
    """Reads the item."""


def make_checkpointer() -> ocp.Checkpointer:
    """A checkpointer for this process alone. Orbax's default waits for all processes of a run, but
    one of them writes, and each reads when it likes.

    Not compressed: floats shrink by 7 %, and at a gigabyte it takes three times as long as all the
    rest. One database instead of a file for each leaf: a model of 400 leaves would make 1,200.
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
