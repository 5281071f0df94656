"""A raw log of text keys -> numbered events, by one program of Polars: what `ingest`, `vocabulary` and `events` are compared with.

    python bench/encode_polars.py CLICKS_DIR OUT_DIR

Nulls and duplicates dropped, users and items numbered from 1 by clicks, then key; events sorted by user and time. It checks, hashes and
counts nothing and writes three tables where ours are fifteen. Prints one JSON line: seconds, rows, peak_rss_gb.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", os.environ.get("THREADS", "2"))


def main(source: str, out: Path) -> None:
    """The command."""
    import polars as pl

    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    keys = ["user_id", "item_id", "ts"]
    clicks = pl.scan_parquet(f"{source}/*.parquet").select(keys).drop_nulls().unique(keys).collect(engine="streaming")
    indexes = {}
    for side in ("user", "item"):
        counted = clicks.group_by(f"{side}_id").len().sort("len", f"{side}_id", descending=[True, False])
        indexes[side] = counted.select(f"{side}_id", pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias(f"{side}_idx"))
        indexes[side].write_parquet(out / f"{side}_index.parquet")
    encoded = clicks.join(indexes["user"], on="user_id").join(indexes["item"], on="item_id").select("user_idx", "item_idx", "ts")
    encoded.sort("user_idx", "ts", "item_idx").write_parquet(out / "events.parquet", compression="snappy")
    seconds = time.perf_counter() - began
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": [round(seconds, 3)], "rows": encoded.height, "peak_rss_gb": round(peak_gb, 2)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
