"""Arrays that workers compute together and share."""

import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conf.errors import BadDataError, StorageError, TrainingError, TrichannelError
from tests.faults.test_disk import mounted
from trainer.backends.single import SingleBackend
from trainer.shared import Shared


class Threads(SingleBackend):
    """Ranks that are threads of one process, for the collectives that mining uses."""

    def __init__(self, rank: int, size: int, meeting: threading.Barrier, slots: list[Any]) -> None:
        self.rank, self.size, self._meeting, self._slots = rank, size, meeting, slots

    def gather_ids(self, x: Tensor) -> Tensor:
        self._slots[self.rank] = x
        self._meeting.wait(20)
        whole = torch.cat(list(self._slots))
        self._meeting.wait(20)
        return whole

    def agree_any(self, value: bool) -> bool:
        return bool(self.gather_ids(torch.tensor([value])).any())

    def agree_min(self, value: int) -> int:
        return int(self.gather_ids(torch.tensor([value])).min())

    def sum(self, x: Tensor) -> Tensor:
        return self.gather_ids(x[None]).sum(dim=0)


def on_workers(size: int, body: Callable[[Shared], Any], folders: Sequence[Path | None] | None = None) -> list[Any]:
    """What body returns on each of `size` workers; folders: a worker's own one for temporary files, as on a host of its own."""
    meeting, slots, results = threading.Barrier(size), [None] * size, [None] * size
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            folder = folders[rank] if folders else None
            results[rank] = body(Shared(Threads(rank, size, meeting, slots), lambda: None, folder=folder))
        except BaseException as error:
            errors.append(error)
            meeting.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def squares(computed: list[slice]) -> Callable[[slice], tuple[Tensor, ...]]:
    def compute(rows: slice) -> tuple[Tensor, ...]:
        computed.append(rows)
        place = torch.arange(rows.start, rows.stop)
        return place[:, None] ** 2 * torch.tensor([1, -1]), place.half()

    return compute


@pytest.mark.parametrize("num", [1, 5, 100, 333])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_worker_gets_all_rows_each_computed_once(size: int, num: int) -> None:
    computed: list[slice] = []
    results = on_workers(size, lambda shared: shared.fill(num, ("a", "b"), squares(computed), chunk=5))
    for found in results:
        assert torch.equal(found["a"], torch.arange(num)[:, None] ** 2 * torch.tensor([1, -1]))
        assert torch.equal(found["b"], torch.arange(num).half())
        assert found["b"].dtype == torch.float16
    work = sorted((rows.start, rows.stop) for rows in set(map(_pair, computed)) if rows.stop - rows.start > 1 or num == 1)
    assert all(start % 5 == 0 for start, _ in work)
    assert [stop for _, stop in work][-1] == num
    in_memory = on_workers(size, lambda shared: shared.everywhere(num, squares([]), chunk=5))
    assert all(torch.equal(found[0], results[0]["a"]) for found in in_memory)


class _pair:  # noqa: N801  (a hashable slice)
    def __init__(self, rows: slice) -> None:
        self.start, self.stop = rows.start, rows.stop

    def __hash__(self) -> int:
        return hash((self.start, self.stop))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _pair) and (self.start, self.stop) == (other.start, other.stop)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_stays_on_disk_and_the_arrays_can_be_read(folder: Path) -> None:
    seen: list[Sequence[str]] = []

    def compute(rows: slice) -> tuple[Tensor, ...]:
        seen.append([path.name for path in folder.iterdir()])
        return (torch.arange(rows.start, rows.stop),)

    found = on_workers(2, lambda shared: shared.fill(50, ("a",), compute, chunk=2))
    assert len(seen[-1]) == 1  # while it is made, one folder
    assert list(folder.iterdir()) == []
    assert all(torch.equal(each["a"], torch.arange(50)) for each in found)


