"""Anybody's click log in csv, json lines or Parquet, with optional tables of users and items; `source.columns` says what is what."""

from collections.abc import Iterator, Mapping

from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import Fault, SchemaError
from conf.fields import Side
from conf.schemas.columns import CONTENT_VECTOR
from conf.sections.source import EntityFile, FieldSpec, Source
from conf.settings import Settings
from spark_jobs.sources.file_rows import in_file_order, naming_the_file, open_log
from spark_jobs.sources.files import Opened, open_file
from spark_jobs.sources.guess import guess_ts_format, nearest
from spark_jobs.sources.raw import BAD_TIME, MILLISECONDS, UNREADABLE, KeyType, Raw, as_float, blank_to_null, click_columns
from spark_jobs.sources.times import EPOCH_MS, EPOCH_S, ISO8601, ORDER, epoch_seconds, format_fault, in_milliseconds

INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
NUMBERS = (*INTEGERS, T.FloatType, T.DoubleType, T.DecimalType)
TIMES = (T.TimestampType, T.TimestampNTZType, T.DateType)
KEYED = ("user_key", "item_key", "session_key", "event_type", "event_id")
LOOKED_AT = 1_000  # rows whose times are tried before the log is read


def source(spark: SparkSession, settings: Settings, ds: str) -> Raw:
    """The files of `source` in our names.

    Raises:
        SchemaError: every missing or wrongly typed column at once. BadDataError: a file that cannot be read. NotReadyError: none there.
    """
    s = settings.source
    assert s.path is not None
    log = open_log(spark, s.path, s.format, s.separator, setting="source.path")
    users, items = _open_entities(spark, "user", s.users), _open_entities(spark, "item", s.items)
    faults = [*_click_faults(spark, s, log), *_entity_faults(s, "user", s.users, users), *_entity_faults(s, "item", s.items, items)]
    if faults:
        raise SchemaError(f"source {s.path}", faults)
    given = {name: column for name, column in s.columns.model_dump().items() if column and not _in_file_order(s, log, name)}
    return Raw(
        clicks=_clicks(s, log, given),
        users=_entities(spark, s, "user", s.users, users),
        items=_entities(spark, s, "item", s.items, items),
        has_clock=s.ts_format != ORDER,
        user_key_type=_key_type(s, log.kind(s.columns.user_key)),
        item_key_type=_key_type(s, log.kind(s.columns.item_key)),
        names=given,
        cheap=s.format == "parquet",
    )


# ---- clicks --------------------------------------------------------------------------------------------------------


def _clicks(s: Source, log: Opened, given: Mapping[str, str]) -> DataFrame:
    column = {name: log.column(theirs) for name, theirs in given.items()}
    if "ts" in given:
        ts = epoch_seconds(column["ts"], log.kind(given["ts"]), s.ts_format, s.timezone)
        bad_time = ts.isNull() & blank_to_null(column["ts"]).isNotNull()
        in_ms = in_milliseconds(column["ts"], log.kind(given["ts"]), s.ts_format)
    else:
        of_user = Window.partitionBy(blank_to_null(column["user_key"])).orderBy(in_file_order(log.df))
        ts, bad_time = (F.row_number().over(of_user) - 1).cast("bigint"), F.lit(False)
        in_ms = F.lit(False)
    row_text = F.coalesce(F.col("_bad"), _row_text(log, s))
    ours = {name: blank_to_null(column[name]) for name in KEYED if name in column}
    if "event_type" in ours:
        ours["event_type"] = F.coalesce(ours["event_type"], F.lit(""))
    problem = F.when(F.col("_bad").isNotNull(), F.lit(UNREADABLE))
    problem = problem.when(in_ms, F.lit(MILLISECONDS)).when(bad_time, F.lit(BAD_TIME))
    if "weight" in column:
        weight = as_float(column["weight"])
        ours |= {"weight": weight, "rating": weight}
        problem = problem.when(weight.isNull(), F.lit("weight cannot be read")).when(weight <= 0, F.lit("weight is not above 0"))
    return log.df.select(
        *click_columns(
            **ours,
            ts=ts,
            seq=in_file_order(log.df),
            problem=problem,
            _file=F.col("_file"),
            _row=F.col("_row"),
            _raw=F.substring(row_text, 1, 500),
        )
    )


def _in_file_order(s: Source, log: Opened, name: str) -> bool:
    """Whether this is the time column of a log that has none: with ts_format order, the place in the user's rows stands for it."""
    return name == "ts" and s.ts_format == ORDER and s.columns.ts == "ts" and "ts" not in log.names


