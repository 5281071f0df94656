"""Batches made ahead by a thread."""

import threading
from collections.abc import Iterator

import pytest

from trainer.batches import Prefetched


def test_an_error_of_the_thread_comes_after_the_items_before_it() -> None:
    def make() -> Iterator[int]:
        yield from range(3)
        raise ValueError("broken")

    with Prefetched(make, depth=2) as items:
        assert [next(items), next(items), next(items)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                next(items)


def test_the_queue_is_bounded_and_close_ends_the_thread() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    items = Prefetched(make, depth=3)
    assert next(items) == 0
    items.close()
    assert len(made) <= 6
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
