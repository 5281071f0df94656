from pathlib import Path

import pytest
import torch

from conf.errors import StorageError
from trainer import row_files
from trainer.row_files import deal, file_backed


@pytest.mark.parametrize("old", [1, 2, 3, 5])
@pytest.mark.parametrize("new", [1, 2, 3, 4])
def test_rows_are_dealt_anew(old: int, new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "_CHUNK", 2)
    whole = {"table": torch.arange(22.0).view(11, 2), "sum": torch.arange(7, dtype=torch.float64), "few": torch.ones(2, 1)}
    files = [lambda r=r: {name: rows[r::old] for name, rows in whole.items()} for r in range(old)]
    for rank in range(new):
        dealt = deal(files, rank, new)
        for name, rows in whole.items():
            torch.testing.assert_close(dealt[name], rows[rank::new], rtol=0, atol=0)


def test_nothing_was_divided() -> None:
    assert deal([], 0, 2) == {}


def test_a_file_backed_tensor_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = file_backed((3, 2), torch.float32)
    made[:] = 2
    assert made.sum() == 12
    assert list(tmp_path.iterdir()) == []  # it has no name
    assert file_backed((0, 4), torch.int64).shape == (0, 4)


def test_no_room_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError):
        file_backed((3, 2), torch.float32)
