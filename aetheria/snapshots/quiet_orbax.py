"""Silences what Orbax prints beside the error that it raises: hundreds of lines of no use."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not completed


class _LateFilter:
    """Drops one message that tensorstore causes; passes on everything else.

    When Orbax gives up on a damaged snapshot, or on a full disk, reads and writes of other leaves
    are still under way. Each of them reports its end to an event loop that is closed by then, and
    Python prints a traceback for it. Seen with orbax-checkpoint 0.12.8 and tensorstore 0.1.86;
    delete this when a damaged snapshot prints no more than our own line.
    """

    def __init__(self, previous: "Callable[[sys.UnraisableHookArgs], object]"):
        self.previous = previous

    def __call__(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.previous(unraisable)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Drops the messages about parts of a failed save: the save itself raises an error."""
    if record.name == "asyncio":
        return "never retrieved" not in record.getMessage() or UNFINISHED not in record.getMessage()
    return "_SignalingThread.run() raised" not in str(record.msg)


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Silences Orbax while the block runs; a failure is raised, and printed nowhere else.

    The filter of late messages stays after a failure, since they may come at any time.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_of_interest)
    hook = sys.unraisablehook
    if not isinstance(hook, _LateFilter):
        hook = sys.unraisablehook = _LateFilter(hook)
    yield
    if sys.unraisablehook is hook:
        sys.unraisablehook = hook.previous
