"""A thread that reads ahead, so that the loop finds its next data ready."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetch(items: Iterable[Item], *, depth: int = 2) -> Generator[Item, None, None]:
    """Yields `items`, read up to `depth` ahead in a thread.

    An error in the thread is raised at the place in the stream where it happened. Closing the
    iterator (or dropping it) ends the thread.

    >>> list(prefetch([1, 2, 3]))
    [1, 2, 3]
    """
    ready: queue.Queue = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: object) -> bool:
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
                if not offer(item):
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            last = error
        offer(last)

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
