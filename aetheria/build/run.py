"""The composition root: turns a config into a run. The only file that names concrete classes."""

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias

from aetheria.build.provenance import (
    ListenerChoice,
    describe_provenance,
    describe_run,
    model_params,
    resolve_run,
)
from aetheria.config import MAX_WHOLE, MODEL_KEYS, Config
from aetheria.config.precision_policy import parse_policy
from aetheria.data import DataSplits, Feed
from aetheria.data.checks import check_data
from aetheria.data.error_context import missing_file
from aetheria.engine import Engine, NonFinitePolicy, Outcome, Schedule
from aetheria.engine.interfaces import AnyProgram, Peers, SingleProcess, SnapshotManager
from aetheria.engine.record import RunRecord
from aetheria.engine.stop import StopSignal
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import ConfigError
from aetheria.hardware.jax.cpu.memory import keep_freed_memory
from aetheria.hardware.jax.cpu.threads import fix_threads, make_room_for_devices
from aetheria.hardware.jax.strategy import select_strategy
from aetheria.hardware.layout.program_spec import ProgramSpec
from aetheria.hardware.processes.distributed_config import DistributedConfig
from aetheria.hardware.processes.launch import Launch, detect_launch
from aetheria.hardware.strategy import Strategy
from aetheria.model.by_name import make_model
from aetheria.model.model import Model
from aetheria.model.optimizers import schedules
from aetheria.observe import EventBus
from aetheria.observe.goodput import GoodputRecorder
from aetheria.observe.listener import Listener, RunContext
from aetheria.plugins import CALLBACKS, DATA, LOGGERS
from aetheria.plugins.arguments import call_with, prepare_call
from aetheria.plugins.checks import check_listener, find_dataset, find_listener
from aetheria.snapshots import SnapshotStore
from aetheria.snapshots.config_diff import check_names, check_resume
from aetheria.snapshots.dumps import NonFiniteDumps
from aetheria.snapshots.retention import Retention
from aetheria.snapshots.run_folder import CHECKPOINTS, DUMPS
from aetheria.snapshots.run_plan import RunPlan
from aetheria.snapshots.sizes import size_text

# What a run in one process on JAX does not need is imported where it is used.
if TYPE_CHECKING:
    from aetheria.hardware.jax.distributed import JaxProcessGroup
    from aetheria.hardware.jax.prediction import PredictProgram

ListenerFactory: TypeAlias = Callable[[RunContext], Listener]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything of one run, made and checked; nothing compiled, nothing written.

    Attributes:
        engine: drives the rest.
        program: the model, compiled for the devices.
        store: the run's snapshots.
        plan: where the run is written.
        stop: how the run is asked to stop.
        bus: carries events to the listeners.
        make_listeners: makes them and attaches them, once. It wants the run folder to exist: a
            logger may open a file as it is made.
        record: what every snapshot says of the run.
        changes: a line for everything that differs from the snapshot it goes on from.
        notes: lines that a user should see at the start.
    """

    engine: Engine
    program: AnyProgram
    store: SnapshotStore
    plan: RunPlan
    stop: StopSignal
    bus: EventBus
    make_listeners: Callable[[], None]
    record: RunRecord
    changes: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    devices: str = ""

    def execute(self) -> Outcome:
        """Trains; from the plan's snapshot if it has one."""
        self.make_listeners()
        return self.engine.run(self.plan.snapshot)


def prepare_environment(config: Config, environ: MutableMapping[str, str]) -> None:
    """Sets what must be set before jax starts."""
    if is_elastic(config):
        fix_threads(environ)
    else:
        make_room_for_devices(environ)
    if config.strategy == "torch":
        # What JAX is asked for then, the first parameters, leaves the GPU's memory to PyTorch.
        environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if config.strategy != "gpu":
        keep_freed_memory(environ)


def join_peers(options: DistributedConfig, environ: Mapping[str, str]) -> Peers:
    """Meets the other processes of the run, if a launcher or the options say that there are any.

    Raises:
        HardwareError: the settings are incomplete, or somebody did not come in time.
    """

    def detect_cluster() -> Launch | None:
        from aetheria.hardware.jax import clusters

        return clusters.detect_cluster(environ, options.initialization_timeout)

    launch = detect_launch(environ, options, detect_cluster)
    if launch is None:
        return SingleProcess()
    from aetheria.hardware.jax.distributed import JaxProcessGroup

    return JaxProcessGroup(
        launch,
        initialization_timeout=options.initialization_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
    )


