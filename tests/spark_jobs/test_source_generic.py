"""The generic source on small files: what is read, in which order, and what each fault says. Epochs are worked by hand."""

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.errors import BadDataError, NotReadyError, SchemaError, TrichannelError
from conf.settings import Settings
from spark_jobs.sources.generic import source
from spark_jobs.sources.raw import CLICKS, Raw

NOON = 1_768_046_400  # 2026-01-10T12:00:00Z: 20,463 days of 86,400 s after 1970-01-01, and half a day


def read(spark: SparkSession, path: Path, **given: Any) -> Raw:
    settings = Settings.model_validate({"source": {"kind": "generic", "path": str(path), **given}})
    return source(spark, settings, "2026-01-31")


def rows(raw: Raw, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in raw.clicks.orderBy("seq").select(*columns).collect()]


def refused(spark: SparkSession, path: Path, **given: Any) -> TrichannelError:
    with pytest.raises(TrichannelError) as caught:
        read(spark, path, **given)
    return caught.value


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_names_of_its_own(spark: SparkSession, tmp_path: Path) -> None:
    log = write(
        tmp_path / "my log.csv",
        "\ufeffwhen;customer;sku;kind;stars;visit;no\n"
        f'{NOON};7;"a;1";view;4.5;s1;e1\n'
        "\n"  # blank lines are no rows, but have a number
        f'{NOON};8;"say ""hi""";buy;1;;e2\n'
        f"{NOON};9\n"  # too few values
        f"soon;7;a;view;1;s1;e3\n",
    )
    columns = {"ts": "when", "user_key": "customer", "item_key": "sku", "event_type": "kind", "weight": "stars"}
    raw = read(spark, log, separator=";", columns=columns | {"session_key": "visit", "event_id": "no"})
    assert raw.clicks.columns == list(CLICKS)
    assert raw.has_clock
    assert raw.user_key_type == raw.item_key_type == "infer"
    names = ("user_key", "item_key", "ts", "event_type", "rating", "session_key", "event_id", "problem", "_row")
    assert rows(raw, *names) == [
        ("7", "a;1", NOON, "view", 4.5, "s1", "e1", None, 0),
        ("8", 'say "hi"', NOON, "buy", 1.0, None, "e2", None, 2),
        ("9", None, NOON, "", None, None, None, "row cannot be read", 3),
        ("7", "a", None, "view", 1.0, "s1", "e3", "time cannot be read", 4),
    ]
    assert rows(raw, "_raw")[2] == (f"{NOON};9",)


@pytest.mark.parametrize(
    ("ts_format", "timezone", "text", "epoch"),
    [
        ("epoch_s", "UTC", str(NOON), NOON),
        ("epoch_ms", "UTC", f"{NOON}999", NOON),
        ("iso8601", "UTC", "2026-01-10T12:00:00Z", NOON),
        ("iso8601", "Europe/Berlin", "2026-01-10T12:00:00Z", NOON),  # the zone it carries wins
        ("iso8601", "Europe/Berlin", "2026-01-10 12:00:00.5", NOON - 3600),  # winter: an hour ahead of UTC
        ("iso8601", "UTC", "2026-01-10T14:30:00+02:30", NOON),
        ("iso8601", "America/New_York", "2026-01-10", NOON - 12 * 3600 + 5 * 3600),
        ("dd/MM/yyyy HH:mm", "Asia/Tokyo", "10/01/2026 21:00", NOON),
        ("yyyy-MM-dd'Z'HHmmssXX", "Asia/Tokyo", "2026-01-10Z120000+0000", NOON),
    ],
)
def test_times(spark: SparkSession, tmp_path: Path, ts_format: str, timezone: str, text: str, epoch: int) -> None:
    log = write(tmp_path / "log.csv", f"user_key,item_key,ts\nu,i,{text}\n")
    assert rows(read(spark, log, ts_format=ts_format, timezone=timezone), "ts") == [(epoch,)]


