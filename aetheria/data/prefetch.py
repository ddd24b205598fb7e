"""A thread that reads ahead, so that the next data is ready when the loop needs it."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetch(items: Iterable[Item], *, depth: int = 2) -> Generator[Item, None, None]:
    """Yields `items`, which a thread reads up to `depth` ahead.

    Closing the iterator, or deleting it, ends the thread.

    Raises:
        Exception: whatever `items` raises, after the items before it were yielded.

    >>> list(prefetch([1, 2, 3]))
    [1, 2, 3]
    """
    ready: queue.Queue = queue.Queue(depth)
    closed = threading.Event()

    def put(item: object) -> bool:
        """Waits for room in the queue; returns False if the consumer has closed it."""
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        last: object = _END
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # passed to the consumer, which raises it
            last = error
        finally:
            if isinstance(items, Generator):
                items.close()  # here, so that what it holds is freed at once
        put(last)

    thread = threading.Thread(target=read, name="aetheria-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
