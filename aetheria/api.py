"""Training from Python: a script or a notebook does what the command line does, by the same code.

>>> import aetheria
>>> aetheria.train(model_name="SimpleMPL")
Traceback (most recent call last):
...
aetheria.errors.RegistryError: model: expected one of ..., got 'SimpleMPL'; use 'SimpleMLP' ...
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from aetheria.build import build_retention
from aetheria.build.given import Given, GivenListener
from aetheria.build.given_model import check_given_model, describe_given_model, with_model_keys
from aetheria.config import MODEL_KEYS, Config
from aetheria.config.checking import make_config
from aetheria.config.files import assign, read_values
from aetheria.errors import ConfigError, SnapshotError
from aetheria.model.model import Model
from aetheria.observe.history import History, HistoryRecorder
from aetheria.observe.listener import Listener
from aetheria.plugins import GIVEN
from aetheria.plugins.discovery import find_project
from aetheria.snapshots.run_folder import CHECKPOINTS
from aetheria.snapshots.store import list_snapshots
from aetheria.training.session import Ended, TrainingSession

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aetheria.inference import Predictor

# A name, a name with arguments, an object with `notify`, a class that is called with a RunContext,
# or a function of one event.
ListenerLike: TypeAlias = str | Mapping[str, Any] | Listener | Callable[..., Any]
_WHERE = "aetheria.train"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run has ended.

    Attributes:
        status: `completed`, `preempted` (stopped by a signal, an interrupt or `stop_at_step`: it
            can be resumed) or `halted` (not finite, or a failed spot check).
        reason: why, in words.
        exit_code: what `aetheria train` would exit with; a batch script passes it on with
            `sys.exit(result.exit_code)`, so that a preempted job is requeued.
        metrics: the last values of all metrics, such as `train/loss` and `eval/loss`.
        history: a dict for every record of metrics, and `.to_pandas()`.
        run_dir: the run folder.
        snapshot: the newest snapshot; None: none was saved.
        config: the config of the run.
        summary: what `summary.json` holds; empty in all processes of a run but the first.
    """

    status: str
    reason: str
    exit_code: int
    metrics: Mapping[str, float]
    history: History
    run_dir: Path
    snapshot: Path | None
    config: Config = field(repr=False)
    summary: Mapping[str, Any] = field(repr=False)
    _call: "_Call" = field(repr=False)

    def predictor(self, which: str | int = "latest", **options: Any) -> "Predictor":
        """Makes a predictor of this run's model.

        Args:
            which: `latest`, `best`, or the step of a snapshot.
            options: anything else that `Predictor` takes.

        Raises:
            SnapshotError: there is no such snapshot.
        """
        from aetheria.inference import Predictor

        options = {"project": self._call.project, "model": self._call.model, **options}
        return Predictor(checkpoint_path=self._find(which), **options)

    def resume(
        self, which: str | int = "latest", *, accept_changes: bool = True, **changes: Any
    ) -> "TrainResult":
        """Continues the run, from its newest snapshot in the same folder, from another one in a new
        folder.

        Args:
            which: `latest`, `best`, or the step of a snapshot.
            accept_changes: continue although the rest of the run is another than it would have
                been, as with more epochs.
            changes: keys of the config with other values, such as `epochs=20`.
        """
        resume = "latest" if which == "latest" else str(self._find(which))
        workdir = self.run_dir if which == "latest" else None
        call = self._call.changed(changes)
        return call.run(
            workdir=workdir, resume=resume, accept_changes=accept_changes, earlier=self.history
        )

    def plot(self, *names: str) -> "Figure":
        """Draws curves over the steps: of the metrics of these names (`loss`, `accuracy`), or of
        all, one panel each, training and evaluation together. It needs matplotlib.
        """
        from aetheria.observe.curves import draw_curves

        return draw_curves(self.history, names)

    def _find(self, which: str | int) -> Path:
        infos = list_snapshots(self.run_dir / CHECKPOINTS)
        found = build_retention(self.config).select(infos, str(which))
        if not found:
            there = ", ".join(str(info.step) for info in infos) or "none"
            raise SnapshotError(
                f"{self.run_dir}: expected a snapshot {which!r}, got the steps {there}; name "
                "'latest', 'best' or one of these steps"
            )
        return found[0].path


