"""What the loggers of tracking services share: one run in the service, and every point there once.

A service cannot take a point back. So a logger writes each point into a file of the run folder,
which is cut when the run goes back, and sends it from a thread. When a run resumes, the logger asks
the service what it has: of the file it sends what the service lacks, and of what the run emits
again it sends nothing that the service has already.
"""

import json
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType

from aetheria.config.json_types import JsonObject
from aetheria.events import (
    EvaluationCompleted,
    Event,
    RolledBack,
    RunEnded,
    RunStarted,
    TrainMetrics,
)
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.line_file import LineFile
from aetheria.observe.loggers.records import metric_values, rates, step_of_json

_MAX_BATCH = 50  # points that are sent together


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What a service is given of one event with metrics.

    Attributes:
        step: the optimizer step.
        epoch: the epoch of that step.
        time: when it was logged, in seconds since the epoch of Unix.
        values: name -> value, with names such as `train/loss`.
        media: name -> JSON values of what the service shows beside curves, in a form that its
            logger knows.
    """

    step: int
    epoch: int
    time: float
    values: Mapping[str, float]
    media: Mapping[str, JsonObject] = field(default_factory=dict)


class ServiceLogger(ABC):
    """Template Method: a logger of a service. A subclass opens, reads, fills and closes its run.

    The service's id of the run is part of every snapshot, so that a resumed run continues the same
    one; a fork gets another. An error of the service in the thread is raised at the next event.

    Args:
        context: what every logger is given.
        name: of the file with the points.
    """

    def __init__(self, context: RunContext, name: str):
        self._context = context
        self._run_id: str | None = None
        self._points = LineFile(context.run_dir / "points" / f"{name}.jsonl", step_of_json)
        self._last: dict[str, int] = {}  # name of a value -> its last step in the service
        self._queue: queue.SimpleQueue[Point | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @abstractmethod
    def _open(self, run_id: str | None) -> str:
        """Continues the run of an id, or begins one; returns its id."""

    @abstractmethod
    def _last_steps(self) -> dict[str, int] | None:
        """Name of a value -> its last step in the service; None: this service cannot say."""

    @abstractmethod
    def _send(self, points: Sequence[Point]) -> None:
        """Logs points, in the order of their steps; called in a thread of its own."""

    @abstractmethod
    def _close(self, status: str) -> None:
        """Ends this process's part of the run, all points being sent."""

    def _allowed(self, name: str) -> str:
        """The name of a value in the characters that the service allows."""
        return name

    def _media_of(self, event: TrainMetrics) -> dict[str, JsonObject]:
        """What the service shows of a report beside its values."""
        return {}

    def notify(self, event: Event) -> None:
        """Logs the values of an event with metrics."""
        if self._error is not None:
            raise self._error
        match event:
            case RunStarted():
                self._start(event)
            case RolledBack():
                self._points.follow(event)
            case TrainMetrics():
                values = metric_values(event) | rates(event)
                self._log(event, _named("train", values), self._media_of(event))
            case EvaluationCompleted():
                self._log(event, _named(event.split, metric_values(event)))
            case RunEnded() if self._thread is not None:
                self._end(event)

    def export_state(self) -> JsonObject:
        """The id of the run in the service."""
        return {"run_id": self._run_id}

    def import_state(self, state: JsonObject) -> None:
        """Takes back the id of the run in the service."""
        # A fork is another run: it must not write to the run of its parent.
        self._run_id = None if self._context.is_fork else state["run_id"]

    def _start(self, event: RunStarted) -> None:
        known = self._run_id
        self._run_id = self._open(known)
        if known is not None:
            found = self._last_steps()
            self._last = _last_steps_of(self._earlier()) if found is None else found
        self._points.follow(event)
        self._thread = threading.Thread(target=self._send_all, name="logger", daemon=True)
        self._thread.start()
        for point in self._earlier():
            self._enqueue(point)

    def _log(
        self,
        event: TrainMetrics | EvaluationCompleted,
        values: Mapping[str, float],
        media: Mapping[str, JsonObject] = MappingProxyType({}),
    ) -> None:
        point = Point(
            step=event.progress.step,
            epoch=event.progress.epoch,
            time=round(time.time(), 3),
            values={self._allowed(name): value for name, value in values.items()},
            media=dict(media),
        )
        line = {name: part for name, part in asdict(point).items() if part or name != "media"}
        self._points.append(json.dumps(line))
        self._enqueue(point)

    def _end(self, event: RunEnded) -> None:
        assert self._thread is not None
        self._queue.put(None)
        self._thread.join()
        self._points.follow(event)
        self._close(event.status)
        if self._error is not None:
            raise self._error

    def _earlier(self) -> list[Point]:
        return [Point(**json.loads(line)) for line in self._points.lines()]

    def _enqueue(self, point: Point) -> None:
        """Sends of a point what the service does not have."""
        is_new = lambda name: point.step > self._last.get(name, -1)
        values = {name: value for name, value in point.values.items() if is_new(name)}
        media = {name: shown for name, shown in point.media.items() if is_new(name)}
        if values or media:
            self._last.update(dict.fromkeys([*values, *media], point.step))
            self._queue.put(replace(point, values=values, media=media))

    def _send_all(self) -> None:
        """Sends what is in the queue, until None is."""
        while (point := self._queue.get()) is not None:
            points, ended = [point], False
            while len(points) < _MAX_BATCH and not self._queue.empty():
                another = self._queue.get()
                if another is None:
                    ended = True
                    break
                points.append(another)
            try:
                self._send(points)
            except Exception as error:
                self._error = error  # what follows stays in the file, for the next start
                return
            if ended:
                return


def _last_steps_of(points: Sequence[Point]) -> dict[str, int]:
    return {name: point.step for point in points for name in (*point.values, *point.media)}


def _named(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in values.items()}