def _row_text(log: Opened, s: Source) -> Column:
    columns = [F.col(f"c{i}") for i in range(len(log.names))]
    if s.format == "csv":
        return F.concat_ws(s.separator, *(F.coalesce(column.cast("string"), F.lit("")) for column in columns))
    return F.to_json(F.struct(*(column.alias(f"{i}: {name}") for i, (name, column) in enumerate(zip(log.names, columns, strict=True)))))


def _key_type(s: Source, kind: T.DataType) -> KeyType:
    if s.format == "csv":
        return "infer"
    return "int64" if isinstance(kind, INTEGERS) else "string"


# ---- users and items -----------------------------------------------------------------------------------------------


def _open_entities(spark: SparkSession, side: Side, file: EntityFile) -> Opened | None:
    if file.path is None:
        return None
    setting = f"source.{side}s.path"
    with naming_the_file(file.path, setting):
        table = open_file(spark, file.path, file.format, separator=file.separator, setting=setting, multi_line=True)
        table.df.agg(*[F.count(f"c{i}") for i in range(len(table.names))]).collect()  # a damaged file shows here, by its name
    return table


def _entities(spark: SparkSession, s: Source, side: Side, file: EntityFile, table: Opened | None) -> DataFrame:
    specs = _specs(s, side)
    if table is None:
        extra = "" if side == "user" else ", publish_ts long, eligible boolean"  # source.items.vector needs a table
        return spark.createDataFrame([], f"{side}_key string{extra}")
    fields = [_field(table, name, spec, s.multi_separator) for name, spec in specs.items()]
    live = []
    if side == "item":
        publish = file.publish_ts
        ts = epoch_seconds(table.column(publish), table.kind(publish), s.ts_format, s.timezone) if publish else F.lit(None).cast("bigint")
        allowed = (
            F.coalesce(F.trim(table.column(file.eligible).cast("string")).cast("boolean"), F.lit(True)) if file.eligible else F.lit(True)
        )
        live = [ts.alias("publish_ts"), allowed.alias("eligible")]
        if file.vector is not None:
            live.append(_vector(table, file.vector, s.multi_separator))
    key = blank_to_null(table.column(file.key))
    # Spark refuses queries that need nothing of a csv file but whether its rows are bad, as counting them would
    return table.df.where(F.col("_bad").isNull() & key.isNotNull()).select(key.alias(f"{side}_key"), *live, *fields)


def _field(table: Opened, name: str, spec: FieldSpec, separator: str) -> Column:
    column, kind = table.column(spec.column or name), table.kind(spec.column or name)
    if spec.role != "multi":
        return blank_to_null(column).alias(name)
    values = column if isinstance(kind, T.ArrayType) else F.split(column.cast("string"), _literal_pattern(separator))
    texts = F.filter(F.transform(values, lambda value: F.trim(value.cast("string"))), lambda text: text.isNotNull() & (text != ""))
    return F.coalesce(F.array_distinct(texts), F.array().cast("array<string>")).alias(name)


def _vector(table: Opened, name: str, separator: str) -> Column:
    """The numbers as array<float>; null where one of them is missing or is no number, or there is none."""
    column = table.column(name)
    values = column if isinstance(table.kind(name), T.ArrayType) else F.split(column.cast("string"), _literal_pattern(separator))
    numbers = F.transform(values, lambda value: as_float(value))
    whole = (F.size(numbers) > 0) & F.forall(numbers, lambda number: number.isNotNull())
    return F.when(whole, numbers).alias(CONTENT_VECTOR.name)


def _literal_pattern(text: str) -> str:
    return "".join(c if c.isalnum() or c == " " else f"\\{c}" for c in text)


def _specs(s: Source, side: Side) -> Mapping[str, FieldSpec]:
    fields = s.resolved_fields()
    return fields.user if side == "user" else fields.item


# ---- faults --------------------------------------------------------------------------------------------------------


def _click_faults(spark: SparkSession, s: Source, log: Opened) -> Iterator[Fault]:
    for name, wanted in s.columns.model_dump().items():
        if wanted is None or _in_file_order(s, log, name):
            continue
        if wanted not in log.names:
            yield missing(f"source.columns.{name}", name, wanted, log.names)
        elif name in KEYED and not isinstance(log.kind(wanted), (T.StringType, *INTEGERS)):
            yield Fault(f"column {wanted!r} is {log.kind(wanted).simpleString()}, want string or integer", fix="cast it in the file")
        elif name == "weight" and not isinstance(log.kind(wanted), (T.StringType, *NUMBERS)):
            yield Fault(f"column {wanted!r} is {log.kind(wanted).simpleString()}, want a number", fix="set source.columns.weight: null")
        elif name == "ts":
            yield from _time_faults(spark, s, log, wanted)


