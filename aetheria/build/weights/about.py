"""What an export says of its model: enough to make the model again, and to prepare its inputs.

Nothing of it is trusted when it is read: a name is looked up among registered models only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aetheria.build.provenance import recorded_model
from aetheria.engine.interfaces import Snapshot
from aetheria.engine.typed_json import JsonObject, to_json
from aetheria.model.by_name import NamedModel, RecordedModel, remake_model
from aetheria.snapshots.manifest import part_sha256

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What an export says of its model.

    Attributes:
        format_version: of this layout.
        model_name: a registered name.
        model_params: hyperparameters, JSON values.
        example_spec: column name -> {"shape", "dtype"} of one example.
        mixed_precision: the precision policy of training, in which the model predicts.
        step: of the snapshot.
        params_sha256: digest of the snapshot's parameters, as in `summary.json`.
        resolved: every hyperparameter, defaults included; None: not known.
        encoding: how a table or pictures become inputs, and the class names; None: inputs are
            given as they are.
        input_ranges: column -> smallest and largest value in training; None: not known.
    """

    format_version: int = FORMAT_VERSION
    model_name: str
    model_params: JsonObject
    example_spec: JsonObject
    mixed_precision: bool | str
    step: int
    params_sha256: str
    resolved: JsonObject | None = None
    encoding: JsonObject | None = None
    input_ranges: Mapping[str, tuple[float, float]] | None = None

    @property
    def recorded(self) -> RecordedModel:
        """For `remake_model`."""
        return RecordedModel(self.model_name, self.model_params, self.resolved)


class Described(NamedTuple):
    """A snapshot's model, and what an export says of it."""

    model: NamedModel
    about: About


def describe(snapshot: Snapshot, project: Path | None, model_name: str | None = None) -> Described:
    """Makes a snapshot's model again, and describes it.

    Args:
        snapshot: with its record.
        project: the project folder.
        model_name: the model; None: the name in the snapshot.

    Raises:
        AetheriaError: there is no such model.
    """
    run, said = snapshot.record.run, recorded_model(snapshot.record.run)
    if model_name is not None:  # the same model under a name that the caller gives
        said = said._replace(name=model_name)
    named = remake_model(said, str(snapshot.path), project, model_name)
    resolved = None if run.resolved is None else run.resolved.model_params
    params = to_json(named.params)
    assert isinstance(params, dict)
    about = About(
        model_name=named.name,
        model_params=params,
        example_spec=run.example_spec,
        mixed_precision=run.mixed_precision,
        step=snapshot.record.progress.step,
        params_sha256=part_sha256(snapshot.arrays, "params"),
        resolved=resolved,
        encoding=run.encoding,
        input_ranges=run.input_ranges,
    )
    return Described(named, about)
