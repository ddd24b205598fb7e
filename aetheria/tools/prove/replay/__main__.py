"""Replays in a process with as many virtual devices as its environment variables say.

Reads a request as JSON from stdin and writes answers to stdout, one JSON object a line.
"""

import contextlib
import json
import sys

from aetheria.errors import AetheriaError, ExitCode
from aetheria.plugins.user_code import print_user_error
from aetheria.tools.prove.replay.group import Group, replay_group


def main() -> int:
    """Answers one request; a user's mistake is an answer too, with exit code 2."""
    request, stdout = json.load(sys.stdin), sys.stdout

    def answer(kind: str, value: object) -> None:
        print(json.dumps({kind: value}), file=stdout, flush=True)

    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's model may print
            replay_group(Group.from_json(request), answer)
    except AetheriaError as error:
        answer("problems", error.problems)
        return int(ExitCode.USER_ERROR)
    except Exception as error:
        if request["traceback"] or not print_user_error(error):
            raise
        return int(ExitCode.FAILED)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
