"""The verb compare: two systems on the users that both were scored on, paired in Spark, with intervals and a verdict.

Reads `metrics_user` alone: whatever channel, variant or day was scored can be compared, baselines too.
"""

import json
import pickle
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.command import Request, RunStatus
from conf.errors import Fault, UsageError
from conf.files import open_root, storage_faults, write_atomic
from conf.inventory import runs_named
from conf.manifest import Manifest
from conf.storage import Store
from conf.tables import TABLES
from spark_jobs.bootstrap import REPLICATES
from spark_jobs.conclusions import comparison_path
from spark_jobs.contenders import Contender, contenders
from spark_jobs.diff import version
from spark_jobs.metrics.summary import RATIOS
from spark_jobs.paired import Sums
from spark_jobs.paired import compare as lines_of
from spark_jobs.session import running
from spark_jobs.significance import linearised
from spark_jobs.verdicts import table_of, verdict

# those that every user has, and of which more is better: what lists are made of is neither
METRICS: Final = tuple(column.name for column in TABLES["metrics_user"].columns if column.type == "float64" and not column.nullable)

F64 = npt.NDArray[np.float64]
Started = Callable[[], AbstractContextManager[SparkSession]]


def compare(asked: Request, a: str, b: str, *, out: str | None = None, started: Started | None = None) -> int:
    """Print how B differs from A, users paired; write it as JSON under the root, for the report, and to the path `out`. Returns 0.

    started: gives the Spark session; default: one of its own.

    Raises:
        UsageError, NotReadyError, BadDataError: as `contenders`; no cut-off or no user is common to all. StorageError: `out`.
    """
    sides = contenders(asked, (a, b))
    at = _common_cut_offs(sides)
    if asked.dry_run:
        print("\n".join([*(f"{side.name}: {_runs(side)}" for side in sides), submit_line(asked, a, b, out)]))
        return 0
    with RunStatus(asked, "compare"), (started or partial(running, "compare"))() as spark:
        found = comparison(spark, asked, *sides, at=at)
        text, store = json.dumps(found, indent=1), asked.store
        with storage_faults(store.base):
            write_atomic(store.fs, comparison_path(store, asked.ds, *(side.name for side in sides)), text)
        if out is not None:
            with storage_faults(out, place="--out"):
                write_atomic(*open_root(out), text)
    print(table_of(found), flush=True)
    return 0


def _common_cut_offs(sides: Sequence[Contender]) -> list[int]:
    at = sorted(set.intersection(*(set(side.at) for side in sides)))
    if not at:
        found = "; ".join(f"{side.name}: {', '.join(map(str, side.at)) or 'none'}" for side in sides)
        fix = "score both with the same evaluation.at"
        raise UsageError("trichannel compare", [Fault("no cut-off N is common to all runs", found, fix)])
    return at


def submit_line(asked: Request, a: str, b: str, out: str | None) -> str:
    """The spark-submit line that stands for the comparison."""
    words = ["spark-submit", "--py-files", "dist/trichannel.zip", "spark_jobs/cli.py", "compare", a, b, *asked.arguments()]
    return shlex.join(words + ([] if out is None else ["--out", out]))


def _runs(side: Contender) -> str:
    return ", ".join(f"{run.variant} run {run.run_id}" for run in side.runs)


