"""Files: whole or not at all; a refused or full disk named with what to do."""

import errno
import hashlib
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from conf import files
from conf.errors import StorageError
from conf.files import hash_file, open_root, storage_faults, write_atomic

LOCAL = pafs.LocalFileSystem()
OTHER = pafs.SubTreeFileSystem("/", LOCAL)  # not recognised as local: the path of hdfs and s3


@pytest.mark.parametrize("filesystem", [LOCAL, OTHER], ids=["local", "other"])
def test_write_atomic_replaces_the_whole_file_and_leaves_nothing_else(tmp_path, filesystem):
    path = tmp_path / "a" / "b.json"
    for text in ("long text é", "x", ""):
        write_atomic(filesystem, str(path), text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "b.json"
    write_atomic(LOCAL, str(path), "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(LOCAL, str(path), "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_hash_is_that_of_the_bytes(tmp_path):
    data = bytes(range(256)) * 20_000  # more than one read
    (tmp_path / "x").write_bytes(data)
    assert hash_file(LOCAL, str(tmp_path / "x")) == (len(data), hashlib.sha256(data).hexdigest())
    (tmp_path / "y").write_bytes(b"")
    assert hash_file(LOCAL, str(tmp_path / "y")) == (0, hashlib.sha256(b"").hexdigest())


def test_roots_are_absolute_and_end_in_no_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_root("data/")[1] == str(tmp_path / "data")
    assert open_root("~/x")[1] == str(Path.home() / "x")
    assert open_root(f"file://{tmp_path}/x/")[1] == f"{tmp_path}/x"


@pytest.mark.parametrize(
    ("number", "exit_code", "text"),
    [
        (errno.ENOSPC, 1, "the disk is full"),
        (errno.EDQUOT, 1, "the disk is full"),
        (errno.EROFS, 2, "cannot be written"),
        (errno.EACCES, 2, "cannot be written"),
        (errno.ENOTDIR, 2, "cannot be written"),
    ],
)
def test_faults_of_the_disk_say_what_to_do(number, exit_code, text):
    with pytest.raises(StorageError, match=text) as caught, storage_faults("/data"):
        raise OSError(number, "as the system says")
    assert caught.value.exit_code == exit_code
    assert "storage.root" in str(caught.value)


def test_other_faults_pass_as_they_are():
    with pytest.raises(OSError, match="Input/output"), storage_faults("/data"):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("make", [LOCAL.create_dir, lambda path: write_atomic(LOCAL, f"{path}/y", "x")], ids=["create_dir", "write"])
def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), storage_faults("/data"):
        make(str(tmp_path / "file" / "x"))
    with pytest.raises(StorageError, match="cannot be written"), storage_faults("/data"):
        make(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("error", "exit_code", "text"),
    [
        (OSError("Unable to load libjvm"), 2, "its client is not installed"),
        (OSError("Couldn't resolve host name"), 3, "cannot be reached"),
    ],
)
def test_a_root_that_cannot_be_opened_says_whether_a_retry_helps(monkeypatch, error, exit_code, text):
    class Absent:
        @staticmethod
        def from_uri(uri):
            raise error

    monkeypatch.setattr(files.pafs, "FileSystem", Absent)  # as pyarrow fails where the client is missing, or the host is down
    with pytest.raises(StorageError, match=text) as caught:
        open_root("hdfs:///warehouse")
    assert caught.value.exit_code == exit_code


def test_a_root_of_no_known_kind_is_refused():
    with pytest.raises(StorageError, match="no file system that pyarrow opens") as caught:
        open_root("nosuch://warehouse")
    assert caught.value.exit_code == 2