def describe_devices(run: Run, peers: Peers) -> list[str]:
    """A line for each of several processes: where it is and which devices it has. All processes
    call it.
    """
    group = _process_group(peers)
    return [] if group is None else group.describe_devices(run.devices)


def _process_group(peers: Peers) -> "JaxProcessGroup | None":
    """The processes of a run of several; None for a run in one process."""
    if peers.count == 1:
        return None
    from aetheria.hardware.jax.distributed import JaxProcessGroup

    return peers if isinstance(peers, JaxProcessGroup) else None


def _build_stop(peers: Peers) -> StopSignal:
    group = _process_group(peers)
    if group is None:
        return StopSignal()
    from aetheria.hardware.processes.agreed_stop import AgreedStopSignal

    return AgreedStopSignal(group)


def _build_manager(peers: Peers, store: SnapshotStore) -> SnapshotManager:
    if peers.count == 1:
        return store
    from aetheria.snapshots.shared_store import SharedStore

    return SharedStore(peers, store if peers.index == 0 else None)


def build_run(
    config: Config,
    plan: RunPlan,
    project: Path | None,
    stop_at_step: int | None = None,
    peers: Peers | None = None,
    started_at: float | None = None,
    accept_changes: bool = False,
) -> Run:
    """Makes and wires every part of a run.

    Of several processes, the first alone has listeners and writes; each reads the data of its own
    devices. `started_at` is when its time begins to count, in seconds since the epoch; None: now.
    `accept_changes`: go on from the plan's snapshot although the run takes another course from it.

    Raises:
        AetheriaError: something in the config does not exist or does not fit.
    """
    peers = peers or SingleProcess()
    leads = peers.index == 0
    if plan.snapshot is not None:
        check_names(plan.snapshot.record.run, config)
    model = build_model(config, project)
    check_decomposes(model, config, peers.count)
    feed = build_feed(config, project, model)
    chosen = choose_listeners(config, project) if leads else {}
    strategy = build_strategy(config, peers)
    strategy.check(feed.num_slices, feed.slice_size)
    part = strategy.part(feed.num_slices, feed.slice_size)
    feed = replace(feed, part=part)
    check_batch_fits(feed)
    listeners = list(_choose_listeners(config, project))
    record = describe_run(
        config,
        feed.example_spec(),
        lineage=plan.lineage(),
        resolved=resolve_run(config, project, model, listeners),
        provenance=describe_provenance(
            config, project, splits=feed.splits, listeners=listeners, strategy=strategy
        ),
    )
    changes = []
    if plan.snapshot is not None:
        changes = check_resume(plan.snapshot.record.run, record, accept=accept_changes)
    schedule = build_schedule(config, feed, stop_at_step)
    spec = ProgramSpec(
        example_global_batch=feed.example_global_batch(),
        total_steps=schedule.total_steps,
        seed=config.seed,
        mixed_precision=config.mixed_precision,
        max_consecutive_skips=config.max_consecutive_skips,
    )
    program = strategy.compile(model, spec)
    plan = fit_snapshot(plan, config, program)
    check_monitor(config, program.eval_metrics)
    stop = _build_stop(peers)
    context = RunContext(
        run_dir=plan.run_dir,
        config=config.to_dict(),
        stop=stop,
        eval_metrics=program.eval_metrics,
        schedules=schedules(program.optimizer),
        is_fork=plan.parent is not None,
        started_at=time.time() if started_at is None else started_at,
    )
    store = SnapshotStore(plan.run_dir / CHECKPOINTS, build_retention(config))
    nonfinite = NonFinitePolicy(
        action=config.on_nonfinite,
        max_consecutive_skips=config.max_consecutive_skips,
        dumps=NonFiniteDumps(
            plan.run_dir / DUMPS,
            feed,
            record,
            total_steps=schedule.total_steps,
            writes=leads,
        ),
    )
    bus = EventBus({})
    engine = Engine(
        program=program,
        feed=feed,
        schedule=schedule,
        bus=bus,
        snapshots=_build_manager(peers, store),
        stop=stop,
        nonfinite=nonfinite,
        record=record,
    )
    return Run(
        engine=engine,
        program=program,
        store=store,
        plan=plan,
        stop=stop,
        notes=feed.notes,
        devices=strategy.devices,
        bus=bus,
        make_listeners=functools.cache(lambda: _attach(bus, chosen, context) if leads else None),
        record=record,
        changes=tuple(changes),
    )


