"""Makes several processes act as one command: an error on one ends all, and is reported once."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from aetheria.engine.interfaces import Peers
from aetheria.errors import AetheriaError, ExitCode
from aetheria.plugins.user_code import print_user_error

Made = TypeVar("Made")


def all_or_none(peers: Peers, make: Callable[[], Made]) -> Made:
    """Calls `make` on every process, and raises on every process if one of the calls fails.

    Args:
        peers: the processes; all of them call this function.
        make: returns the result, or raises AetheriaError.

    Raises:
        AetheriaError: a call failed. On process 0 it has the lines of all processes; lines that
            differ from process 0's own begin with the number of the process. On the other
            processes it is empty, so that nothing is reported twice.
    """
    made, problems = None, ()
    try:
        made = make()
    except AetheriaError as error:
        problems = error.problems
        if peers.count == 1:
            raise
    gathered = peers.all_gather(list(problems))
    if not any(gathered):
        assert made is not None or not problems
        return made  # type: ignore[return-value]
    if peers.index > 0:
        raise AetheriaError
    lines = list(gathered[0])
    for index, others in enumerate(gathered):
        lines += [f"process {index}: {line}" for line in others if line not in gathered[0]]
    raise AetheriaError(*lines)


def exit_together(peers: Peers, error: BaseException, *, whole: bool) -> NoReturn:
    """Ends this process, one of several, after printing its error and how the others ended.

    A normal exit would wait for all processes, and so for ever if one of them is dead.

    Args:
        peers: the processes.
        error: what ends this process.
        whole: print the whole traceback of an exception in a user's code, not only the user's own
            frames. Of an AetheriaError only the lines are printed.
    """
    is_user_error = isinstance(error, AetheriaError)
    if is_user_error:
        print(*error.problems, sep="\n", file=sys.stderr)
    elif whole or not print_user_error(error):
        traceback.print_exception(error)
    reasons = peers.exchange_exit_reasons(f"{type(error).__name__}: {error}")
    for index, reason in enumerate(reasons):
        if index != peers.index:
            end = "did not respond; read its log" if reason is None else f"ended: {reason}"
            print(f"process {index} of {peers.count} {end}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.USER_ERROR if is_user_error else ExitCode.FAILED)
