"""init looks at small files of many kinds; the settings it writes load, and read the data they were written for."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.errors import BadDataError, NotReadyError, SchemaError, UsageError
from conf.sections.source import FieldSpec
from conf.settings import Settings, load
from spark_jobs.entity_fields import field_name, field_role
from spark_jobs.init import init
from spark_jobs.last_clicks import Found
from spark_jobs.log_columns import last_day, survey
from spark_jobs.sniff import open_table
from spark_jobs.sources.generic import source

NOON = 1_768_046_400  # 2026-01-10T12:00:00Z


def written(path: Path, tmp_path: Path) -> Settings:
    out = tmp_path / "out.yaml"
    text = init(str(path), str(out))
    assert out.read_text(encoding="utf-8") == text
    return load(str(out))


def csv_file(path: Path, header: str, rows: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def shop(folder: Path) -> Path:
    """Three customers, four products, tables of both; the last click is on 2026-01-13."""
    log = [f"c{n % 3};p{n % 4};{['view', 'buy'][n % 2]};b{n // 3};{NOON + n * 21_600}" for n in range(12)]
    csv_file(folder / "sales.csv", "customer;sku;event_type;basket_id;timestamp", log)
    csv_file(folder / "customers.csv", "customer;Home City;constant", ["c0;Oslo;x", "c1;Rome;x", "c2;Rome;x"])
    items = ["p0,A|B,Red wooden chair,10", "p1,B|C,Blue wooden table,10", "p2,A|C,Green paper lamp,20", "p3,A|B|C,Small brass bell,20"]
    csv_file(folder / "products.csv.gz", "sku,tags,title,Category ID", items)
    return folder


def test_a_shop_with_its_tables(tmp_path: Path) -> None:
    s = written(shop(tmp_path / "shop"), tmp_path).source
    assert (s.kind, s.format, s.separator, s.ts_format, s.default_ds) == ("generic", "csv", ";", "epoch_s", "2026-01-13")
    assert (s.columns.user_key, s.columns.item_key, s.columns.ts) == ("customer", "sku", "timestamp")
    assert (s.columns.event_type, s.columns.session_key, s.columns.weight) == ("event_type", "basket_id", None)
    assert (Path(str(s.users.path)).name, s.users.key, s.users.separator) == ("customers.csv", "customer", ";")
    assert (Path(str(s.items.path)).name, s.items.key, s.items.separator) == ("products.csv.gz", "sku", ",")
    assert s.resolved_fields().user == {"home_city": FieldSpec(column="Home City")}
    assert {name: (spec.role, spec.column) for name, spec in s.resolved_fields().item.items()} == {
        "tags": ("multi", None),
        "title": ("text", None),
        "category_id": ("single", "Category ID"),
    }
    assert s.multi_separator == "|"


def test_the_rest_of_the_shops_settings(tmp_path: Path) -> None:
    settings = written(shop(tmp_path / "shop"), tmp_path)
    assert (settings.split.kind, settings.split.k) == ("last_k", 1)  # four clicks a user
    assert (settings.cooc.category_field, settings.report.title_field) == ("category_id", "title")
    assert "synthetic:" not in (tmp_path / "out.yaml").read_text()


def test_the_settings_read_the_data(spark: SparkSession, tmp_path: Path) -> None:
    settings = written(shop(tmp_path / "shop"), tmp_path)
    raw = source(spark, settings, settings.source.default_ds)
    counted = raw.clicks.selectExpr("count(*)", "count(user_key)", "count(item_key)", "count(ts)", "count(problem)").first()
    assert counted is not None
    assert tuple(counted) == (12, 12, 12, 12, 0)
    assert {row["item_key"]: row["tags"] for row in raw.items.collect()}["p3"] == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("stamps", "ts_format", "day"),
    [
        ([str(NOON), str(NOON + 86_400)], "epoch_s", "2026-01-11"),
        ([f"{NOON}123", f"{NOON}124"], "epoch_ms", "2026-01-10"),
        (["2026-01-10T23:30:00-01:00", "2026-01-10T12:00:00Z"], "iso8601", "2026-01-11"),
        (["13/01/2026 10:00:00", "02/01/2026 10:00:00"], "d/M/yyyy H:m:s", "2026-01-13"),
    ],
)
def test_time_formats(tmp_path: Path, stamps: list[str], ts_format: str, day: str) -> None:
    log = csv_file(tmp_path / "log" / "log.tsv", "uid\tmovie\tdate", [f"u{n}\tm{n % 2}\t{stamp}" for n, stamp in enumerate(stamps * 2)])
    s = written(log, tmp_path).source
    assert (s.separator, s.ts_format, s.default_ds) == ("\t", ts_format, day)


def test_days_that_are_no_times_are_passed_over() -> None:
    assert last_day(["x", None, str(NOON), "9999999999999"], "epoch_s") == "2026-01-10"
    assert last_day(["x"], "iso8601") is None


def test_json_lines_with_item_fields_in_the_log(tmp_path: Path) -> None:
    rows = [{"user_id": n % 5, "asin": f"p{n % 4}", "rating": 4.5, "genres": [["A"], ["A", "B"]][n % 2], "price": n} for n in range(20)]
    log = tmp_path / "log" / "events.json"
    log.parent.mkdir()
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    s = written(log, tmp_path).source
    assert (s.format, s.ts_format, s.columns.weight, s.items.path, s.items.key) == ("json", "order", "rating", str(log), "asin")
    assert s.resolved_fields().item == {"genres": FieldSpec(role="multi")}  # price differs between clicks of one item


def test_a_folder_of_parquet_parts(tmp_path: Path) -> None:
    for part in range(2):
        table = pa.table({"user_id": [1, 2, 3], "item_id": [7, 8, 7], "ts": [NOON + part * 86_400] * 3})
        (tmp_path / "log").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "log" / f"part-{part}.parquet")
    s = written(tmp_path / "log", tmp_path).source
    assert (s.format, s.path, s.default_ds) == ("parquet", str(tmp_path / "log"), "2026-01-11")


def test_one_user_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "clicks.txt").write_text("1 10 11 12\n2 10\n3 12 11 10 13\n")
    (folder / "attributes.json").write_text('{"10": [1, 2], "11": [2]}')
    s = written(folder, tmp_path).source
    assert (s.kind, s.path, s.attributes, s.ts_format) == (
        "sequences",
        str(folder / "clicks.txt"),
        str(folder / "attributes.json"),
        "order",
    )


def test_hostile_names(spark: SparkSession, tmp_path: Path) -> None:
    hostile = ["'; drop table x; --", "../../etc", '""quoted"" #', "ds", "hist"]
    header = "user_id|item_id|ts|" + "|".join(f'"{name}"' for name in hostile)
    rows = [f"u{n % 5}|i{n % 4}|{NOON + n}|" + "|".join([f"v{n % 4 // 2}"] * 5) for n in range(40)]
    log = csv_file(tmp_path / "a\n#: 'b'" / "log.csv", header, rows)
    settings = written(log, tmp_path)
    specs = settings.source.resolved_fields().item
    assert [spec.column or name for name, spec in specs.items()] == ["'; drop table x; --", "../../etc", '"quoted" #', "ds", "hist"]
    assert list(specs)[:3] == ["drop_table_x", "etc", "quoted"]
    raw = source(spark, settings, settings.source.default_ds)
    assert raw.items.where("etc is not null").count() == raw.clicks.count() == 40


def test_field_names_are_ours_neither_twice_nor_reserved() -> None:
    assert field_name("item", "Größe (cm)", set()) == "gr_e_cm"
    assert field_name("item", "city", {"city"}) == "item_city"
    assert field_name("item", "items", set()) == "item_items"
    assert field_name("user", "2nd", set()) == "user_2nd"
    assert field_name("user", "§", set()) == "user_field"
    assert len(field_name("user", "x" * 99, {"x" * 40})) <= 40


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("city", ["Oslo", "Rome", "Oslo", None], ("single", "")),
        ("empty", [None, "", " "], (None, "")),
        ("constant", ["x", "x"], (None, "")),
        ("code", [f"id{n}" for n in range(30)], (None, "")),
        ("price", [f"{n}.25" for n in range(200)] * 3, (None, "")),
        ("genres", ["A|B", "B|C", "A|C", "A"], ("multi", "|")),
        ("tags", [["a"], ["b", "a"], []], ("multi", "")),
        ("about", ["a red wooden chair", "a blue wooden table"], ("text", "")),
    ],
)
def test_roles_of_fields(name: str, values: list[object], role: tuple[str | None, str]) -> None:
    assert field_role(name, values) == role


@pytest.mark.parametrize(
    ("clicks", "recipe", "encoder", "uu", "dropout"),  # of two items
    [
        (19, "auto", "dssm", 0, 0.7),
        (20, "auto", "sasrec", None, 0.2),
        (19, "sequential", "sasrec", None, 0.5),
        (20, "contrastive", "dssm", 1, 0.2),
    ],
)
def test_the_recipe_goes_by_the_clicks_an_item_has(
    tmp_path: Path, clicks: int, recipe: str, encoder: str, uu: float | None, dropout: float
) -> None:
    """Both items are among 50 in either way, so that the last clicks say nothing for what goes together."""
    file, out = tmp_path / "sequences.txt", tmp_path / "out.yaml"
    file.write_text("".join(f"u{n} i1 i2\n" for n in range(8)) + "v" + " i1" * (clicks - 16) + "\n")
    text = init(str(file), str(out), recipe)
    settings = load(str(out))
    mic = settings.objectives.mic
    assert (settings.model.encoder, mic and mic.uu, settings.model.dropout) == (encoder, uu, dropout)
    assert ("clicks an item are few" in text) is (clicks == 19)


def test_where_items_have_few_clicks_the_recipe_goes_by_what_tells_of_last_clicks(tmp_path: Path) -> None:
    """60 threes of items, where who clicked two clicks the third; and ten items that are known to all, beside 240 clicked once. A click
    behind them is held out."""
    threes = [f"u{n},{item}{n % 60},{NOON + (place + n // 60) % 3}" for n in range(180) for place, item in enumerate("abc")]
    known = [
        f"u{n},{item},{NOON + place}" for n in range(240) for place, item in enumerate([f"c{n}", f"k{n % 10}"][:: 1 if n < 180 else -1])
    ]
    threes += [f"u{n},k{n % 10},{NOON + 9}" for n in range(180)]
    known += [f"u{n},k{n % 10},{NOON + 9}" for n in range(240)]
    told = {"sasrec": "180 last clicks, in 50 items, 100.0% are found by what was clicked together, 28.1% by popularity"}
    told["dssm"] = "240 last clicks, in 50 items, 0.0% are found by what was clicked together, 75.0% by popularity"
    for rows, encoder in ((threes, "sasrec"), (known, "dssm")):
        log, out = csv_file(tmp_path / encoder / "log.csv", "user_id,item_id,ts", rows), str(tmp_path / f"{encoder}.yaml")
        text = init(str(log), out)
        assert load(out).model.encoder == encoder
        assert told[encoder] in text


@pytest.mark.parametrize("clock", [True, False])
def test_last_clicks_are_last_by_the_column_of_times_or_ranks(tmp_path: Path, clock: bool) -> None:
    """Rows stand in the wrong order; what `ingest` will refuse as a time is no click."""
    first = NOON if clock else 1
    rows = [(f"u{n}", f"{item}{n % 60}", first + (place + n // 60) % 3) for n in range(180) for place, item in enumerate("abc")]
    rows += [(user, f"{item}x", first + 9) for user, item, moment in rows if moment == first]
    lines = [f"{user},{item},{moment}" for user, item, moment in sorted(rows, key=lambda row: -row[2])]
    columns = {"user_key": "user_id", "item_key": "item_id", "ts": "ts" if clock else "position"}
    refused = [f"u{n},z{n},{stamp}" for n, stamp in enumerate(["", "nan", "900000000000000", "soon"] if clock else ["", "nan"])]
    for name, more in (("whole", []), ("refused", refused)):
        log = open_table(csv_file(tmp_path / name / "log.csv", ",".join(columns.values()), lines + more))
        seen = survey(log, columns, "epoch_s" if clock else "order")
        assert seen.last_clicks.found(held_out=1) == Found(180, pytest.approx(50 / 178), 1.0)
        assert (seen.last_day, seen.num_items) == ("2026-01-10" if clock else None, 360 + len(more))


def test_items_that_nobody_clicked_are_left_out_where_ids_are_all_that_is_seen(tmp_path: Path) -> None:
    """Where items have few clicks: three here, and then ten."""
    folder = shop(tmp_path / "shop")
    for recipe, catalogue in (("sequential", "clicked"), ("contrastive", "all")):
        out = str(tmp_path / f"{recipe}.yaml")
        init(str(folder), out, recipe)
        assert load(out).source.catalogue == catalogue
    many = [f"c{n % 3};p{n % 4};{NOON + n}" for n in range(40)]
    csv_file(folder / "sales.csv", "customer;sku;timestamp", many)
    init(str(folder), str(tmp_path / "many.yaml"))
    assert load(str(tmp_path / "many.yaml")).source.catalogue == "all"


def test_a_recipe_is_the_packaged_one(tmp_path: Path) -> None:
    """What is drafted for many clicks is sequential.yaml, and for the fields movielens.yaml with the merge of the other."""
    file = tmp_path / "sequences.txt"
    file.write_text("".join(f"u{n} i1 i2\n" for n in range(30)) + "v i1\n")
    for recipe, name in (("sequential", "sequential"), ("contrastive", "movielens")):
        out = str(tmp_path / f"{recipe}.yaml")
        init(str(file), out, recipe)
        drafted, packaged = load(out), load(name)
        for section in ("samples", "model", "base", "objectives", "trainer"):
            assert getattr(drafted, section) == getattr(packaged, section), section
        assert drafted.merge == load("sequential").merge


def test_faults(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop")
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        init(str(folder), str(out))
    assert out.read_text() == "mine"
    new = str(tmp_path / "new.yaml")
    with pytest.raises(NotReadyError, match="no such file"):
        init(str(tmp_path / "none"), new)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(BadDataError, match=r"empty\.csv"):
        init(str(tmp_path / "empty.csv"), new)
    cut = csv_file(tmp_path / "cut.csv.gz", "user_id,item_id", [f"u{n},i{n * 7919 % 999}" for n in range(3000)])
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(BadDataError, match=r"cut\.csv\.gz.*\n.*cannot be read"):
        init(str(cut), new)
    strange = csv_file(tmp_path / "strange" / "s.csv", "alpha,beta", ["1,2", "3,4"])
    with pytest.raises(SchemaError, match='found: "alpha", "beta"') as caught:
        init(str(strange), new)
    assert (len(caught.value.faults), caught.value.exit_code) == (2, 2)
    assert not Path(new).exists()


def test_completejourney(shared_data: Path, tmp_path: Path) -> None:
    settings = written(shared_data / "completejourney", tmp_path)
    s = settings.source
    assert (s.columns.user_key, s.columns.item_key, s.columns.session_key) == ("household_id", "product_id", "basket_id")
    assert (s.columns.ts, s.users.key, s.items.key) == ("transaction_timestamp", "household_id", "product_id")
    assert list(s.resolved_fields().user)[:2] == ["age", "income"]
    assert settings.cooc.category_field == "product_category"
    assert settings.objectives.mic is not None
    assert (settings.objectives.mic.uu, settings.model.dropout) == (0, 0.7)  # 3.6 clicks a product


def test_movielens_and_sequences(shared_data: Path, tmp_path: Path) -> None:
    s = written(shared_data / "ml-100k", tmp_path).source
    assert (s.kind, s.default_ds) == ("movielens", "1998-04-22")
    beauty = init(str(shared_data / "amazon-beauty"), str(tmp_path / "beauty.yaml"))
    assert "kind: sequences" in beauty
    assert load(str(tmp_path / "beauty.yaml")).split.k == 1