def build_strategy(config: Config, peers: Peers) -> Strategy[AnyProgram]:
    """Chooses the devices of this process."""
    if config.strategy != "torch":
        return select_strategy(config.strategy, config.mesh, elastic=is_elastic(config))
    require_torch(f"strategy {config.strategy!r}")
    from aetheria.hardware.torch.strategy import select_torch_strategy

    group = _process_group(peers)
    return select_torch_strategy(
        config.mesh,
        peers,
        host="" if group is None else group.host,
        listen=None if group is None else group.listen,
        device_ids=None if group is None else group.device_ids,
    )


def require_torch(what: str) -> None:
    """Raises ConfigError if something is asked for that needs PyTorch and there is none."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f"{what}: expected the package torch, got none; pip install 'aetheria[torch]'"
        )


def fit_snapshot(plan: RunPlan, config: Config, program: AnyProgram) -> RunPlan:
    """Checks that the plan's snapshot is a state of this program. One of another precision policy
    is cast first: going on with another policy has been accepted by then.

    Raises:
        SnapshotError: it is another model's; the leaf is named.
    """
    if plan.snapshot is None:
        return plan
    arrays = plan.snapshot.arrays
    saved = plan.snapshot.record.run.mixed_precision
    if parse_policy(saved) != parse_policy(config.mixed_precision):
        arrays = program.adapt_state(arrays)
    program.check_state(arrays)
    return replace(plan, snapshot=plan.snapshot._replace(arrays=arrays))


def build_model(config: Config, project: Path | None) -> Model:
    """Makes the model; the config's short keys become hyperparameters of the same name."""
    own_keys = {name: _USES[name] for name in MODEL_KEYS if getattr(config, name) is not None}
    return make_model(config.model_name, model_params(config), project, own_keys)


# What a model does with a key of the config that is handed to it.
_USES = {
    "learning_rate": "in its optimizer",
    "max_grad_norm": "as aetheria.clip(self.max_grad_norm, …) around its optimizer",
    "ema_decay": "as aetheria.with_average(self.ema_decay, …) around its optimizer",
    "remat": "in its network",
}


def build_predict_program(
    model: Model,
    example_spec: JsonObject,
    *,
    trained_with: bool | str,
    mixed_precision: bool | str | None,
    max_batch_size: int,
) -> "PredictProgram":
    """Makes the prediction program of a model.

    Args:
        model: the model.
        example_spec: column name -> {"shape", "dtype"} of one example of training.
        trained_with: the precision policy of training.
        mixed_precision: the one of prediction; None: as in training.
        max_batch_size: larger batches are cut into pieces of this size.
    """
    from aetheria.hardware.jax.prediction import PredictProgram

    return PredictProgram(
        model,
        example_spec,
        mixed_precision=trained_with if mixed_precision is None else mixed_precision,
        trained_with=trained_with,
        max_batch_size=max_batch_size,
    )


def build_feed(config: Config, project: Path | None, model: Model) -> Feed:
    """Makes the dataset, checks that the model can be trained on it, and makes what serves it."""
    dataset = find_dataset(DATA, config.data_name, project, returns=DataSplits)
    with missing_file(f"data_name {config.data_name!r}"):
        returned = call_with(dataset, "data_params", config.data_params)
    splits, notes = check_data(returned, config.data_name, model.class_columns())
    if config.batch_size > len(splits.train):
        notes.append(
            f"batch_size: {config.batch_size} is more than the {len(splits.train)} examples of the "
            "train split; every step takes all of them, the rest is padding"
        )
    return Feed(
        splits=splits,
        batch_size=config.batch_size,
        # Lanes on one device take their turns, as micro-batches do: one thing serves for both.
        num_slices=config.lanes if is_elastic(config) else config.grad_accumulation_steps,
        seed=config.seed,
        notes=tuple(notes),
    )


def is_elastic(config: Config) -> bool:
    """Whether a run's bits may not depend on the number of devices."""
    return config.reproducibility == "elastic"


def check_decomposes(model: Model, config: Config, num_processes: int) -> None:
    """Raises ConfigError if a batch would be cut whose loss is not a sum over its examples."""
    if model.decomposes:
        return
    name = type(model).__name__
    why = f"since {name} compares the examples of a batch with each other (decomposes = False)"
    if is_elastic(config):
        raise ConfigError(
            f"reproducibility: expected 'fast', {why}, got 'elastic', which cuts every batch into "
            "lanes; use fast"
        )
    if config.grad_accumulation_steps > 1:
        raise ConfigError(
            f"grad_accumulation_steps: expected 1, {why}, got {config.grad_accumulation_steps}; "
            "use 1, with a smaller batch_size or more devices"
        )
    if config.strategy == "torch" and num_processes > 1:
        raise ConfigError(
            f"strategy: expected one process with 'torch', {why}, got {num_processes}; use one, or "
            "another strategy"
        )


