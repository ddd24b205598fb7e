"""Several processes as one command: a mistake found by one ends all, and is said once."""

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
    """Makes something on every process.

    Raises:
        AetheriaError: a process could not. On process 0 with what each one said, its own and the
            same as its own without a number; on the others with nothing to say.
    """
    made, problems = None, ()
    try:
        made = make()
    except AetheriaError as error:
        problems = error.problems
        if peers.count == 1:
            raise
    said = peers.all_gather(list(problems))
    if not any(said):
        assert made is not None or not problems
        return made  # type: ignore[return-value]
    if peers.index > 0:
        raise AetheriaError
    lines = list(said[0])
    for index, others in enumerate(said):
        lines += [f"process {index}: {line}" for line in others if line not in said[0]]
    raise AetheriaError(*lines)


def exit_together(peers: Peers, error: BaseException, *, whole: bool) -> NoReturn:
    """Ends a process of several. Its last words are its traceback (of a user's mistake its lines,
    of an exception in a user's code the user's own frames, unless `whole`) and what became of the
    others. A normal exit would wait for all of them, and so for ever for one that is dead.
    """
    mistake = isinstance(error, AetheriaError)
    if mistake:
        print(*error.problems, sep="\n", file=sys.stderr)
    elif whole or not print_user_error(error):
        traceback.print_exception(error)
    for index, words in enumerate(peers.exchange_exit_reasons(f"{type(error).__name__}: {error}")):
        if index != peers.index:
            fate = "gave no sign of life; look at its log" if words is None else f"ended: {words}"
            print(f"process {index} of {peers.count} {fate}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.USER_ERROR if mistake else ExitCode.FAILED)
