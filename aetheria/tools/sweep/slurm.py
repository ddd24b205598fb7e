"""Runs the trials of a sweep as an array of SLURM jobs, one trial a job."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence

from aetheria.errors import AetheriaError
from aetheria.tools.sweep.study import SweepStudy

# A minute before its time limit SLURM signals the script alone, not the run beside the sweep: the
# run would be signalled twice and end without a snapshot.
_SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name=aetheria-sweep
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
{command} &
process=$!
trap 'kill -USR1 $process' USR1
wait $process
code=$?
while kill -0 $process 2>/dev/null; do
    wait $process
    code=$?
done
if [ "$code" = 75 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def check_slurm() -> None:
    """Raises AetheriaError if there is no SLURM."""
    if shutil.which("sbatch") is None:
        raise AetheriaError(
            "--slurm: expected the program sbatch, got none here; run this where SLURM is, or use "
            "--jobs without --slurm"
        )


def run_array(
    command: Sequence[str], study: SweepStudy, num_trials: int, jobs: int, options: Sequence[str]
) -> bool:
    """Submits a job for each trial that is to be run, and waits until all have ended.

    Args:
        command: runs one trial.
        study: the sweep.
        num_trials: of the sweep.
        jobs: how many run at a time.
        options: of sbatch, without hyphens.

    Returns:
        Whether trials are left.

    Raises:
        AetheriaError: SLURM refuses the jobs.
    """
    count = study.num_to_run(num_trials)
    if not count:
        return False
    log = study.folder / "slurm-%A_%a.log"
    arguments = ["sbatch", "--wait", "--parsable", f"--array=0-{count - 1}%{jobs}"]
    arguments += [f"--output={log}", *(f"--{option}" for option in options)]
    print(f"submits {count} jobs, {jobs} at a time; logs: {log}", flush=True)
    done = subprocess.run(
        arguments,
        input=_SCRIPT.format(command=shlex.join(command)),
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.strip():
        reason = " ".join(done.stderr.split())[:300]
        raise AetheriaError(f"--slurm: expected jobs, got {reason!r}; change --sbatch")
    return study.num_to_run(num_trials) > 0
