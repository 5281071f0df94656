"""Row groups decoded by pyarrow."""

from collections.abc import Generator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from conf.files import open_root
from trainer.batches.columns import Decoded, check, to_numpy, unreadable
from trainer.batches.order import RowGroup


def read_arrow(groups: Sequence[RowGroup], columns: Sequence[str], history: int) -> Generator[Decoded, None, None]:
    """Each row group, in the given order; raises BadDataError naming the file that cannot be read."""
    for group in groups:
        yield check(to_numpy(read_group(group, columns), group, history), group, columns, history)


def read_group(group: RowGroup, columns: Sequence[str]) -> pa.Table:
    """One row group as an Arrow table; raises BadDataError if it cannot be read."""
    if group.cut is not None:
        return group.cut.read(group.index, columns)
    filesystem, path = open_root(group.file)
    try:
        with filesystem.open_input_file(path) as handle:
            return pq.ParquetFile(handle).read_row_group(group.index, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(group, error) from error
