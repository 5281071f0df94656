"""The blocklist: read in each form, refused where it is not one, and kept out of everything that is recommended."""

import gzip
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import BadDataError, NotReadyError, SchemaError
from retrieval import index, similar
from retrieval.blocklist import listed_keys
from spark_jobs.job import run_job
from tests.retrieval.conftest import ask
from tests.retrieval.day import NOT_ELIGIBLE, NOTHING_KNOWN, NUM_ITEMS, manifest, table

BLOCKED = (12, 30)


def listed(path):
    return listed_keys(str(path)).to_pylist()


def test_a_list_is_read_from_each_form_once_each_without_blanks(tmp_path):
    (tmp_path / "plain.txt").write_text("007\n\n a b \n007\nü\n")
    assert listed(tmp_path / "plain.txt") == ["007", "a b", "ü"]
    (tmp_path / "named.csv").write_text('why,item_key\nlaw,007\n,"a,b"\n')
    assert listed(tmp_path / "named.csv") == ["007", "a,b"]
    (tmp_path / "one.csv.gz").write_bytes(gzip.compress(b"sku\n7\n\n8\n"))
    assert listed(tmp_path / "one.csv.gz") == ["7", "8"]
    pq.write_table(pa.table({"item_key": pa.array([7, None, 8], pa.int64())}), tmp_path / "numbers.parquet")
    assert listed(tmp_path / "numbers.parquet") == ["7", "8"]
    (tmp_path / "header.csv").write_text("item_key\n")
    assert listed(tmp_path / "header.csv") == []


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("two.csv", b"sku,why\n7,law\n", SchemaError, "which column names the items.*found: sku, why"),
        ("empty.txt", b"", BadDataError, "the file is empty"),
        ("no.parquet", b"item_key\n7\n", BadDataError, "cannot be read"),
        ("latin.txt", b"\xff\xfe7\n", BadDataError, "cannot be read"),
        ("torn.csv", b'item_key,why\n7\n"8', BadDataError, "cannot be read"),
        ("a_folder/x", b"7\n", NotReadyError, "no such file"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, name, content, error, said):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(error, match=f"(?s){said}"):
        listed(tmp_path / "a_folder" if name == "a_folder/x" else file)


def test_blocked_items_are_in_no_list_and_a_changed_list_is_seen(variant, run, spark, tmp_path):
    file = tmp_path / "blocked.csv"
    file.write_text("item_key\n" + "".join(f"{5000 + item}\n" for item in BLOCKED) + f"{5000 + NOT_ELIGIBLE}\nunheard of\n")
    made = variant("blocked", index={"blocklist": str(file)}, similar={"items": 5})
    run(made, "index", "neighbours", "candidates")
    run_job(similar.JOB, spark, ask(made))
    counters = manifest(made, "index").counters
    assert counters["blocklist"] == {"listed": 4, "unknown": 1}
    wanted = {"catalogue": NUM_ITEMS, "indexed": NUM_ITEMS - 4, "not_eligible": 1, "nothing_known": 1, "blocked": 2}
    assert counters["index_items"] == wanted
    gone = {5000 + item for item in (*BLOCKED, NOT_ELIGIBLE, NOTHING_KNOWN)}
    assert not gone & {row["item_key"] for row in table(made, "candidates")}
    assert not gone & {row["neighbour_key"] for row in table(made, "similar_items")}
    channels = {row["channel"]: set() for row in table(made, "channel_candidates")}
    for row in table(made, "channel_candidates"):
        channels[row["channel"]] |= set(row["items"])
    assert all(items and not items & set(BLOCKED) for items in channels.values())

    again = replace(ask(made, "r2"), force=False)
    assert run_job(index.JOB, spark, again).skipped
    file.write_text("item_key\n5012\n")
    assert not run_job(index.JOB, spark, again).skipped
    assert manifest(made, "index").counters["index_items"]["blocked"] == 1