def test_text_that_is_no_iso8601_time_is_not_read_as_today(spark: SparkSession, tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", f"user_key,item_key,ts\nu,i,yesterday\nu,i,2026-01-10T12:00:00Z\nu,i,{NOON}\n")
    raw = read(spark, log, ts_format="iso8601")
    assert rows(raw, "ts", "problem") == [(None, "time cannot be read"), (NOON, None), (None, "time cannot be read")]
    seconds = write(tmp_path / "seconds.csv", f"user_key,item_key,ts\nu,i,{NOON}\n")
    assert "set source.ts_format: epoch_s" in str(refused(spark, seconds, ts_format="iso8601"))


def test_order_by_place_and_by_rank(spark: SparkSession, tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.csv", "user_key,item_key\nu,a\nv,b\nu,c\nv,d\n")
    raw = read(spark, plain, ts_format="order")
    assert not raw.has_clock
    assert rows(raw, "user_key", "item_key", "ts") == [("u", "a", 0), ("v", "b", 0), ("u", "c", 1), ("v", "d", 1)]
    ranked = write(tmp_path / "ranked.csv", "user_key,item_key,pos\nu,a,2\nu,b,1\n")
    assert rows(read(spark, ranked, ts_format="order", columns={"ts": "pos"}), "item_key", "ts") == [("a", 2), ("b", 1)]


@pytest.mark.parametrize("file_format", ["csv", "json", "parquet"])
def test_the_order_is_that_of_the_files_for_any_partitioning(spark: SparkSession, tmp_path: Path, file_format: str) -> None:
    events = [{"user_key": f"u{n % 3}", "item_key": n, "ts": NOON} for n in range(600)]
    for part in range(2):
        write_part(tmp_path / "log" / f"part {part}.{file_format}", events[part * 300 : part * 300 + 300], file_format)
    whole = rows(read(spark, tmp_path / "log", format=file_format), "item_key", "seq")
    assert [int(item) for item, _ in whole] == list(range(600))
    small_blocks = {"spark.sql.files.maxPartitionBytes": "700", "spark.sql.files.openCostInBytes": "1"}
    before = {key: spark.conf.get(key) for key in small_blocks}
    try:
        for key, value in small_blocks.items():
            spark.conf.set(key, value)
        raw = read(spark, tmp_path / "log", format=file_format)
        assert raw.clicks.rdd.getNumPartitions() >= 8
        assert rows(raw, "item_key", "seq") == whole
    finally:
        for key, old in before.items():
            spark.conf.set(key, str(old))


def write_part(path: Path, events: list[dict[str, Any]], file_format: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if file_format == "parquet":
        pq.write_table(pa.Table.from_pylist(events), path, row_group_size=20)
    elif file_format == "json":
        write(path, "".join(json.dumps(event) + "\n" for event in events))
    else:
        write(path, "user_key,item_key,ts\n" + "".join(f"{e['user_key']},{e['item_key']},{e['ts']}\n" for e in events))


def test_json_and_parquet_keep_key_types_and_lists(spark: SparkSession, tmp_path: Path) -> None:
    events = [
        {"user_key": 1, "item_key": "9", "ts": NOON, "tags": ["x", " y ", ""]},
        {"user_key": 2, "item_key": "8", "ts": NOON, "tags": []},
    ]
    for file_format in ("json", "parquet"):
        log = tmp_path / f"log.{file_format}"
        write_part(log, events, file_format)
        items = {"path": str(log), "format": file_format, "key": "item_key"}
        raw = read(spark, log, format=file_format, items=items, fields={"item": {"labels": {"role": "multi", "column": "tags"}}})
        assert (raw.user_key_type, raw.item_key_type) == ("int64", "string")
        assert rows(raw, "user_key", "item_key", "ts") == [("1", "9", NOON), ("2", "8", NOON)]
        assert {row["item_key"]: row["labels"] for row in raw.items.collect()} == {"9": ["x", "y"], "8": []}


def test_users_and_items_tables(spark: SparkSession, tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", f"user_key,item_key,ts\nu,i,{NOON}\n")
    items = write(tmp_path / "items.csv", f'sku\tsince\tlive\tgenres\tname\ni\t{NOON}\tno\tA|B||A\t"two\nlines"\nj\t\t\t\t\n')
    users = write(tmp_path / "users.json", '{"key":"u","age":40}\n')
    raw = read(
        spark,
        log,
        users={"path": str(users), "format": "json"},
        items={"path": str(items), "key": "sku", "publish_ts": "since", "eligible": "live", "separator": "\t"},
        fields={"user": {"age": "single"}, "item": {"genres": "multi", "title": {"role": "text", "column": "name"}}},
    )
    assert [tuple(row) for row in raw.users.collect()] == [("u", "40")]
    assert [tuple(row) for row in raw.items.orderBy("item_key").collect()] == [
        ("i", NOON, False, ["A", "B"], "two\nlines"),
        ("j", None, True, [], None),
    ]


def test_hostile_column_names_are_only_names(spark: SparkSession, tmp_path: Path) -> None:
    names = ["'; drop table x; --", "../../etc", 'a"b`c.d']
    log = write(tmp_path / "log.csv", '\'; drop table x; --|../../etc|"a""b`c.d"\n' + f"u|i|{NOON}\n")
    given = dict(zip(("user_key", "item_key", "ts"), names, strict=True))
    assert rows(read(spark, log, separator="|", columns=given), "user_key", "item_key", "ts") == [("u", "i", NOON)]
    events = [dict(zip(names, ("u", "i", NOON), strict=True))]
    for file_format in ("json", "parquet"):
        write_part(tmp_path / f"log.{file_format}", events, file_format)
        raw = read(spark, tmp_path / f"log.{file_format}", format=file_format, columns=given)
        assert rows(raw, "user_key", "item_key", "ts") == [("u", "i", NOON)]


def test_every_wrong_column_is_named_at_once(spark: SparkSession, tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,sku,ts\nu,i,2026-01-07T10:00:00Z\n")
    error = refused(spark, log, columns={"user_key": "usr", "weight": "stars"})
    assert isinstance(error, SchemaError)
    assert (error.code, error.exit_code) == ("T103", 2)
    text = str(error)
    assert "4 faults" in text
    assert "column 'usr' is missing   found: user, sku, ts   did you mean: source.columns.user_key: user ?" in text
    assert "column 'item_key' is missing   found: user, sku, ts   did you mean: source.columns.item_key: sku ?" in text
    assert "column 'stars' is missing" in text
    assert "set source.columns.weight" in text
    assert "first value: '2026-01-07T10:00:00Z'   set source.ts_format: iso8601" in text


def test_milliseconds_read_as_seconds(spark: SparkSession, tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", f"user_key,item_key,ts\nu,i,{NOON}000\n")
    error = refused(spark, log)
    assert error.exit_code == 2
    assert "set source.ts_format: epoch_ms" in str(error)


def test_fields_need_a_table(spark: SparkSession, tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", f"user_key,item_key,ts\nu,i,{NOON}\n")
    assert "set source.users.path" in str(refused(spark, log, fields={"user": {"age": "single"}}))


def test_files_of_a_folder_must_agree(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "log" / "a.csv", f"user_key,item_key,ts\nu,i,{NOON}\n")
    write(tmp_path / "log" / "b.csv", f"item_key,user_key,ts\ni,u,{NOON}\n")
    error = refused(spark, tmp_path / "log")
    assert isinstance(error, SchemaError)
    assert "b.csv has other columns" in str(error)


def test_what_is_missing_or_empty(spark: SparkSession, tmp_path: Path) -> None:
    error = refused(spark, tmp_path / "none.csv")
    assert isinstance(error, NotReadyError)
    assert error.exit_code == 3
    assert "source.path" in str(error)
    for file_format in ("csv", "json", "parquet"):
        empty = write(tmp_path / f"empty.{file_format}", "")
        error = refused(spark, empty, format=file_format)
        assert isinstance(error, BadDataError)
        assert error.exit_code == 6
        assert "is empty" in str(error)


def damaged_files(folder: Path) -> Mapping[str, tuple[Path, str]]:
    log = "user_key,item_key,ts\n" + "".join(f"u{n * 7919 % 1000},i{n},{NOON}\n" for n in range(5000))
    write(folder / "good.csv", log)
    cut = folder / "cut.csv.gz"
    cut.write_bytes(gzip.compress(log.encode())[:-400])
    footless, scrambled = folder / "footless.parquet", folder / "scrambled.parquet"
    write_part(scrambled, [{"user_key": f"u{n}", "item_key": f"i{n}", "ts": NOON} for n in range(500)], "parquet")
    shutil.copy(scrambled, footless)
    footless.write_bytes(footless.read_bytes()[:-100])
    whole = bytearray(scrambled.read_bytes())
    whole[4:200] = b"\xff" * 196  # the first pages; the footer is fine
    scrambled.write_bytes(whole)
    return {
        "gz": (cut, "csv"),
        "footer": (footless, "parquet"),
        "pages": (scrambled, "parquet"),
        "json": (write(folder / "prose.json", "no\njson\nhere\n"), "json"),
    }


@pytest.mark.parametrize("kind", ["gz", "footer", "pages", "json"])
def test_damaged_files_are_named(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    path, file_format = damaged_files(tmp_path)[kind]
    error = refused(spark, path, format=file_format)
    assert isinstance(error, BadDataError)
    assert error.exit_code == 6
    assert path.name in str(error)


def test_completejourney(spark: SparkSession, shared_data: Path) -> None:
    folder = shared_data / "completejourney"
    columns = {"user_key": "household_id", "item_key": "product_id", "ts": "transaction_timestamp", "session_key": "basket_id"}
    items = {"path": str(folder / "products.csv.gz"), "key": "product_id"}
    raw = read(spark, folder / "transactions_sample.csv", columns=columns, items=items, fields={"item": {"brand": "single"}})
    counted = raw.clicks.selectExpr("count(*)", "count(distinct user_key)", "count(distinct session_key)", "count(problem)").first()
    assert counted is not None
    assert tuple(counted) == (75_000, 2_377, 47_243, 0)
    assert raw.items.count() == 92_331
