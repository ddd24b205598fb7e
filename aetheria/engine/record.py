"""The record of a snapshot: everything in it beside the arrays, typed and versioned.

`SnapshotRecord.to_json` is the one place that decides how a record reads on disk, and
`SnapshotRecord.from_json` the one that reads it. Change the version with the layout: a release
refuses the records of a newer one, and `aetheria.engine.record_0_1_0` turns old ones into this
layout. Pure Python: it may not know what wrote the run, or where.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from aetheria.engine.typed_json import JsonObject, read_json, to_json
from aetheria.errors import SnapshotError, shown
from aetheria.events import Histogram, Progress

SCHEMA_VERSION = 1
# What a weighted mean is made of: the sum and its weight.
Sums: TypeAlias = tuple[float, float]


class NewerRecordError(SnapshotError):
    """A record that a newer release wrote: sound, but not to be read here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedMetrics:
    """What was logged of a training step; without histograms None."""

    metrics: Mapping[str, float]
    steps_per_second: float
    histograms: Mapping[str, Histogram] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingEvaluation:
    """An evaluation at the step of the snapshot that a stop cut short.

    Attributes:
        logged: what was logged of the step before that evaluation; None: nothing.
        of_test: whether only the test split is left to evaluate; None: all splits are.
    """

    logged: LoggedMetrics | None = None
    of_test: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """The engine's part.

    Attributes:
        metrics: the last known values, `train/loss` and `eval/loss` style names.
        num_eval_examples: how many the last evaluation counted; None: there was none.
        eval_step: the step of the last evaluation; None: there was none.
        num_skipped: global batches that the guard has skipped.
        pending: an evaluation that is due again; None: none is.
        interval: metric -> sums over the steps since the last log; None: no step since.
        epoch: metric -> what to add to these for the sums of the epoch that the run is in; None:
            nothing, or an older release did not record it.
        passed_check: the last step whose state had passed a spot check; None: none had.
    """

    metrics: Mapping[str, float]
    num_eval_examples: int | None
    eval_step: int | None
    num_skipped: int
    pending: PendingEvaluation | None
    interval: Mapping[str, Sums] | None
    epoch: Mapping[str, Sums] | None = None
    passed_check: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkedFrom:
    """The snapshot of another run that a run started from."""

    run: str
    snapshot: str
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedFrom:
    """The file of weights that a run started from."""

    file: str


