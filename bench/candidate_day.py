"""The search of a day end to end on this machine: from given vectors to the candidate table, every stage with wall time and peak memory.

    make bench-candidates [DAY=20] [CHANNELS=u2i] [TOP=500]

The day is that of data_jobs.py (`--millions`; its clicks and tables, made where they are missing): all its users and items get vectors of
width 64 around centres, as those of a trained model lie, 2,000 items around each. What runs is `trichannel run --until candidates` with
`embeddings.path`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from data_jobs import ALLOCATOR, DS, ROOT, SPARK, settings_of

from conf.settings import Settings
from conf.storage import Store

DIM, BLOCK = 64, 100_000


def make_vectors(store: Store, settings: Settings, folder: Path) -> dict[str, int]:
    """Write items.parquet and users.parquet, a vector for each key that the day knows; how many of each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    keys = {}
    for side in ("item", "user"):
        files = store.files_of(store.manifest(f"{side}_index", DS, settings))
        keys[side] = pa.concat_tables(pq.read_table(file, columns=["key", "idx"]) for file in files)
        keys[side] = keys[side].filter(pc.greater(keys[side]["idx"], 0))["key"].combine_chunks()
    centres = rng.normal(size=(max(1, len(keys["item"]) // 2000), DIM)).astype(np.float32)
    schema = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32()))])
    for side, own in keys.items():
        with pq.ParquetWriter(folder / f"{side}s.parquet", schema) as writer:
            for start in range(0, len(own), BLOCK):
                some = own.slice(start, BLOCK)
                near = centres[rng.integers(0, len(centres), len(some))]
                vectors = (near + 0.7 * rng.normal(size=near.shape)).astype(np.float32)
                offsets = pa.array(np.arange(len(some) + 1, dtype=np.int32) * DIM)
                writer.write_table(pa.table({"key": some, "vector": pa.ListArray.from_arrays(offsets, vectors.ravel())}, schema))
    return {side: len(own) for side, own in keys.items()}


def run_day(config: Path, given: list[str]) -> dict[str, Any]:
    """What the run says of itself: its stages with seconds and peak memory."""
    run_id = f"bench-{int(time.time())}"
    command = [
        "trichannel",
        "run",
        "--config",
        str(config),
        "--ds",
        DS,
        "--run-id",
        run_id,
        "--until",
        "candidates",
        "--log-format",
        "text",
    ]
    env = {**os.environ, **ALLOCATOR, "PYSPARK_SUBMIT_ARGS": SPARK}
    subprocess.run([*command, *(word for one in given for word in ("--set", one))], env=env, check=True)
    status: dict[str, Any] = json.loads((config.parent / "_runs" / f"{run_id}.json").read_text(encoding="utf-8"))
    return status


def main() -> None:
    """Make what is missing, run, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=20, help="the day of data_jobs.py of so many million clicks")
    parser.add_argument("--channels", default="u2i", help="with commas between")
    parser.add_argument("--top", type=int, default=500, help="candidates a user and channel, and in the merged list")
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "bench", help="where data_jobs.py keeps its tables")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="a setting, as of trichannel run")
    options = parser.parse_args()
    name = f"{options.millions}m"
    root = options.folder / f"root-{name}"
    if not (root / "main").is_dir():
        parser.error(f"{root} has no tables; run first: python bench/data_jobs.py --millions {options.millions} --tasks sessions")
    written = settings_of(options.folder / f"clicks-{name}", root)
    config, vectors = root / "settings.yaml", root / "vectors"
    config.write_text(yaml.safe_dump(written), encoding="utf-8")
    given = [f"embeddings.path={vectors}", "embeddings.similarity=cosine", f"channels.names=[{options.channels}]"]
    given += [f"channels.top={options.top}", f"merge.top={options.top}", "merge.layout=lists", *options.set]
    num = make_vectors(Store(str(root)), Settings.model_validate(written), vectors)
    status = run_day(config, given)
    print(json.dumps({"vectors": num, "stages": status["stages"]}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