def test_each_host_has_a_copy(tmp_path: Path) -> None:
    """Workers 0 and 1 share a disk, worker 2 has its own."""
    hosts = [tmp_path / "one", tmp_path / "one", tmp_path / "two"]
    for host in set(hosts):
        host.mkdir()
    built: list[int] = []

    def work(shared: Shared) -> tuple[Tensor, Tensor]:
        filled = shared.fill(100, ("a", "b"), squares([]), chunk=3)["a"]
        return filled, shared.once(lambda: built.append(1) or {"x": torch.arange(7)})["x"]  # type: ignore[func-returns-value]

    for filled, once in on_workers(3, work, hosts):
        assert torch.equal(filled, torch.arange(100)[:, None] ** 2 * torch.tensor([1, -1]))
        assert torch.equal(once, torch.arange(7))
    assert len(built) == 2
    assert [list(host.iterdir()) for host in hosts] == [[], [], []]


def test_one_worker_builds_what_all_map(folder: Path) -> None:
    built: list[int] = []

    def build() -> dict[str, Tensor]:
        built.append(1)
        return {"x.y": torch.arange(14).view(7, 2).T, "none": torch.zeros(3, 0), "few": torch.tensor([True])}

    found = on_workers(3, lambda shared: shared.once(build))
    assert built == [1]
    for each in found:
        assert list(each) == ["few", "none", "x.y"]
        assert torch.equal(each["x.y"], torch.tensor([list(range(0, 14, 2)), list(range(1, 14, 2))]))
        assert each["none"].shape == (3, 0)
        assert each["few"].tolist() == [True]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("size", [1, 2])
def test_workers_with_a_host_to_themselves_write_nothing(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.shared._write", lambda *given: pytest.fail("written"))
    built: list[dict[str, Tensor]] = []

    def work(shared: Shared) -> Tensor:
        return shared.once(lambda: built.append({"x": torch.arange(7)}) or built[-1])["x"]  # type: ignore[func-returns-value]

    hosts = [tmp_path / str(rank) for rank in range(size)]
    for host in hosts:
        host.mkdir()
    found = on_workers(size, work, hosts)
    assert {id(x) for x in found} == {id(each["x"]) for each in built}
    assert len(built) == size


def outcomes(size: int, body: Callable[[Shared], Any], folders: Sequence[Path]) -> list[Any]:
    """What each worker returns or raises, the builder first."""

    def caught(shared: Shared) -> Any:
        try:
            return body(shared)
        except TrichannelError as error:
            return error

    return sorted(on_workers(size, caught, folders), key=lambda found: isinstance(found, TrainingError))


def test_all_leave_with_the_cause_where_one_cannot_build(tmp_path: Path) -> None:
    def build() -> dict[str, Tensor]:
        raise BadDataError("table cooc", ["cannot be read"])

    first, *others = outcomes(3, lambda shared: shared.once(build), [tmp_path] * 3)
    assert isinstance(first, BadDataError)
    for other in others:
        assert isinstance(other, TrainingError)
        assert other.exit_code == first.exit_code
        assert "table cooc: 1 fault cannot be read" in str(other)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_what_to_change(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m"):
        first, other = outcomes(2, lambda shared: shared.once(lambda: {"x": torch.zeros(1 << 18)}), [tmp_path / "disk"] * 2)
        assert list((tmp_path / "disk").iterdir()) == []
    assert isinstance(first, StorageError)
    assert "the disk is full   free space or change TMPDIR" in str(first)
    assert isinstance(other, TrainingError)
    assert "the disk is full" in str(other)


def test_what_fails_leaves_nothing_behind(folder: Path) -> None:
    def compute(rows: slice) -> tuple[Tensor, ...]:
        if rows.start > 20:
            raise RuntimeError("broken")
        return (torch.arange(rows.start, rows.stop),)

    with pytest.raises(RuntimeError, match="broken"):
        on_workers(1, lambda shared: shared.fill(50, ("a",), compute, chunk=2))
    assert list(folder.iterdir()) == []


def test_a_folder_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises((StorageError, FileNotFoundError)):
        on_workers(1, lambda shared: shared.fill(1, ("x",), lambda rows: (torch.zeros(1),), chunk=1))
