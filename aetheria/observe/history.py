"""The metrics of a run in memory, for the program that started it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aetheria.events import Event, RolledBack, RunStarted
from aetheria.observe.loggers.records import metric_record

if TYPE_CHECKING:
    import pandas

Record = dict[str, Any]


class History(list[Record]):
    """What was logged, a dict each: the keys of a line of `metrics.jsonl`, which are `step`,
    `epoch`, `examples_seen`, `split` (`train`, `eval`, or `eval/<name>` of several, `test`), and
    the metrics.
    """

    def to_pandas(self) -> "pandas.DataFrame":
        """A table with a row for each record; pandas has to be installed."""
        import pandas

        return pandas.DataFrame(self)


class HistoryRecorder:
    """Observer: keeps the records of a run, and drops those that the run goes back behind.

    Args:
        earlier: the records of the run that is resumed.
    """

    def __init__(self, earlier: Iterable[Record] = ()):
        self.history = History(earlier)

    def notify(self, event: Event) -> None:
        """Keeps the metrics of an event."""
        if isinstance(event, RunStarted | RolledBack):
            last = event.last_logged_step
            self.history[:] = [each for each in self.history if each["step"] <= last]
        elif (record := metric_record(event)) is not None:
            self.history.append(record)