def train(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    *,
    model: Model | str | None = None,
    data: object = None,
    loggers: Iterable[ListenerLike] | None = None,
    callbacks: Iterable[ListenerLike] | None = None,
    workdir: str | Path | None = None,
    resume: str | int | Path | None = None,
    overwrite: bool = False,
    accept_changes: bool = False,
    stop_at_step: int | None = None,
    auto_micro_batch: bool = False,
    project: str | Path | None = None,
    **keys: Any,
) -> TrainResult:
    """Trains a model, as `aetheria train` does, and returns how that ended.

    An interrupt (Ctrl-C, or the stop button of a notebook) ends the run with a snapshot, and the
    result says `preempted`; a second one raises KeyboardInterrupt at once.

    Args:
        config: a config file, or its keys and values; None: only `keys`.
        model: a model object, or a name; None: the config's `model_name`. Keys such as
            `learning_rate` are set on the object, if it has a field of that name.
        data: a dataset, or a name; None: the config's `data_name`. `DataSplits(train=…, eval=…)`, a
            pair `(inputs, labels)`, a dict of arrays by column, a table of pandas or polars, a
            dataset of Hugging Face or a map-style one of PyTorch; or a pair or a dict (`train`,
            `eval`) of two of these; `eval` may be several by name, and `test` is evaluated once, at
            the end. Without an evaluation split, a fifth is held out.
        loggers: in place of the config's: names, `{name: arguments}`, or listeners as objects.
        callbacks: likewise; also classes, which are called with a `RunContext`, and functions of
            one event.
        workdir: the run folder; None: a new one under `runs/`.
        resume: `auto`, `latest`, `best`, a step, or the path of a snapshot; None: start afresh.
        overwrite: replace an earlier run in `workdir`.
        accept_changes: resume although the rest of the run differs for a changed config or code.
        stop_at_step: take a snapshot at that step and return; the run can be resumed.
        auto_micro_batch: raise `grad_accumulation_steps` until a step fits the device's memory, by
            what the compiler says; a resumed run keeps its number.
        project: the folder that holds your `models/`, `data/`, … ; None: that of the config file,
            or the current folder.
        keys: keys of the config, which override its values; a dotted one is given as
            `**{"snapshot.keep_last": 3}`.

    Raises:
        AetheriaError: something was given that is wrong; nothing was written.
    """
    file = Path(config) if isinstance(config, str | Path) else None
    values = read_values(file or config) if config is not None else {}
    for key, value in keys.items():
        assign(values, key, value)
    given = _take_model(model, values, keys)
    call = _Call(
        model=given,
        data=_take_data(data, values, keys),
        loggers=_take_listeners("loggers", loggers, values),
        callbacks=_take_listeners("callbacks", callbacks, values),
        values=values,
        origins=dict.fromkeys(keys, _WHERE),
        where=_WHERE if file is None else str(file),
        name=file.stem if file else None if given is None else type(given).__name__,
        project=find_project(file, project),
        auto_micro_batch=auto_micro_batch,
    )
    return call.run(
        workdir=None if workdir is None else Path(workdir),
        resume=None if resume is None else str(resume),
        overwrite=overwrite,
        accept_changes=accept_changes,
        stop_at_step=stop_at_step,
    )


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What was asked to be trained; a result keeps it, to continue the run.

    Attributes:
        values: the values of the config.
        origins: key -> what to call the place that set it, where that is not `where`.
        where: what to call the origin of the values.
        name: what a new run folder is named after; None: the model.
        project: the project folder.
        model: the model, if it was given as an object.
        data: the data, likewise.
        loggers: those that were given as objects.
        callbacks: likewise.
        auto_micro_batch: whether the number of micro-batches is chosen.
    """

    values: Mapping[str, object]
    origins: Mapping[str, str]
    where: str
    name: str | None
    project: Path
    model: Model | None
    data: object
    loggers: tuple[GivenListener, ...]
    callbacks: tuple[GivenListener, ...]
    auto_micro_batch: bool = False

    def changed(self, changes: Mapping[str, Any]) -> "_Call":
        """The same with other values of some keys, `loggers` and `callbacks` among them."""
        values, rest = read_values(self.values), dict(changes)
        listeners = {
            key: _take_listeners(key, rest.pop(key), values)
            for key in ("loggers", "callbacks")
            if key in rest
        }
        model = self.model
        if model is not None:
            model = with_model_keys(model, rest)
            values |= describe_given_model(model)
            rest = {key: value for key, value in rest.items() if key not in MODEL_KEYS}
        for key, value in rest.items():
            assign(values, key, value)
        origins = {**self.origins, **dict.fromkeys(rest, "resume")}
        return replace(self, values=values, origins=origins, model=model, **listeners)

    def run(
        self,
        *,
        workdir: Path | None,
        resume: str | None,
        overwrite: bool = False,
        accept_changes: bool = False,
        stop_at_step: int | None = None,
        earlier: Iterable[dict[str, Any]] = (),
    ) -> TrainResult:
        """Trains."""
        config = make_config(self.values, self.where, self.origins)
        recorder = HistoryRecorder(earlier)
        history = GivenListener("history", lambda context: recorder, HistoryRecorder)
        listeners = (*self.loggers, *self.callbacks, history)
        given = Given(model=self.model, data=self.data, listeners=listeners)
        # Libraries such as Orbax warn on stderr about things that a user cannot change.
        logging.getLogger("absl").setLevel(logging.ERROR)
        session = TrainingSession(
            config=config,
            config_name=self.name or config.model_name.rpartition(":")[2],
            project=self.project,
            workdir=workdir,
            resume=resume,
            overwrite=overwrite,
            accept_changes=accept_changes,
            stop_at_step=stop_at_step,
            auto_micro_batch=self.auto_micro_batch,
            given=given,
            owns_process=False,
        )
        with contextlib.ExitStack() as held:
            ended = session.run(held)
        return _result(ended, recorder.history, self)


def _result(ended: Ended, history: History, call: _Call) -> TrainResult:
    infos = list_snapshots(ended.run_dir / CHECKPOINTS)
    return TrainResult(
        status=ended.status,
        reason=ended.reason,
        exit_code=int(ended.exit_code),
        metrics=ended.metrics,
        history=history,
        run_dir=ended.run_dir,
        snapshot=infos[-1].path if infos else None,
        config=ended.config,
        summary=ended.summary,
        _call=call,
    )


def _take_model(
    model: object, values: dict[str, object], keys: Mapping[str, object]
) -> Model | None:
    """Puts a model's description into the values of a config; returns it if it is an object."""
    if model is None:
        return None
    if isinstance(model, str):
        values["model_name"] = model
        return None
    _refuse_beside("a model object", ("model_name", "model_params"), keys, "set it on the object")
    made = with_model_keys(check_given_model(model), values)
    values.update(describe_given_model(made))
    for name in MODEL_KEYS:
        values.pop(name, None)  # set on the object
    return made