def comparison(spark: SparkSession, asked: Request, a: Contender, b: Contender, *, at: Sequence[int]) -> dict[str, Any]:
    """a, b, users, lines, verdict and what else `--out` holds. Raises UsageError where the two have no user in common."""
    by_key, seed = _by_key(a, b), asked.settings.split.seed
    trainings = [_scored(spark, asked, side.channel, run, by_key=by_key) for side in (a, b) for run in side.runs]
    columns = set.intersection(*(set(df.columns) for df in trainings))
    metrics, ratios = [name for name in METRICS if name in columns], [name for name in RATIOS if columns.issuperset(RATIOS[name])]
    summed = [name for ratio in ratios for name in RATIOS[ratio]]
    units = paired(trainings, num_a=len(a.runs), metrics=[*metrics, *summed], at=at).persist()
    users = count_users(units, len(a.runs), len(b.runs))
    if not users["both"]:
        found = f"{users['only_a']} only under A, {users['only_b']} only under B, {users['in_part']} not in every training"
        fix = "score both on the same split, by the same split.seed"
        raise UsageError("trichannel compare", [Fault("no user is scored under both", found, fix)])
    both = units.where((F.col("in_a") == len(a.runs)) & (F.col("in_b") == len(b.runs)))
    means_STK = means_of(both).reshape(len(trainings), len(at), -1)
    hits = Hits.of(ratios, len(metrics), means_STK)
    shape = (len(trainings), len(at), means_STK.shape[-1])
    sums = sums_of(both, shape=shape, num_a=len(a.runs), seed=seed, cells=hits.cells)
    units.unpersist()
    lines = lines_of(sums, [(metric, n) for metric in (*metrics, *hits.names) for n in at], len(a.runs))
    said = verdict(lines, users, len(a.runs), len(b.runs), own_numbers=by_key)
    return {"a": a.told(), "b": b.told(), "users": users, "seed": seed, "replicates": REPLICATES, "lines": lines, "verdict": said}


# ---- users, whatever their numbers -----------------------------------------------------------------------------------


def _by_key(a: Contender, b: Contender) -> bool:
    """Whether runs may number users differently: other days, or variants with vocabularies of their own."""
    return len({run.inputs["user_index"].rsplit(" ", 1)[-1] for run in (*a.runs, *b.runs)}) > 1


def _scored(spark: SparkSession, asked: Request, channel: str, run: Manifest, *, by_key: bool) -> DataFrame:
    """A run's rows of metrics_user in a channel, with the user's key or, where numbers mean the same everywhere, number as `user`."""
    rows = spark.read.parquet(*Store.of(asked.settings, run.variant).files_of(run)).where(F.col("channel") == channel)
    if not by_key:
        return rows.withColumn("user", F.col("user_idx"))
    (made,) = runs_named({"user_index": run.inputs["user_index"]})
    own = replace(asked, variant=made.day.variant)
    index = spark.read.parquet(*own.store.files_of(version(own, "user_index", made.day.ds, made.run_id)))
    return rows.join(index.select(F.col("idx").alias("user_idx"), F.col("key").alias("user")), "user_idx", how="inner")


# ---- pairs -----------------------------------------------------------------------------------------------------------


def paired(trainings: Sequence[DataFrame], *, num_a: int, metrics: Sequence[str], at: Sequence[int]) -> DataFrame:
    """One row a user: unit int64, in_a, in_b, other_truth bool, values array<double> by training, cut-off and metric.

    trainings: rows of metrics_user with `user`, the first num_a of A. in_a, in_b: how many trainings of A and B scored the user.
    other_truth: not all of them had the same number of items to find. A count that a user has not is 0.
    """
    cells = F.array(*(F.coalesce(F.col(name).cast("double"), F.lit(0.0)) for name in metrics)).alias("values")
    rows = [
        df.where(F.col("n").isin(*at)).select("user", F.lit(number).alias("training"), "n", cells, "n_truth")
        for number, df in enumerate(trainings)
    ]
    users = reduce(DataFrame.unionByName, rows).groupBy("user")
    ordered = F.sort_array(F.collect_list(F.struct("training", "n", "values")))
    grouped = users.agg(ordered.alias("rows"), (F.min("n_truth") != F.max("n_truth")).alias("other_truth"))
    scored_a = F.size(F.filter("rows", lambda row: row["training"] < num_a))
    return grouped.select(
        F.xxhash64("user").alias("unit"),
        (scored_a / len(at)).cast("int").alias("in_a"),
        ((F.size("rows") - scored_a) / len(at)).cast("int").alias("in_b"),
        "other_truth",
        F.flatten(F.transform("rows", lambda row: row["values"])).alias("values"),
    )


