"""Evaluates a verified snapshot as its run would: the same batches, the same program, and the
averaged parameters if the run kept an average. Knows no command line.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from aetheria.build import (
    Given,
    build_feed,
    keep_compiled,
    prepare_environment,
)
from aetheria.build.data import check_batch_fits
from aetheria.build.devices import build_strategy, cut_for_devices
from aetheria.build.provenance import model_params, recorded_model
from aetheria.build.recorded_data import find_recorded_data
from aetheria.build.run import build_program
from aetheria.config import Config
from aetheria.config.checking import make_config
from aetheria.data import Feed
from aetheria.data.encoding import read_encoding
from aetheria.engine.evaluation import Evaluation, Evaluator
from aetheria.engine.heartbeat import Heartbeat
from aetheria.engine.interfaces import SingleProcess, Snapshot
from aetheria.engine.record import SnapshotRecord
from aetheria.engine.stall_timer import StallTimer
from aetheria.engine.stop import StopSignal
from aetheria.errors import AetheriaError, HardwareError
from aetheria.model.by_name import remake_model
from aetheria.model.model import Model
from aetheria.plugins import GIVEN
from aetheria.plugins.bounded import build_described
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.finding import find_snapshot
from aetheria.snapshots.run_folder import newest_runs
from aetheria.snapshots.store import read_record
from aetheria.tools.evaluate.data import (
    TrainedOn,
    check_columns_of_training,
    splits_to_evaluate,
)


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate on, and with what; None stands for what the snapshot says.

    Attributes:
        split: `eval` for the evaluation splits, the name of one of them, `test` or `train`.
        data: data in place of the run's own, see `splits_to_evaluate`.
        metrics: names of metrics to finish, in place of those in the model's field `metrics`.
        strategy: where to compute, `auto`, `cpu`, `gpu` or `mesh`.
        project: the project folder.
        model_name: the model.
        model: the model as an object.
        data_name: the dataset; then its arguments may contain import paths.
    """

    split: str = "eval"
    data: Any = None
    metrics: Sequence[str] | None = None
    strategy: str | None = None
    project: Path | None = None
    model_name: str | None = None
    model: Model | None = None
    data_name: str | None = None