def _take_data(data: object, values: dict[str, object], keys: Mapping[str, object]) -> object:
    """Puts the name of a dataset into the values of a config; returns data that has none."""
    if data is None:
        return None
    if isinstance(data, str):
        values["data_name"] = data
        return None
    _refuse_beside("data", ("data_name", "data_params"), keys, "give one of the two")
    values["data_name"], values["data_params"] = GIVEN, {}
    return data


def _refuse_beside(what: str, names: Sequence[str], keys: Mapping[str, object], do: str) -> None:
    """Raises ConfigError if a key is given whose value an object stands for."""
    for name in names:
        if name in keys:
            raise ConfigError(
                f"{_WHERE}: {name}: expected no such key beside {what}, got {keys[name]!r}; {do}"
            )


def _take_listeners(
    key: str, listeners: Iterable[ListenerLike] | None, values: dict[str, object]
) -> tuple[GivenListener, ...]:
    """Puts the names of listeners into the values of a config; returns the objects."""
    if listeners is None:
        return ()
    if isinstance(listeners, str | Mapping) or not isinstance(listeners, Iterable):
        raise ConfigError(
            f"{_WHERE}: {key}: expected a list, got {listeners!r}; write [{listeners!r}]"
        )
    listeners = list(listeners)
    is_named = lambda each: isinstance(each, str | Mapping)
    values[key] = [each for each in listeners if is_named(each)]
    return tuple(_given_listener(key, each) for each in listeners if not is_named(each))


def _given_listener(key: str, listener: Any) -> GivenListener:
    """A listener given as an object, a class, or a function of one event."""
    source = listener.func if isinstance(listener, functools.partial) else listener
    if inspect.isclass(source):
        if not callable(getattr(source, "notify", None)):
            raise ConfigError(
                f"{_WHERE}: {key}: expected a class with a method notify(event), got "
                f"{source.__name__}; add the method"
            )
        return GivenListener(source.__name__, listener, source)
    if callable(getattr(listener, "notify", None)):
        known = cast(Listener, listener)
        return GivenListener(type(listener).__name__, lambda context: known, type(listener))
    if callable(listener):
        name = getattr(source, "__name__", type(source).__name__)
        return GivenListener(name, lambda context: _Function(listener), source)
    raise ConfigError(
        f"{_WHERE}: {key}: expected a name, {{name: arguments}}, an object with a method "
        f"notify(event), or a function of one event, got a {type(listener).__name__}; give one of "
        "these"
    )


class _Function:
    """A function of one event as a listener."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def notify(self, event: Any) -> None:
        self._function(event)
