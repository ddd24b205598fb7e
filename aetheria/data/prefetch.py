"""A thread that reads ahead, so that the loop finds its next window ready."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def prefetch(chunks: Iterable[list[Item]], *, depth: int = 2) -> Generator[Item, None, None]:
    """Yields the items of `chunks`, read up to `depth` chunks ahead in a thread.

    An error in the thread is raised at the place in the stream where it happened. Closing the
    iterator (or dropping it) ends the thread.

    >>> list(prefetch([[1, 2], [3]]))
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
            for chunk in chunks:
                if not offer(chunk):
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            last = error
        offer(last)

    thread = threading.Thread(target=read, name="aetheria-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            chunk = ready.get()
            if chunk is _END:
                return
            if isinstance(chunk, BaseException):
                raise chunk
            yield from chunk
    finally:
        closed.set()