def check_batch_fits(feed: Feed) -> None:
    """Raises ConfigError if this process's part of a batch is larger than the machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if feed.global_batch_bytes > memory:
        raise ConfigError(
            f"batch_size: expected a batch that fits in this machine's {size_text(memory)} of "
            f"memory, got {feed.batch_size} examples of {size_text(feed.global_batch_bytes)} in "
            "all; use fewer"
        )


def build_schedule(config: Config, feed: Feed, stop_at_step: int | None = None) -> Schedule:
    """Takes the length and the cadences from the config.

    Raises:
        ConfigError: the run would have more steps than a device can count.
    """
    schedule = Schedule(
        num_train_examples=feed.num_train_examples,
        batch_size=config.batch_size,
        grad_accumulation_steps=config.grad_accumulation_steps,
        epochs=config.epochs,
        max_steps=config.max_steps,
        stop_at_step=stop_at_step,
        log_every_steps=config.log_every_steps,
        eval_every_steps=config.eval_every_steps,
        save_every_steps=config.snapshot.every_steps,
        save_every_epochs=config.snapshot.every_epochs,
    )
    if schedule.total_steps > MAX_WHOLE:
        raise ConfigError(
            f"epochs: expected a run of at most {MAX_WHOLE} steps, got {schedule.total_steps}; "
            "set max_steps, or use fewer epochs"
        )
    return schedule


def build_retention(config: Config) -> Retention:
    """Takes the retention rule from the config."""
    snapshot = config.snapshot
    return Retention(
        keep_last=snapshot.keep_last,
        keep_best=snapshot.keep_best,
        keep_every_steps=snapshot.keep_every_steps,
        monitor=snapshot.monitor,
        mode=snapshot.mode,
    )


def choose_listeners(config: Config, project: Path | None) -> dict[str, ListenerFactory]:
    """Finds and checks what makes the loggers and callbacks, by name; a second one of a name is
    numbered. Makes none.
    """
    chosen: dict[str, ListenerFactory] = {}
    for key, registry, items in (
        ("loggers", LOGGERS, config.loggers),
        ("callbacks", CALLBACKS, config.callbacks),
    ):
        for name, arguments in _named(key, items):
            number = sum(known.split("#")[0] == name for known in chosen)
            unique = f"{name}#{number + 1}" if number else name
            factory = find_listener(registry, key, name, project)
            make = prepare_call(factory, f"{key}.{name}", arguments, "context")
            chosen[unique] = functools.partial(_make_listener, make, key, name)
    return chosen


def _make_listener(make: ListenerFactory, key: str, name: str, context: RunContext) -> Listener:
    listener = make(context)
    check_listener(listener, key, name)
    return listener


def _attach(bus: EventBus, chosen: Mapping[str, ListenerFactory], context: RunContext) -> None:
    listeners = {name: make(context) for name, make in chosen.items()}
    bus.attach({**listeners, "goodput": GoodputRecorder(context)})


def check_monitor(config: Config, eval_metrics: Sequence[str]) -> None:
    """Raises ConfigError if the best snapshot is judged by a metric the model does not report."""
    if config.snapshot.monitor not in eval_metrics:
        raise ConfigError(
            f"snapshot.monitor: expected one of {', '.join(eval_metrics)}, "
            f"got {config.snapshot.monitor!r}; use one of these"
        )


def _choose_listeners(config: Config, project: Path | None) -> Iterator[ListenerChoice]:
    for key, registry in (("loggers", LOGGERS), ("callbacks", CALLBACKS)):
        for name, arguments in _named(key, getattr(config, key)):
            yield ListenerChoice(key, name, registry.get(name, project), arguments)


def _named(key: str, items: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    named = []
    for item in items:
        match item:
            case str():
                named.append((item, {}))
            case Mapping() if [*map(type, item.values())] in ([dict], [NoneType]):
                name, arguments = next(iter(item.items()))
                named.append((name, dict(arguments or {})))
            case _:
                raise ConfigError(f"{key}: expected a name or {{name: arguments}}, got {item!r}")
    return named
