"""What Orbax says beside the error it raises: hundreds of lines that nobody can use."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not completed


class _LateFilter:
    """Drops one message that tensorstore causes; passes on everything else.

    When Orbax gives up on a damaged snapshot, or on a full disk, reads and writes of other leaves
    are still under way. Each of them, when it ends, reports to an event loop that is closed by
    then, and Python prints a traceback for it. Seen with orbax-checkpoint 0.12.8 and tensorstore
    0.1.86; delete this when a damaged snapshot no longer prints more than our own line.
    """

    def __init__(self, previous: Callable[[Any], Any]):
        self.previous = previous

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.previous(unraisable)


def _told_by_others(record: logging.LogRecord) -> bool:
    """Whether a message is any but those of a failed save's parts: the save itself raises one."""
    if record.name == "asyncio":
        return "never retrieved" not in record.getMessage() or UNFINISHED not in record.getMessage()
    return "_SignalingThread.run() raised" not in str(record.msg)


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """While Orbax works: what fails is raised, and said nowhere else.

    The filter of late messages stays after a failure, since they come at any time.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_told_by_others)
    hook = sys.unraisablehook
    if not isinstance(hook, _LateFilter):
        hook = sys.unraisablehook = _LateFilter(hook)
    yield
    if sys.unraisablehook is hook:
        sys.unraisablehook = hook.previous
