"""The README's command for vectors from elsewhere, as a user runs it: those of another model find what that model found."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny_day import DS, trichannel


def rows(day, table):
    files = day.store.files_of(day.store.manifest(table, DS, day.settings))
    return pa.concat_tables(pq.read_table(file) for file in files).to_pylist()


@pytest.mark.slow
def test_a_day_by_given_vectors_up_to_its_report(tiny_day, tmp_path):
    for side in ("item", "user"):
        keys = {row["idx"]: row["key"] for row in rows(tiny_day, f"{side}_index")}
        vectors = [{"key": keys[row["idx"]], "vector": row["vector"]} for row in rows(tiny_day, f"embeddings_{side}")]
        pq.write_table(pa.Table.from_pylist(vectors), tmp_path / f"{side}s.parquet")
    given = ["--set", f"embeddings.path={tmp_path}", "--set", "embeddings.similarity=cosine"]
    done = trichannel(tiny_day, "run", "--variant", "own", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    line = done.stdout.splitlines()[-1]
    assert Path(line.rsplit("report=", 1)[1]).stat().st_size > 10_000
    (recall,) = re.findall(r"recall@50=(0\.\d{4})", line)
    assert f"recall@50={recall}" in tiny_day.stdout