def count_users(units: DataFrame, num_a: int, num_b: int) -> dict[str, int]:
    """both: in every training; only_a, only_b: in none of the other side; in_part: of the rest; other_truth: of both."""
    in_a, in_b = F.col("in_a"), F.col("in_b")
    both = (in_a == num_a) & (in_b == num_b)
    row = units.agg(
        F.count(F.when(both, 1)).alias("both"),
        F.count(F.when(in_b == 0, 1)).alias("only_a"),
        F.count(F.when(in_a == 0, 1)).alias("only_b"),
        F.count(F.when((in_a > 0) & (in_b > 0) & ~both, 1)).alias("in_part"),
        F.count(F.when(both & F.col("other_truth"), 1)).alias("other_truth"),
    ).first()
    assert row is not None
    return row.asDict()


def means_of(units: DataFrame) -> F64:
    """float64: the mean over units at each place of `values`."""
    found = units.select(F.posexplode("values")).groupBy("pos").agg(F.avg("col").alias("mean")).orderBy("pos").collect()
    return np.array([row["mean"] for row in found])


@dataclass(frozen=True)
class Hits:
    """HIT, a ratio of sums over users, as a value a user: clicks of one user are not independent, so users are what is drawn.

    names: of the ratios that have anything to count in every training. metrics: columns before their counts. places: of their two counts.
    means: float64[S, T, K], of all users, by training, cut-off and column.
    """

    names: tuple[str, ...]
    metrics: int
    places: tuple[tuple[int, int], ...]
    means: F64

    @classmethod
    def of(cls, ratios: Sequence[str], metrics: int, means_STK: F64) -> Self:
        """ratios: keys of RATIOS, whose counts stand after the metrics, two each. means_STK: by training, cut-off and column."""
        places = {name: (metrics + 2 * n, metrics + 2 * n + 1) for n, name in enumerate(ratios)}
        known = {name: pair for name, pair in places.items() if (means_STK[..., pair[1]] > 0).all()}
        return cls(tuple(known), metrics, tuple(known.values()), means_STK)

    def cells(self, values_NSTK: F64) -> F64:
        """float64[N, S, T, C]: the metrics, then the ratios, linearised."""
        means = self.means
        ratios = [
            linearised(values_NSTK[..., top], values_NSTK[..., bottom], (means[..., top], means[..., bottom]))
            for top, bottom in self.places
        ]
        return np.concatenate([values_NSTK[..., : self.metrics], *(ratio[..., None] for ratio in ratios)], axis=-1)


def sums_of(units: DataFrame, *, shape: tuple[int, int, int], num_a: int, seed: int, cells: Callable[[F64], F64]) -> Sums:
    """The sums of the units, cells by metric and cut-off; each task adds up its own, so that no user reaches the driver.

    shape: of `values`: trainings, cut-offs, columns. cells: float64[N, *shape] as float64[N, trainings, cut-offs, metrics].
    """

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The pickled sums of a partition; nothing of an empty one."""
        total: Sums | None = None
        for batch in batches:
            if batch.num_rows:
                values_NSTC = cells(batch["values"].flatten().to_numpy().reshape(-1, *shape))
                values_NSC = values_NSTC.transpose(0, 1, 3, 2).reshape(len(values_NSTC), shape[0], -1)
                part = Sums.of(batch["unit"].to_numpy(), values_NSC, num_a, seed=seed)
                total = part if total is None else total.plus(part)
        if total is not None:
            yield pa.RecordBatch.from_pydict({"sums": [pickle.dumps(total)]})

    parts = units.select("unit", "values").mapInArrow(add_up, "sums binary")
    sums: Sums = parts.rdd.map(lambda row: pickle.loads(row["sums"])).treeReduce(lambda one, other: one.plus(other))
    return sums
