"""`aetheria …`: an argument vector becomes a command; a mistake is one line and exit code 2."""

import gc
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from aetheria.cli.commands import Command
from aetheria.cli.parser import parse
from aetheria.cli.terminal import safe_output
from aetheria.errors import AetheriaError, ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, executes, and returns the exit code."""
    return run_command(parse, argv)


def run_command(parser: Callable[[Sequence[str]], Command], argv: Sequence[str] | None) -> int:
    """Executes the command that `parser` makes of `argv` (None: that of the process). Prints each
    problem of an AetheriaError on a line, and of an exception in the user's code only the user's
    frames; `--traceback` prints all frames.
    """
    if argv is None:
        # Most objects that a start makes stay, and the default thresholds visit them again and
        # again: a twentieth of a short run of a small model.
        gc.set_threshold(50_000, 20, 50)
        argv = sys.argv[1:]
    command = None
    with safe_output():
        try:
            command = parser(argv)
            # Libraries such as Orbax warn on stderr about things that a user cannot change.
            logging.getLogger("absl").setLevel(logging.ERROR)
            return command.execute()
        except AetheriaError as error:
            return _report(error, error, command)
        except Exception as error:
            from aetheria.hardware.failures import users_mistake
            from aetheria.plugins.user_code import print_user_error  # 0.1 s, for an error alone

            if mistake := users_mistake(error):
                return _report(mistake, error, command)
            if getattr(command, "traceback", False) or not print_user_error(error):
                raise
            return int(ExitCode.FAILED)


def _report(mistake: AetheriaError, error: Exception, command: Command | None) -> int:
    if getattr(command, "traceback", False):
        traceback.print_exception(error)
    for problem in mistake.problems:
        print(" ".join(problem.split()), file=sys.stderr)
    return int(ExitCode.USER_ERROR)
