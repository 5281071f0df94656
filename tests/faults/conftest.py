"""A folder in memory: the protocol syncs every small file to disk, which takes long on a busy one and proves nothing here."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_path(tmp_path) -> Iterator[Path]:
    """tmp_path in memory where the machine has such a file system."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="trichannel-tests-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)
