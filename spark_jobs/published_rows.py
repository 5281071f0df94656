"""Rows of a published table that are few enough for one process, read without Spark."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from conf.files import open_root
from conf.storage import Manifest, Store


def rows_of(store: Store, manifest: Manifest, *, where: pc.Expression | None = None, columns: list[str] | None = None) -> pa.Table:
    """The rows of a table that has files, those `where` holds for and these columns of them; None = all."""
    files = [open_root(uri) for uri in store.files_of(manifest)]
    return pads.dataset([path for _, path in files], filesystem=files[0][0], format="parquet").to_table(columns=columns, filter=where)
