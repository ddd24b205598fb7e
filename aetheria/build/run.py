"""Makes and wires every part of a run."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetheria.build.data import build_feed, build_schedule, check_batch_fits, name_eval_metrics
from aetheria.build.devices import build_strategy, cut_for_devices
from aetheria.build.given import NOTHING, Given, refuse_names_of_objects
from aetheria.build.listeners import (
    ListenerFactory,
    attach_listeners,
    choose_listeners,
    list_choices,
    replace_console,
)
from aetheria.build.model import build_model, check_decomposes, is_deterministic
from aetheria.build.processes import build_manager, build_stop
from aetheria.build.provenance import (
    describe_provenance,
    describe_run,
    resolve_run,
)
from aetheria.build.snapshots import build_retention, check_monitor, fit_snapshot
from aetheria.config import Config
from aetheria.data import Feed
from aetheria.data.ranges import input_ranges
from aetheria.engine import Engine, NonFinitePolicy, Outcome, Schedule
from aetheria.engine.interfaces import AnyProgram, Peers, SingleProcess
from aetheria.engine.record import RunRecord
from aetheria.engine.stop import StopSignal
from aetheria.errors import ConfigError
from aetheria.events import EvaluationCompleted
from aetheria.hardware.layout.program_spec import LayerStatistics, ProgramSpec
from aetheria.hardware.strategy import Strategy
from aetheria.model.model import Model
from aetheria.model.optimizers import hyperparameters_of, schedules
from aetheria.observe import EventBus
from aetheria.observe.listener import RunContext
from aetheria.snapshots import SnapshotStore
from aetheria.snapshots.dumps import NonFiniteDumps
from aetheria.snapshots.run_folder import CHECKPOINTS, DUMPS
from aetheria.snapshots.run_plan import RunPlan

if TYPE_CHECKING:  # only where a listener inspects, and where devices check each other
    from aetheria.build.probing import Prober
    from aetheria.engine.spot_checks import SpotChecks


HISTOGRAM_BINS = 32  # as many as the probe's histograms of parameters have


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of one run, made and checked; nothing is compiled or written yet.

    Attributes:
        engine: drives the rest.
        program: the model, compiled for the devices.
        feed: serves the data.
        store: the run's snapshots.
        plan: where the run is written.
        stop: how the run is asked to stop.
        bus: carries events to the listeners.
        make_listeners: makes the listeners and attaches them, once. The run folder must exist: a
            logger may open a file as it is made.
        record: what every snapshot records of the run.
        schedule: its length and cadences.
        changes: a line for everything that differs from the snapshot that the run resumes from.
        notes: lines that a user should see at the start.
        devices: those of this process, in words.
        axes: the axes of the mesh -> the number of devices on each.
        eval_metrics: what the evaluations of the run report.
        checks: the spot checks; None: there are none.
        config: its config, with the number of micro-batches that was chosen.
    """

    config: Config
    engine: Engine
    program: AnyProgram
    feed: Feed
    store: SnapshotStore
    plan: RunPlan
    stop: StopSignal
    bus: EventBus
    make_listeners: Callable[[], None]
    record: RunRecord
    schedule: Schedule
    changes: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    devices: str = ""
    axes: Mapping[str, int] = field(default_factory=dict)
    eval_metrics: Sequence[str] = ()
    checks: "SpotChecks[Any, Any, Any] | None" = None

    def execute(self) -> Outcome:
        """Trains, from the plan's snapshot if it has one."""
        self.make_listeners()
        return self.engine.run(self.plan.snapshot)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a request says of a run beside its config.

    Attributes:
        stop_at_step: leave the run at that step, to be resumed; None: train to the end.
        accept_changes: resume although the run takes another course from its snapshot.
        started_at: when its time begins to count, in seconds since the epoch; None: now.
        auto_micro_batch: raise `grad_accumulation_steps` until a step fits the device's memory.
        console: makes what takes the place of the logger `console`; None: nothing does.
        needs_console: make it although the config does not name that logger.
    """

    stop_at_step: int | None = None
    accept_changes: bool = False
    started_at: float | None = None
    auto_micro_batch: bool = False
    console: ListenerFactory | None = None
    needs_console: bool = False


def build_run(
    config: Config,
    plan: RunPlan,
    project: Path | None,
    *,
    peers: Peers | None = None,
    options: RunOptions = RunOptions(),
    given: Given = NOTHING,
) -> Run:
    """Makes and wires every part of a run.

    The order: what a user may have got wrong is checked first, names and data before devices, and
    the program last, whose model is traced. Of several processes, the first alone has listeners and
    writes; each reads the data of its own devices.

    Raises:
        AetheriaError: something in the config does not exist or does not fit.
    """
    refuse_names_of_objects(config, given)
    peers = peers or SingleProcess()
    leads = peers.index == 0
    if plan.snapshot is not None:
        from aetheria.snapshots.config_diff import check_names

        check_names(plan.snapshot.record.run, config)
    model = build_model(config, project, given)
    check_decomposes(model, config, peers.count)
    feed = build_feed(config, project, model, given)
    chosen = choose_listeners(config, project, given.listeners) if leads else {}
    if leads and options.console is not None:
        chosen = replace_console(chosen, options.console, needed=options.needs_console)
    strategy = build_strategy(config, peers)
    if options.auto_micro_batch:
        config, feed = _fit_micro_batch(config, feed, model, strategy, plan, peers)
    feed = cut_for_devices(feed, strategy)
    check_batch_fits(feed)
    listeners = list(list_choices(config, project))
    record = describe_run(
        config,
        feed.example_spec(),
        lineage=plan.lineage(),
        resolved=resolve_run(config, project, model, listeners, given),
        provenance=describe_provenance(
            config,
            project,
            model=model,
            splits=feed.splits,
            listeners=listeners,
            strategy=strategy,
            given=given,
        ),
        input_ranges=input_ranges(feed.splits.train),
        encoding=None if feed.splits.encoding is None else feed.splits.encoding.to_json(),
    )
    changes = []
    if plan.snapshot is not None:
        from aetheria.snapshots.config_diff import check_resume

        changes = check_resume(plan.snapshot.record.run, record, accept=options.accept_changes)
    schedule = build_schedule(config, feed, options.stop_at_step)
    program = strategy.compile(model, build_spec(config, feed, schedule))
    plan = fit_snapshot(plan, config, program)
    eval_metrics = name_eval_metrics(feed, program.eval_metrics)
    check_monitor(config, eval_metrics)
    stop, bus = build_stop(peers), EventBus({})
    context = RunContext(
        run_dir=plan.run_dir,
        config=config.to_dict(),
        stop=stop,
        eval_metrics=eval_metrics,
        eval_splits=feed.eval_splits,
        schedules=schedules(program.optimizer),
        is_fork=plan.parent is not None,
        started_at=time.time() if options.started_at is None else options.started_at,
        start_profile=None if config.strategy == "torch" else _start_profile,
    )
    store = SnapshotStore(plan.run_dir / CHECKPOINTS, build_retention(config))

    @functools.cache
    def prober() -> "Prober":
        from aetheria.build.probing import Prober

        return Prober(config=config, model=model, feed=feed, program=program, bus=bus, peers=peers)

    def inspect(events: Sequence[EvaluationCompleted], state: Any) -> None:
        # The listeners are process 0's, and to export a state all processes are needed.
        if peers.broadcast(bus.inspects):
            prober().inspect(events, state)

    checks = None
    if config.spot_check_every:
        from aetheria.build.spot_checks import build_checks

        checks = build_checks(config, program, schedule, peers)
    engine = Engine(
        program=program,
        feed=feed,
        schedule=schedule,
        bus=bus,
        snapshots=build_manager(peers, store),
        stop=stop,
        nonfinite=build_nonfinite(config, plan, feed, record, schedule, writes=leads),
        record=record,
        checks=checks,
        hyperparameters=hyperparameters_of(program.optimizer),
        inspect=inspect,
    )
    attach = lambda: attach_listeners(bus, chosen, context) if leads else None
    return Run(
        config=config,
        engine=engine,
        program=program,
        feed=feed,
        store=store,
        plan=plan,
        stop=stop,
        notes=feed.notes,
        devices=strategy.devices,
        axes=strategy.axes,
        eval_metrics=eval_metrics,
        checks=checks,
        bus=bus,
        make_listeners=functools.cache(attach),
        record=record,
        schedule=schedule,
        changes=tuple(changes),
    )


def _fit_micro_batch(
    config: Config,
    feed: Feed,
    model: Model,
    strategy: Strategy[AnyProgram],
    plan: RunPlan,
    peers: Peers,
) -> tuple[Config, Feed]:
    from aetheria.build.micro_batch import fit_micro_batch

    def try_program(config: Config, feed: Feed) -> AnyProgram:
        check_decomposes(model, config, peers.count)
        return build_program(config, model, cut_for_devices(feed, strategy), strategy)

    earlier = None if plan.snapshot is None else plan.snapshot.record
    return fit_micro_batch(config, feed, try_program, earlier=earlier, num_processes=peers.count)


def _start_profile(folder: Path) -> Callable[[], None]:
    from aetheria.hardware.jax.profile import start_profile

    return start_profile(folder)


def build_program(
    config: Config, model: Model, feed: Feed, strategy: Strategy[AnyProgram]
) -> AnyProgram:
    """Makes the program of a config, of data that is cut for the devices; each step is compiled at
    its first call.
    """
    spec = build_spec(config, feed, build_schedule(config, feed))
    return strategy.compile(model, replace(spec, chunk_size=None))


def build_spec(config: Config, feed: Feed, schedule: Schedule) -> ProgramSpec:
    """Makes what a program is compiled for."""
    return ProgramSpec(
        example_global_batch=feed.example_global_batch(),
        total_steps=schedule.total_steps,
        seed=config.seed,
        mixed_precision=config.mixed_precision,
        max_consecutive_skips=config.max_consecutive_skips,
        deterministic=is_deterministic(config),
        spot_checks=config.spot_check_every > 0,
        chunk_size=feed.chunk_size,
        peak_flops=config.peak_flops,
        layer_statistics=_layer_statistics(config),
    )


def _layer_statistics(config: Config) -> LayerStatistics | None:
    asked = config.layer_statistics
    if asked.histograms and not asked.depth:
        raise ConfigError(
            "layer_statistics.depth: expected 1 or more with layer_statistics.histograms, got 0; "
            "set it"
        )
    if not asked.depth:
        return None
    return LayerStatistics(
        depth=asked.depth,
        every_steps=config.log_every_steps,
        num_bins=HISTOGRAM_BINS if asked.histograms else 0,
    )


def build_nonfinite(
    config: Config,
    plan: RunPlan,
    feed: Feed,
    record: RunRecord,
    schedule: Schedule,
    *,
    writes: bool,
) -> NonFinitePolicy:
    """Makes what the run does when a global batch is not finite.

    Args:
        config: the run's.
        plan: where the run is written.
        feed: reads the global batch again for a dump.
        record: what every dump records of the run.
        schedule: the length of the run.
        writes: whether this process writes dumps.
    """
    dumps = NonFiniteDumps(
        plan.run_dir / DUMPS, feed, record, total_steps=schedule.total_steps, writes=writes
    )
    return NonFinitePolicy(
        action=config.on_nonfinite,
        max_consecutive_skips=config.max_consecutive_skips,
        dumps=dumps,
    )
