"""What a run keeps, and the snapshot that it resumes from."""

from collections.abc import Sequence
from dataclasses import replace

from aetheria.config import Config
from aetheria.config.precision_policy import parse_policy
from aetheria.engine.interfaces import AnyProgram
from aetheria.errors import ConfigError
from aetheria.snapshots.retention import Retention
from aetheria.snapshots.run_plan import RunPlan


def build_retention(config: Config) -> Retention:
    """Reads the retention policy from the config."""
    snapshot = config.snapshot
    return Retention(
        keep_last=snapshot.keep_last,
        keep_best=snapshot.keep_best,
        keep_every_steps=snapshot.keep_every_steps,
        monitor=snapshot.monitor,
        mode=snapshot.mode,
    )


def fit_snapshot(plan: RunPlan, config: Config, program: AnyProgram) -> RunPlan:
    """Checks that the plan's snapshot is a state of this program. A state of another precision
    policy is cast first; that the policy changes was accepted before.

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


def check_monitor(config: Config, eval_metrics: Sequence[str]) -> None:
    """Raises ConfigError if the best snapshot is judged by a metric the model does not report."""
    if config.snapshot.monitor not in eval_metrics:
        raise ConfigError(
            f"snapshot.monitor: expected one of {', '.join(eval_metrics)}, "
            f"got {config.snapshot.monitor!r}; use one of these"
        )