def _time_faults(spark: SparkSession, s: Source, log: Opened, wanted: str) -> Iterator[Fault]:
    kind, ours = log.kind(wanted), s.ts_format
    if refused := format_fault(spark, ours):
        yield Fault(
            f"source.ts_format: {ours!r} is no time format", refused, "epoch_s, epoch_ms, iso8601, order, or a Spark datetime pattern"
        )
        return
    if not isinstance(kind, (T.StringType, *NUMBERS, *TIMES)):
        yield Fault(f"column {wanted!r} is {kind.simpleString()}, want a time")
        return
    if isinstance(kind, TIMES):
        if ours in (EPOCH_S, EPOCH_MS, ORDER):
            yield Fault(f"column {wanted!r} is {kind.simpleString()}, want a number", fix=f"set source.ts_format: {ISO8601}")
        return
    values = _first_values(log, wanted, s)
    if values and not any(readable for _, readable in values):
        other = guess_ts_format([value for value, _ in values])
        want = "int64" if ours in (EPOCH_S, EPOCH_MS, ORDER) else f"times like {ours}"
        fix = f"set source.ts_format: {other}" if other else "set source.ts_format to what the column holds"
        yield Fault(f"column {wanted!r} is {kind.simpleString()}, want {want}", f"first value: {values[0][0]!r}", fix)


def _first_values(log: Opened, wanted: str, s: Source) -> list[tuple[str, bool]]:
    column = log.column(wanted)
    ts = epoch_seconds(column, log.kind(wanted), s.ts_format, s.timezone)
    text = blank_to_null(column)
    rows: list[Row] = (
        log.df.select("_file", text.alias("text"), ts.isNotNull().alias("ok")).where("text is not null").limit(LOOKED_AT).collect()
    )
    return [(row["text"], row["ok"]) for row in rows]


def _entity_faults(s: Source, side: Side, file: EntityFile, table: Opened | None) -> Iterator[Fault]:
    specs = _specs(s, side)
    if table is None:
        if specs:
            yield Fault(
                f"source.fields.{side} names fields, but there is no table of {side}s", ", ".join(specs), f"set source.{side}s.path"
            )
        return
    wanted = {f"source.{side}s.key": (f"{side}_key", file.key)}
    if side == "item":
        columns = ("publish_ts", "eligible", "vector")
        wanted |= {f"source.items.{name}": (name, theirs) for name in columns if (theirs := getattr(file, name))}
    wanted |= {f"source.fields.{side}.{name}.column": (name, spec.column or name) for name, spec in specs.items()}
    for setting, (role, theirs) in wanted.items():
        if theirs not in table.names:
            yield missing(setting, role, theirs, table.names, where=f" in {table.path}")
            continue
        kind = table.kind(theirs)
        if role.endswith("_key") and not isinstance(kind, (T.StringType, *INTEGERS)):
            yield Fault(f"column {theirs!r} in {table.path} is {kind.simpleString()}, want string or integer", fix="cast it in the file")
        if setting == "source.items.vector":
            yield from _vector_faults(theirs, kind, table.path)
            continue
        is_list = isinstance(kind, T.ArrayType) and not isinstance(kind.elementType, T.ArrayType | T.MapType | T.StructType)
        if isinstance(kind, T.MapType | T.StructType | T.ArrayType) and not (is_list and role in specs and specs[role].role == "multi"):
            fix = f"set the role of field {role} to multi" if is_list else f"leave field {role} out"
            yield Fault(f"column {theirs!r} in {table.path} is {kind.simpleString()}, want one value", fix=fix)


def _vector_faults(name: str, kind: T.DataType, path: str) -> Iterator[Fault]:
    numbers = isinstance(kind, T.ArrayType) and isinstance(kind.elementType, NUMBERS)
    if not numbers and not isinstance(kind, T.StringType):
        yield Fault(f"column {name!r} in {path} is {kind.simpleString()}, want an array of numbers", fix="set source.items.vector: null")


def missing(setting: str, role: str, wanted: str, found: tuple[str, ...], *, where: str = "") -> Fault:
    """The fault of a column that is not in the file, with the one that was probably meant."""
    near = nearest(role, wanted, found)
    shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
    return Fault(
        f"column {wanted!r} is missing{where}", f"found: {shown}", f"did you mean: {setting}: {near} ?" if near else f"set {setting}"
    )
