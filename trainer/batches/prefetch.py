"""Make batches in a thread while the model computes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Done:
    """Put after the last item; error: what ended the producer, if anything did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetched(Generic[T]):
    """An iterator whose items are made ahead, at most `depth` of them, by one thread.

    An exception of the producer is raised from `next` after the items made before it. `close` ends the thread; use as a context manager.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int) -> None:
        self._make = make
        self._queue: queue.Queue[T | _Done] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
        self._thread.start()

    def _produce(self) -> None:
        try:
            for item in self._make():
                if not self._put(item):
                    return
            self._put(_Done(None))
        except BaseException as error:
            self._put(_Done(error))

    def _put(self, item: T | _Done) -> bool:
        """False if nobody will take it any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = self._queue.get()
        if isinstance(item, _Done):
            self._queue.put(item)  # so that every further next() ends the same way
            raise item.error if item.error is not None else StopIteration
        return item

    def close(self) -> None:
        """End the producer and wait for its thread; safe to call twice."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> "Prefetched[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