Lineage: TypeAlias = ForkedFrom | ImportedFrom


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedArguments:
    """Every argument that the code was called with, defaults included: name -> JSON value.

    Attributes:
        model_params: the model's hyperparameters.
        data_params: the dataset's arguments.
        loggers: the arguments of each logger.
        callbacks: the arguments of each callback.
        model: the fields of a model that a function made; None: a class made it.
    """

    model_params: JsonObject
    data_params: JsonObject | None = None
    loggers: Mapping[str, JsonObject] | None = None
    callbacks: Mapping[str, JsonObject] | None = None
    model: JsonObject | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeDigest:
    """The file that defines a part of a run.

    Attributes:
        file: its path, without the place where the project lies.
        sha256: its digest.
        imports: the user's own files that it imports -> sha256.
    """

    file: str
    sha256: str
    imports: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFingerprint:
    """What identifies a split of a dataset.

    Attributes:
        num_examples: how many it has.
        columns: name -> dtype and shape of an example.
        parts: first row, row after the last, digest of these rows.
        random: whether a second read gave other values, so that there are no digests.
    """

    num_examples: int
    columns: Mapping[str, str]
    parts: tuple[tuple[int, int, str], ...]
    random: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What a run depends on beside its config and its state.

    Attributes:
        code: `model`, `data`, `loggers.<name>`, `callbacks.<name>` -> the file that defines it;
            None: no file does.
        settings: those of JAX, XLA and PyTorch that change numbers.
        machine: processor, devices, number of processes.
        data: `train`, `eval` -> fingerprint of the split.
    """

    code: Mapping[str, CodeDigest | None]
    settings: JsonObject
    machine: JsonObject
    data: Mapping[str, DataFingerprint]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What every snapshot of a run says of the run itself.

    Attributes:
        config: the whole config, `mixed_precision` at least.
        example_spec: column name -> {"shape", "dtype"} of one example.
        versions: of Python, Aetheria and the libraries.
        lineage: what the run started from; None: it started afresh.
        resolved: arguments, defaults included; None: an older release did not record them.
        provenance: None: an older release did not record it, or the run was imported.
        encoding: how a table or pictures became `inputs` and `labels`; None: they were given so.
        input_ranges: column of floats -> its smallest and largest value in a sample of the training
            split; None: an older release did not record them.
    """

    config: JsonObject
    example_spec: JsonObject
    versions: Mapping[str, str]
    lineage: Lineage | None = None
    resolved: ResolvedArguments | None = None
    provenance: Provenance | None = None
    encoding: JsonObject | None = None
    input_ranges: Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        """Raises SnapshotError if this is no config of a run."""
        said = self.config.get("mixed_precision")
        if not isinstance(said, bool | str):
            raise SnapshotError(
                f"record: expected the config of a run, with its mixed_precision, got {shown(said)}"
            )

    @property
    def mixed_precision(self) -> bool | str:
        """The config's."""
        said = self.config["mixed_precision"]
        assert isinstance(said, bool | str), "checked when the record was made"
        return said

    @property
    def machine(self) -> JsonObject:
        """Processor, devices, number of processes; empty: they are not recorded."""
        return {} if self.provenance is None else self.provenance.machine

    @property
    def is_elastic(self) -> bool:
        """Whether the bits of the run do not depend on the number of devices."""
        return self.config.get("reproducibility") == "elastic"


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotRecord:
    """The record of one snapshot.

    Attributes:
        schema_version: of the layout on disk.
        progress: the three counters, and the epoch.
        engine: the engine's part.
        listeners: states of listeners by name, JSON values.
        run: the same in every snapshot of a run.
    """

    schema_version: int = SCHEMA_VERSION
    progress: Progress
    engine: EngineRecord
    listeners: JsonObject
    run: RunRecord

    @property
    def evaluated(self) -> Mapping[str, float]:
        """The metrics, if the evaluation at the step of the snapshot is complete; else empty."""
        engine = self.engine
        complete = engine.eval_step == self.progress.step and engine.pending is None
        return engine.metrics if complete else {}

    def to_json(self) -> JsonObject:
        """The record as it is written."""
        written = to_json(self)
        assert isinstance(written, dict)
        return written

    @classmethod
    def from_json(cls, value: object) -> "SnapshotRecord":
        """Reads a record of this release or an older one.

        Raises:
            NewerRecordError: a newer release wrote it.
            SnapshotError: it is no record; one line names the field.
        """

        def upgrade(old: JsonObject) -> JsonObject:
            from aetheria.engine.record_0_1_0 import upgrade_snapshot

            return upgrade_snapshot(old)

        return read_json(cls, current_layout(value, upgrade), "record")


def current_layout(value: object, upgrade: Callable[[JsonObject], JsonObject]) -> JsonObject:
    """Turns what was read into the layout of this release.

    Raises:
        NewerRecordError: a newer release wrote it.
        SnapshotError: it is no JSON object, or of no known version.
    """
    if not isinstance(value, Mapping):
        raise SnapshotError(f"record: expected an object, got {shown(value)}")
    version = value.get("schema_version")
    if "schema_version" not in value:
        return {**upgrade(value), "schema_version": SCHEMA_VERSION}
    if type(version) is int and version > SCHEMA_VERSION:
        raise NewerRecordError(
            f"record: expected schema version {SCHEMA_VERSION} or an older one, got "
            f"{shown(version)}, written by a newer aetheria; read it with that release"
        )
    if version != SCHEMA_VERSION or type(version) is not int:
        raise SnapshotError(f"record: expected a known schema_version, got {shown(version)}")
    return value
