"""Joins calls that arrive together into one computation. Knows no models."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Group = TypeVar("Group", bound=Hashable)
Batch = Any  # a NumPy array [num_rows, ...], or a tree of them


@dataclass(frozen=True, eq=False)
class Call(Generic[Group]):
    """One call that waits for its answer.

    Attributes:
        group: calls of different groups are never computed together.
        batch: its rows.
        num_rows: how many they are.
        answer: gets the answer.
        arrived_at: the monotonic time of its arrival, in seconds.
    """

    group: Group
    batch: Batch
    num_rows: int
    answer: Future[Any] = field(default_factory=Future)
    arrived_at: float = field(default_factory=time.monotonic)


class MicroBatcher(Generic[Group]):
    """Computes calls in a few threads; calls of one group that wait at the same time are joined.

    Args:
        compute: answers several calls of one group at once, in their order.
        may_join: whether calls of a group with so many rows in all may be computed at once.
        max_delay_seconds: how long a call waits for others to join it, from its arrival, while a
            thread is free. A call that none can join does not wait.
        num_threads: how many computations run at once.
        on_batch: is called with the numbers of calls and rows of each computation.
    """

    def __init__(
        self,
        compute: Callable[[Group, Sequence[Batch]], Sequence[Any]],
        *,
        may_join: Callable[[Group, int], bool],
        max_delay_seconds: float,
        num_threads: int = 2,
        on_batch: Callable[[int, int], None] = lambda num_calls, num_rows: None,
    ):
        self._compute, self._may_join, self._on_batch = compute, may_join, on_batch
        self._max_delay_seconds = max_delay_seconds
        self._waiting: deque[Call[Group]] = deque()
        self._open: list[list[Call[Group]]] = []  # calls that a thread holds back for others
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, group: Group, batch: Batch, num_rows: int) -> Future[Any]:
        """Queues a call; the future gets its answer, or the error of its computation. A call whose
        future is cancelled before it starts is dropped.

        Raises:
            RuntimeError: the batcher is closed.
        """
        call = Call(group, batch, num_rows)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            held = [calls for calls in self._open if self._joins(call, calls)]
            held[0].append(call) if held else self._waiting.append(call)
            self._changed.notify_all()
        return call.answer

    def close(self) -> None:
        """Answers what is queued, then ends the threads; refuses further calls."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (calls := self._take()) is not None:
            if started := [call for call in calls if call.answer.set_running_or_notify_cancel()]:
                self._answer(started)

    def _answer(self, calls: Sequence[Call[Group]]) -> None:
        try:
            self._on_batch(len(calls), _num_rows(calls))
            answers = self._compute(calls[0].group, [call.batch for call in calls])
        except BaseException as error:  # also of the user's model: it belongs to the callers
            for call in calls:
                call.answer.set_exception(error)
            return
        for call, answer in zip(calls, answers, strict=True):
            call.answer.set_result(answer)

    def _take(self) -> list[Call[Group]] | None:
        """Takes the oldest call and those that join it; None: closed, and all is answered."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            calls = [self._waiting.popleft()]
            for call in [*self._waiting]:
                if self._joins(call, calls):
                    self._waiting.remove(call)
                    calls.append(call)
            self._open.append(calls)
            while self._may_join(calls[0].group, _num_rows(calls) + 1) and not self._closed:
                left = calls[0].arrived_at + self._max_delay_seconds - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._open = [each for each in self._open if each is not calls]
            return calls

    def _joins(self, call: Call[Group], calls: Sequence[Call[Group]]) -> bool:
        num_rows = _num_rows(calls) + call.num_rows
        return call.group == calls[0].group and self._may_join(call.group, num_rows)


def _num_rows(calls: Sequence[Call[Group]]) -> int:
    return sum(call.num_rows for call in calls)
