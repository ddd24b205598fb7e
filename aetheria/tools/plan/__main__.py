"""Plans in a process with as many virtual devices as its environment variables say.

Reads a request as JSON from stdin and writes the plan as JSON to stdout.
"""

import contextlib
import json
import sys
from pathlib import Path

from aetheria.build import build_retention, build_run
from aetheria.config import make_config
from aetheria.config.precision_policy import parse_policy
from aetheria.errors import AetheriaError, ExitCode, HardwareError
from aetheria.hardware.jax.program import JaxProgram
from aetheria.plugins.user_code import print_user_error
from aetheria.snapshots.runs import RunRequest
from aetheria.tools.plan.analysis import analyze, assumptions
from aetheria.tools.plan.machine import Machine
from aetheria.tools.plan.text import Part


def main() -> int:
    """Answers one request; a user's mistake is an answer too, with exit code 2."""
    request = json.load(sys.stdin)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's model may print
            answer = _plan(request)
    except AetheriaError as error:
        json.dump({"problems": error.problems}, sys.stdout)
        return int(ExitCode.USER_ERROR)
    except Exception as error:
        if request["traceback"] or not print_user_error(error):
            raise
        return int(ExitCode.FAILED)
    json.dump(answer, sys.stdout)
    return int(ExitCode.OK)


def _plan(request: Part) -> Part:
    config = make_config(request["config"], request["config_name"])
    # Built like a run, so that every mistake in the config is found; nothing is written.
    retention = build_retention(config)
    where = RunRequest(config_name=request["config_name"], retention=retention).resolve()
    program = build_run(config, where, Path(request["project"])).program
    if not isinstance(program, JaxProgram):
        raise HardwareError(
            f"plan: expected a program of one mesh, got {type(program).__name__}; "
            "plan with the reproducibility 'fast'"
        )
    plan = analyze(program, Machine(**request["machine"]))
    return {
        **plan,
        "assumptions": assumptions(plan, parse_policy(config.mixed_precision)["compute"]),
    }


if __name__ == "__main__":
    sys.exit(main())
