"""The examples of docs/sources.md are run: its files are read with its settings, its mistakes give its messages."""

import re
import shlex
from pathlib import Path

import pytest

from conf.command import parse, request
from conf.errors import TrichannelError
from spark_jobs import ingest
from spark_jobs.init import init
from spark_jobs.job import run_job

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "sources.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE))
MISTAKES = re.findall(r"^```console\n\$ trichannel (\w+) ([^\n]*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The document's files, in the working directory."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ingested(spark, folder: Path, arguments: str):
    """(rows of each table, counters) of an ingest with these arguments."""
    words = [*shlex.split(arguments), "--set", f"storage.root={folder}/root"]
    asked = request(parse("ingest", "", words))
    run_job(ingest.JOB, spark, asked)
    manifests = asked.store.manifests(("clicks", "users", "items", "rejects"), asked.ds, asked.settings)
    rows = {name: spark.read.parquet(*asked.store.files_of(manifest)).collect() for name, manifest in manifests.items()}
    return rows, manifests["clicks"].counters


def test_the_least_that_runs(spark, folder):
    rows, counters = ingested(spark, folder, "--config plain.yaml")
    assert {(row.user_key, row.item_key, row.ts) for row in rows["clicks"]} == {
        ("u1", "i1", 1769680800),
        ("u1", "i2", 1769681100),
        ("u2", "i1", 1769763600),
    }
    assert (counters["dropped"], counters["rejected"]) == ({}, {})


def test_the_shop(spark, folder):
    rows, counters = ingested(spark, folder, "--config shop.yaml")
    assert "keeps 5 clicks of 3 users, drops the `wish`, and publishes a catalogue of 4 items, of which `a3`" in TEXT
    assert (counters["clicks"], counters["users_with_clicks"], counters["dropped"]) == (5, 3, {"other event type": 1})
    assert {row.item_key: row.eligible for row in rows["items"]} == {"a1": True, "a2": True, "a3": False, "a4": True}
    assert {row.item_key: (row.category, row.labels, row.name) for row in rows["items"]}["a1"] == ("toys", ["red", "wood"], "Wooden train")
    assert {(row.event_type, row.weight) for row in rows["clicks"]} == {("view", 1.0), ("buy", 3.0)}
    assert {row.user_key: row.city for row in rows["users"]} == {"7": "Cork", "8": "Ghent", "9": None}


def test_sequences(spark, folder):
    rows, _ = ingested(spark, folder, f"--config sequences.yaml --set source.path={folder}/visits.txt")
    assert {(row.user_key, row.item_key, row.ts) for row in rows["clicks"]} == {
        *(("u1", "i1", 0), ("u1", "i2", 1), ("u1", "i3", 2)),
        *(("u2", "i2", 0), ("u2", "i4", 1)),
    }
    assert {row.item_key: row.attributes for row in rows["items"]}["i5"] == ["red"]


def test_the_fate_of_each_bad_row(spark, folder):
    rows, counters = ingested(spark, folder, "--config shop.yaml --set source.path=bad.csv --set gates.max_reject_share=1")
    told = re.findall(r"^\| (\d+) \| ([^|]+) \|$", TEXT, flags=re.MULTILINE)
    assert sorted((str(row.row), row.reason) for row in rows["rejects"]) == told
    assert "9 rows: 1 click, 1 duplicate, 2 dropped, 5 rejected" in TEXT
    assert (counters["raw_rows"], counters["clicks"], counters["duplicates"], sum(counters["dropped"].values())) == (9, 1, 1, 2)


def test_init_writes_the_head_that_is_shown(folder):
    head = re.search(r"^```text\n(# Settings.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert head is not None
    assert init("clicks.csv", "trichannel.yaml").startswith(head[1] + "\n")


def refusal(spark, folder: Path, verb: str, arguments: str) -> str:
    """What the command prints before it ends."""
    with pytest.raises(TrichannelError) as caught:
        init(*shlex.split(arguments)[1::2]) if verb == "init" else ingested(spark, folder, arguments)
    return str(caught.value).replace(str(folder), "/shop")


@pytest.mark.parametrize(("verb", "arguments", "message"), MISTAKES, ids=[arguments for _, arguments, _ in MISTAKES])
def test_mistakes_give_the_message_that_is_shown(spark, folder, verb, arguments, message):
    assert refusal(spark, folder, verb, arguments) + "\n" == message
