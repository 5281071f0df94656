"""A disk that hangs: on the PYTHONPATH of the executors, it stops the first attempt to write each table until its process is killed.

SLOW_WRITES: a folder of empty files named like tables. Who writes a table first renames its file to <table>.<id of the process>, and
waits.
"""

import os
import time

FIRST_COLUMN = {"user_idx": "sessions", "item_i": "cooc", "sample_id": "samples"}

if "SLOW_WRITES" in os.environ:
    import pyarrow.parquet as pq

    folder, write_table = os.environ["SLOW_WRITES"], pq.ParquetWriter.write_table

    def hang_once(self, table, *args, **options):
        wanted = os.path.join(folder, FIRST_COLUMN.get(table.schema.names[0], "none"))
        try:
            os.rename(wanted, f"{wanted}.{os.getpid()}")  # of several processes one succeeds
        except FileNotFoundError:
            return write_table(self, table, *args, **options)
        time.sleep(300)
        raise TimeoutError(f"nobody killed the attempt that was to write {wanted}")

    pq.ParquetWriter.write_table = hang_once
