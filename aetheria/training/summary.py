"""`summary.json` and the table at the end of a run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetheria.build import Run
from aetheria.build.provenance import versions
from aetheria.engine import Outcome
from aetheria.engine.typed_json import to_json
from aetheria.errors import AetheriaError, ExitCode
from aetheria.observe.goodput import account, read_goodput
from aetheria.observe.loggers.records import is_cell
from aetheria.snapshots.dumps import newest_dump

if TYPE_CHECKING:  # only where devices check each other
    from aetheria.engine.spot_checks import SpotChecks


def summarize(
    run: Run, outcome: Outcome, exit_code: ExitCode, wall_seconds: float, params_sha256: str
) -> dict[str, Any]:
    """What `summary.json` holds of a run that ended by itself."""
    progress = outcome.progress
    return {
        "status": outcome.status,
        "exit_code": int(exit_code),
        "reason": outcome.reason,
        "steps": progress.step,
        "micro_steps": progress.micro_step,
        "examples_seen": progress.examples_seen,
        "epoch": progress.epoch,
        "num_eval_examples": outcome.num_eval_examples,
        "n_eval_examples": outcome.num_eval_examples,  # its name in 0.1.0
        "skipped": {"num_steps": outcome.num_skipped, "dump": newest_dump(run.plan.run_dir)},
        "spot_checks": _spot_checks(run.checks),
        "final": finite(outcome.metrics),
        "best": run.store.best(),
        "saved": not run.store.has_saved_nothing(),
        "snapshot_failures": run.store.failures,
        "detached_listeners": run.bus.detached,
        "num_compilations": run.program.num_compilations,
        "compiles": run.program.num_compilations,  # its name in 0.1.0
        "params_sha256": params_sha256,
        "wall_seconds": round(wall_seconds, 3),
        **_goodput(run.plan.run_dir),
        "lineage": to_json(run.plan.lineage()),
        "versions": versions(),
    }


def summarize_failure(run: Run, error: BaseException, wall_seconds: float) -> dict[str, Any]:
    """What `summary.json` holds of a run that an error ended."""
    mistake = isinstance(error, AetheriaError)  # such as a row of the data that no sample showed
    reason = str(error) if mistake else f"{type(error).__name__}: {error}"
    code = ExitCode.USER_ERROR if mistake else ExitCode.FAILED
    return _cut_short(run, "failed", code, reason, wall_seconds)


def summarize_hang(run: Run, reason: str, wall_seconds: float) -> dict[str, Any]:
    """What `summary.json` holds of a run that its watchdog ended."""
    return _cut_short(run, "hung", ExitCode.HANG, reason, wall_seconds)


def _cut_short(
    run: Run, status: str, exit_code: ExitCode, reason: str, wall_seconds: float
) -> dict[str, Any]:
    return {
        "status": status,
        "exit_code": int(exit_code),
        "reason": reason,
        "detached_listeners": run.bus.detached,
        "wall_seconds": round(wall_seconds, 3),
        **_goodput(run.plan.run_dir),
        "lineage": to_json(run.plan.lineage()),
        "versions": versions(),
    }


def print_table(summary: Mapping[str, Any], run_dir: Path) -> None:
    """Prints how the run ended."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = {
        "status": f"{summary['status']} ({summary['reason']})",
        "steps": f"{summary['steps']} ({summary['examples_seen']} examples)",
        **{
            name: "not finite" if value is None else f"{value:.4f}"
            for name, value in summary["final"].items()
            if not is_cell(name)
        },
    }
    if summary["best"]:
        best = summary["best"]
        rows["best"] = f"{best['monitor']} {best['value']:.4f} at step {best['step']}"
    if summary["detached_listeners"]:
        rows["detached"] = ", ".join(summary["detached_listeners"])
    if skipped := summary["skipped"]["num_steps"]:
        text = f"{skipped} of {summary['steps']} steps (non-finite)"
        dump = summary["skipped"]["dump"]
        rows["skipped"] = text if dump is None else f"{text}; aetheria debug nan {dump}"
    if checks := summary["spot_checks"]:
        passed, failed = checks["passed_step"], len(checks["failed"])
        text = "none passed" if passed is None else f"passed up to step {passed}"
        rows["spot checks"] = f"{text}, {failed} failed" if failed else text
    rows |= {"seconds": f"{summary['wall_seconds']:.1f}", "run folder": str(run_dir)}
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    Console(highlight=False).print(table)


def _spot_checks(checks: "SpotChecks[Any, Any, Any] | None") -> dict[str, Any] | None:
    """The last step whose state has passed one, and the failures of this process."""
    if checks is None:
        return None
    failed = [
        {"step": each.progress.step + 1, "found": each.description, "action": each.action}
        for each in checks.failures
    ]
    return {"passed_step": checks.passed_step, "failed": failed}


def _goodput(run_dir: Path) -> dict[str, Any]:
    """Where the time went, over all processes of the run: seconds by kind."""
    sessions = read_goodput(run_dir)
    seconds = {kind: round(spent, 3) for kind, spent in account(sessions).items()}
    goodput = {"processes": len(sessions), "seconds": seconds}
    return {"goodput": goodput, "ledger": goodput}  # the second is its name in 0.1.0


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """What is not finite becomes null: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
