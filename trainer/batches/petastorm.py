"""Row groups decoded by Petastorm, in our order.

`make_batch_reader` can shuffle row groups only by its own seed and deal them out only by index modulo shard, so the `Reader` it builds is
built here with one method replaced: the one that chooses the row groups. One worker thread keeps their order.
"""

import warnings
from collections.abc import Generator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault, UsageError
from conf.files import open_root
from trainer.batches.columns import Decoded, check, unreadable
from trainer.batches.order import RowGroup

with warnings.catch_warnings():
    warnings.simplefilter("ignore", category=FutureWarning)
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.etl.dataset_metadata import UNISCHEMA_KEY
    from petastorm.fs_utils import get_filesystem_and_path_or_paths
    from petastorm.reader import Reader
    from petastorm.workers_pool.thread_pool import ThreadPool

# Petastorm reads through pyarrow's legacy dataset, which warns a dozen times a reader, in threads of its own.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")

_AHEAD = 2  # decoded row groups that wait in the reader's queue


class _OrderedReader(Reader):  # type: ignore[misc]
    """A batch reader over exactly the wanted (path, row group) pairs, in their order."""

    def __init__(self, filesystem: Any, paths: Sequence[str], wanted: Sequence[tuple[str, int]], columns: Sequence[str]) -> None:
        self._wanted = wanted
        super().__init__(
            filesystem,
            list(dict.fromkeys(paths)),
            schema_fields=[f"^{name}$" for name in columns],  # they are regular expressions
            worker_class=ArrowReaderWorker,
            reader_pool=ThreadPool(1, _AHEAD),
            shuffle_row_groups=False,
            num_epochs=1,
            is_batched_reader=True,
        )

    def _filter_row_groups(self, dataset: Any, row_groups: Sequence[Any], *_: Any) -> tuple[list[int], None]:
        place = {(piece.path, piece.row_group): number for number, piece in enumerate(row_groups)}
        return [place[pair] for pair in self._wanted], None


def read_petastorm(groups: Sequence[RowGroup], columns: Sequence[str], history: int) -> Generator[Decoded, None, None]:
    """Each row group, in the given order; raises BadDataError naming the file that cannot be read."""
    if not groups:
        return
    if any(group.cut for group in groups):
        fault = Fault("table samples is of layout sequences, which petastorm cannot read", fix="set trainer.batches: arrow")
        raise UsageError("trainer.batches", [fault])
    reader = _open(groups, columns)
    try:
        for group in groups:
            yield check(_next(reader, group), group, columns, history)
    finally:
        reader.stop()
        reader.join()


def _open(groups: Sequence[RowGroup], columns: Sequence[str]) -> _OrderedReader:
    files = [group.file for group in groups]
    try:
        if "://" in files[0]:
            filesystem, paths = get_filesystem_and_path_or_paths(files, hdfs_driver="libhdfs")
        else:  # not as URLs: a '#' or '?' in a folder's name would cut them
            filesystem, paths = get_filesystem_and_path_or_paths("file:///")[0], files
        wanted = [(path, group.index) for path, group in zip(paths, groups, strict=True)]
        return _OrderedReader(filesystem, paths, wanted, columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _culprit(groups, error) from error


def _next(reader: _OrderedReader, group: RowGroup) -> Decoded:
    try:
        return dict(next(reader)._asdict())
    except (OSError, pa.ArrowException, RuntimeError, StopIteration) as error:
        raise unreadable(group, error) from error


def _culprit(groups: Sequence[RowGroup], error: Exception) -> BadDataError:
    """The error for a reader that does not even open: the first file whose footer cannot be read, or lacks the row group."""
    for group in groups:
        filesystem, path = open_root(group.file)
        try:
            with filesystem.open_input_file(path) as handle:
                found = pq.ParquetFile(handle).metadata.num_row_groups
        except (OSError, pa.ArrowException) as own:
            return unreadable(group, own)
        if found <= group.index:
            return unreadable(group, ValueError(f"the file has {found} row groups"))
    return unreadable(groups[0], error)


def refuse_pickled_schema(files: Sequence[str]) -> None:
    """Raise BadDataError if a folder of these files carries a Petastorm schema.

    Petastorm unpickles it on opening the folder, and a crafted one runs code; our tables never have one.
    """
    for folder in sorted({file.rsplit("/", 1)[0] for file in files}):
        for name in ("_common_metadata", "_metadata"):
            filesystem, path = open_root(f"{folder}/{name}")
            if filesystem.get_file_info(path).type == pafs.FileType.NotFound:
                continue
            try:
                with filesystem.open_input_file(path) as handle:
                    carried = UNISCHEMA_KEY in (pq.read_schema(handle).metadata or {})
            except (OSError, pa.ArrowException):
                carried = True
            if carried:
                raise BadDataError(f"{folder}/{name}", [Fault("holds a pickled schema, which is never opened", fix="remove the file")])
