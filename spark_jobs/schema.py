"""Our column types as Spark's, and the hash of a row."""

from collections.abc import Mapping

from pyspark.sql import Column, Row
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.schemas.table import Table


def row_hash(table: Table) -> Column:
    """A 64-bit hash of a row as a Spark column; floats of model-derived tables are rounded to 1e-5, nulls are distinct from absence."""

    columns = [_rounded(F.col(c.name), c.type) if table.derived else F.col(c.name) for c in table.columns if c.name != "run_id"]
    nulls = [F.col(c.name).isNull() for c in table.columns if c.nullable]
    # xxhash64 folds arrays into one another: without the lengths, [1], [2] would hash like [1, 2], []
    lengths = [F.size(c.name) for c in table.columns if c.type.startswith("array<")]
    return F.xxhash64(*columns, *nulls, *lengths)


HASH_PARTS = ((0, 22), (22, 22), (44, 20))  # first bit and number of bits of each


def hash_sums(hashes: Column) -> list[Column]:
    """Sums hash_0, hash_1, hash_2 of the parts of the hashes: `total_of` puts them together again.

    Whole numbers are added up several times faster than the decimals that a sum of hashes would need, and these parts do not
    overflow below 2^41 rows.
    """
    parts = [F.shiftrightunsigned(hashes, first).bitwiseAND(F.lit((1 << bits) - 1)) for first, bits in HASH_PARTS]
    return [F.sum(part).alias(f"hash_{number}") for number, part in enumerate(parts)]


def total_of(row: Row) -> int:
    """The sum of all hashes modulo 2^64, of a row with columns `hash_sums` (null: no rows)."""
    return sum((row[f"hash_{number}"] or 0) << first for number, (first, _) in enumerate(HASH_PARTS)) % 2**64


def _rounded(column: Column, kind: str) -> Column:
    """The value with its floats rounded to 1e-5, however deep they lie."""
    if kind in ("float32", "float64"):
        return F.round(column.cast("double"), 5) + F.lit(0.0)  # + 0.0 turns -0.0 into 0.0
    if "float" not in kind:
        return column
    if kind.startswith("array<"):
        return F.transform(column, lambda x: _rounded(x, kind[6:-1]))
    return F.struct(*[_rounded(column[name], inner).alias(name) for name, inner in (part.split(":") for part in kind[7:-1].split(","))])


_TYPE_NAMES: Mapping[type[T.DataType], str] = {
    T.BooleanType: "bool",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float64",
    T.StringType: "string",
    T.DateType: "date",
}


def type_name(data_type: T.DataType) -> str:
    """Our name of a Spark type, as in conf.schemas.table.TYPES; Spark's own where we have none."""
    if isinstance(data_type, T.ArrayType):
        return f"array<{type_name(data_type.elementType)}>"
    if isinstance(data_type, T.StructType):
        return f"struct<{','.join(f'{f.name}:{type_name(f.dataType)}' for f in data_type.fields)}>"
    return _TYPE_NAMES.get(type(data_type), data_type.simpleString())


def spark_schema(table: Table) -> T.StructType:
    """The table's columns as a Spark schema."""
    return T.StructType([T.StructField(c.name, _spark_type(c.type), c.nullable) for c in table.columns])


def _spark_type(name: str) -> T.DataType:
    simple = {ours: spark for spark, ours in _TYPE_NAMES.items()}
    if name.startswith("array<"):
        return T.ArrayType(_spark_type(name[6:-1]), containsNull=False)
    if name.startswith("struct<"):
        pairs = (part.split(":") for part in name[7:-1].split(","))
        return T.StructType([T.StructField(key, _spark_type(kind)) for key, kind in pairs])
    return simple[name]()
