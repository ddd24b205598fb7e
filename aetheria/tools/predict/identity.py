"""What a prediction is made of, so that an interrupted one is continued with the same alone; and
the model of a snapshot under a name that the caller gives.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from aetheria.build.provenance import recorded_model, versions_with
from aetheria.engine.typed_json import JsonObject
from aetheria.model.by_name import remake_model
from aetheria.model.model import Model
from aetheria.snapshots.finding import find_snapshot
from aetheria.snapshots.run_folder import newest_runs
from aetheria.snapshots.store import read_record
from aetheria.tools.predict.arrays import identify_file
from aetheria.tools.predict.rows import Input


def identify(snapshot: Path, source: Input, options: Mapping[str, object]) -> JsonObject | None:
    """What decides the bytes of an output, as JSON values by what messages call it.

    Args:
        snapshot: the snapshot, or a file or a folder of weights.
        source: the input.
        options: those of the command.

    Returns:
        None: the input cannot be read twice.
    """
    said = source.identity()
    if said is None:
        return None
    return {
        "snapshot": _identify_weights(snapshot),
        "input": said,
        **options,
        # Of what computes the outputs, whatever else this process has loaded.
        "version of a library": versions_with(*([] if source.keys is None else ["pillow"])),
    }


def _identify_weights(path: Path) -> JsonObject:
    manifest = path / "manifest" / "metadata"  # of all leaves and the record
    if manifest.is_file():
        return {"sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: identify_file(file) for file in files if file.is_file()}


def remake_under(name: str, where: str, project: Path) -> Model:
    """Makes the model of a snapshot under a name that the caller gives, with the hyperparameters
    that the snapshot says.

    Raises:
        AetheriaError: there is no such snapshot or model.
    """
    path = find_snapshot(where, newest_runs()[:1])
    said = recorded_model(read_record(path).run)._replace(name=name)
    return remake_model(said, str(path), project, name).model
