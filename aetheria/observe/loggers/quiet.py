"""What `aetheria train --quiet` prints of a run's course: what went wrong, on stderr."""

import sys

from aetheria.events import EvaluationCompleted, Event
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.progress_text import describe_event


class WarningLogger:
    """Listener: prints what went wrong, and no progress."""

    def __init__(self, context: RunContext):
        pass

    def notify(self, event: Event) -> None:
        """Prints a line on stderr for an event that is a problem."""
        if not isinstance(event, EvaluationCompleted):
            for line in describe_event(event):
                print(line, file=sys.stderr)
