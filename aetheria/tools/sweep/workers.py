"""Runs the trials of a sweep in processes of this machine, some at a time, until none is left."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from aetheria.engine.stop import StopSignal
from aetheria.hardware.processes.signals import raise_at_once, stop_on_signals
from aetheria.tools.sweep.results import point_text, value_text, write_results
from aetheria.tools.sweep.settings import Settings
from aetheria.tools.sweep.study import SweepStudy
from aetheria.tools.sweep.trial import TrialInProgress

_POLL_SECONDS = 0.1
_GPUS = Path("/proc/driver/nvidia/gpus")


def run_trials(
    study: SweepStudy,
    settings: Settings,
    project: Path,
    *,
    num_trials: int,
    jobs: int,
    most: int | None = None,
) -> bool:
    """Runs trials until the sweep has `num_trials`, or a signal stops this process.

    Args:
        study: remembers the trials.
        settings: of the sweep.
        project: the project folder.
        num_trials: of the sweep, those that have ended and those of other processes included.
        jobs: how many run at a time.
        most: how many this process runs at most; None: any number.

    Returns:
        Whether this process left trials behind, since it was stopped.
    """
    active: dict[int, TrialInProgress] = {}  # by job
    stop, begun = StopSignal(), 0
    gpus = visible_gpus(os.environ)
    with stop_on_signals(stop, raise_at_once):
        try:
            while True:
                for job in sorted(set(range(jobs)).difference(active)):
                    if stop.requested or (most is not None and begun >= most):
                        break
                    claimed = study.claim(num_trials)
                    if claimed is None:
                        break
                    variables = gpu_variables(gpus, job, jobs)
                    active[job] = TrialInProgress(claimed, study, settings, project, variables)
                    begun += 1
                    print(f"trial {claimed.number}: {point_text(claimed.point)}", flush=True)
                if not active:
                    return stop.requested
                if stop.requested:
                    for trial in active.values():
                        trial.stop()
                _advance(active, study, settings, stop)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            for trial in active.values():
                trial.kill()
            raise


def _advance(
    active: dict[int, TrialInProgress], study: SweepStudy, settings: Settings, stop: StopSignal
) -> None:
    for job, trial in list(active.items()):
        if trial.advance():
            continue
        del active[job]
        if trial.status == "stopped":
            print(f"trial {trial.number}: stopped, to be continued", flush=True)
            # Somebody has signalled the run alone: begun again here, it would go on at once.
            stop.request("a run was stopped", preempt=True)
            continue
        results = write_results(study, settings)
        entry, best = results["trials"][trial.number], results["best"]
        said = entry["reason"] or f"{settings.metric} {value_text(entry)}"
        is_best = best is not None and best["number"] == trial.number
        print(f"trial {trial.number}: {said}{', the best so far' if is_best else ''}", flush=True)


def visible_gpus(environ: Mapping[str, str], listed: Path = _GPUS) -> list[str]:
    """The NVIDIA GPUs that a process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(i) for i in range(len(list(listed.iterdir())))] if listed.is_dir() else []


def gpu_variables(gpus: list[str], job: int, jobs: int) -> dict[str, str]:
    """The variables that give each of several jobs a GPU of its own, as far as there are enough; a
    single job has all of them.

    >>> gpu_variables(["0", "1"], 2, 3), gpu_variables(["0", "1"], 0, 1)
    ({'CUDA_VISIBLE_DEVICES': '0'}, {})
    """
    if jobs == 1 or not gpus:
        return {}
    return {"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)]}