class Evaluated(NamedTuple):
    """What a snapshot scores.

    Attributes:
        snapshot: its path.
        step: the optimizer step that it was taken at.
        averaged: whether averaged parameters were evaluated.
        splits: the name of a split, `eval`, `eval/ood`, `test` or `train` -> its evaluation.
        recorded: what the run itself recorded at this step, `eval/loss` style names; empty if it
            did not evaluate then, or on other data.
        classes: the name of each class number; empty: none is known.
    """

    snapshot: Path
    step: int
    averaged: bool
    splits: Mapping[str, Evaluation]
    recorded: Mapping[str, float]
    classes: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics, by the names that a run gives them: `eval/loss`."""
        return {
            f"{split}/{name}": value
            for split, each in self.splits.items()
            for name, value in each.metrics.items()
        }


def evaluate_snapshot(where: str | Path, request: EvaluationRequest) -> Evaluated:
    """Evaluates a snapshot.

    Args:
        where: a snapshot or a run, `runs/mlp/1@best`.
        request: what to evaluate on.

    Raises:
        AetheriaError: there is no such snapshot or split, the snapshot is damaged, or its model or
            data cannot be made.
    """
    path = find_snapshot(str(where), newest_runs()[:1])
    # Before jax starts, which reading the arrays may do: an elastic run fixes the threads.
    config = make_config(read_record(path).run.config, str(path))
    if request.strategy is not None:
        config = replace(config, strategy=request.strategy, mesh={})
    prepare_environment(config, os.environ)
    snapshot = read_snapshot(path)
    trained = _trained_on(snapshot.record, config, str(path))
    model = _model(snapshot, config, request)
    feed, names = _feed(config, model, request, trained, str(path))
    with keep_compiled(config, SingleProcess(), os.environ):
        done = _evaluate(config, model, feed, snapshot, list(names.values()))
    own = request.data is None
    return Evaluated(
        snapshot=path,
        step=snapshot.record.progress.step,
        averaged=any("averaged_params" in leaf.split("/") for leaf in snapshot.arrays),
        splits={name: done[served] for name, served in names.items()},
        recorded=snapshot.record.evaluated if own else {},
        classes=() if trained.encoding is None else trained.encoding.classes,
    )


def _evaluate(
    config: Config, model: Model, feed: Feed, snapshot: Snapshot, splits: Sequence[str]
) -> Mapping[str, Evaluation]:
    """Makes the program of the run and passes over the splits."""
    strategy = _strategy(config)
    feed = cut_for_devices(feed, strategy)
    check_batch_fits(feed)
    build = lambda: build_program(config, model, feed, strategy)
    program = build_described(build, str(snapshot.path), len(snapshot.arrays))
    state = program.import_state(snapshot.arrays)
    evaluator = Evaluator(program, feed, StopSignal(), StallTimer(Heartbeat()))
    done = evaluator.evaluate(state, splits)
    assert done is not None, "nobody asks for a stop"
    return done


def _strategy(config: Config) -> Any:
    try:
        return build_strategy(config, SingleProcess())
    except HardwareError as error:
        raise HardwareError(
            *(f"{problem}; or evaluate with --strategy auto" for problem in error.problems)
        ) from error


def _trained_on(record: SnapshotRecord, config: Config, where: str) -> TrainedOn:
    run = record.run
    encoding = None if run.encoding is None else read_encoding(run.encoding, where)
    weight = config.data_params.get("weight")
    return TrainedOn(encoding, run.example_spec, weight if isinstance(weight, str) else None)


def _model(snapshot: Snapshot, config: Config, request: EvaluationRequest) -> Model:
    model = request.model
    if model is None:
        said = recorded_model(snapshot.record.run)._replace(
            name=request.model_name or config.model_name, params=model_params(config)
        )
        where = str(snapshot.path)
        model = remake_model(said, where, request.project, request.model_name).model
    return model if request.metrics is None else _with_metrics(model, request.metrics)


def _with_metrics(model: Model, names: Sequence[str]) -> Model:
    """The model with other metrics to finish; raises AetheriaError if it has no such field."""
    known = {field.name for field in fields(model)} if is_dataclass(model) else set()
    if not is_dataclass(model) or "metrics" not in known:
        raise AetheriaError(
            f"metrics: expected a model with a field metrics, got {type(model).__name__}; leave "
            "metrics out, or extend aetheria.Classifier or Regressor"
        )
    return replace(model, metrics=tuple(names))  # pyright: ignore[reportArgumentType]


def _feed(
    config: Config, model: Model, request: EvaluationRequest, trained: TrainedOn, where: str
) -> tuple[Feed, dict[str, str]]:
    """What serves the data, and the names of the splits -> those that the feed serves them by."""
    if request.data is not None:
        splits = splits_to_evaluate(request.data, trained)
        feed = build_feed(
            replace(config, overfit_batches=0), request.project, model, Given(data=splits)
        )
        name = request.data if isinstance(request.data, str | Path) else "data"
        check_columns_of_training(feed.example_spec(), trained, str(name))
        return feed, {split: split for split in feed.eval_splits}
    own = replace(config, data_name=request.data_name or _own_data(config, request, where))
    feed = build_feed(own, request.project, model)
    check_columns_of_training(feed.example_spec(), trained, f"data_name {own.data_name!r}")
    return _choose(feed, request.split)


def _own_data(config: Config, request: EvaluationRequest, where: str) -> str:
    """The name of the run's dataset, which may choose no code that is not registered.

    Raises:
        AetheriaError: a program gave the data, or the name or an argument is an import path.
    """
    if config.data_name == GIVEN:
        raise AetheriaError(
            f"{where}: expected a run that names its dataset, got one that a program gave its data "
            "as objects; give --data FILE, or in Python aetheria.predict.evaluate(…, data)"
        )
    return find_recorded_data(config, request.project, where)


def _choose(feed: Feed, split: str) -> tuple[Feed, dict[str, str]]:
    """Chooses splits of the run's data; raises AetheriaError if there is no such split."""
    if split == "eval":
        return feed, {name: name for name in feed.eval_splits}
    if split == "train":  # served as the test split is: in order, once, unaugmented
        return replace(feed, splits=replace(feed.splits, test=feed.splits.train)), {"train": "test"}
    known = [*feed.eval_splits, *feed.test_splits]
    for name in (split, f"eval/{split}"):
        if name in known:
            return feed, {name: name}
    there = ", ".join(name.removeprefix("eval/") for name in ["train", *known])
    raise AetheriaError(
        f"split: expected one of {there}, got {split!r}; name a split of the run's data"
    )
