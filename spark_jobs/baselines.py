"""Baseline candidate lists on the same split: what any trained channel has to beat.

most_pop: the most clicked items. itemcf: item-item cosine over users' train sets (Sarwar et al. 2001; Deshpande and Karypis 2004).
als: implicit matrix factorisation by Spark MLlib (Hu et al. 2008), its parameters chosen on valid. Nothing here reads test clicks.

Every maker takes `asked`: user_idx, items array<int32> (history, oldest first), seen array<int32> (never recommended), and gives
user_idx, items array<int32>: at most `num`, best first, ties by smaller item_idx; no row for a user it has nothing to say about.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.sections.evaluation import Als
from conf.tables import CONTEXT, TRAIN, VALID

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
# histories of many users -> for each, ids (ascending) of items that may be recommended and their scores
Scorer = Callable[[Sequence[Ints]], Iterator[tuple[Ints, Floats]]]

LISTS: Final = "user_idx int, items array<int>"
NEIGHBOURS: Final = 100  # of an item in itemcf
BLOCK: Final = 256  # rows computed together: 256 x |items| numbers at most


# ---- what the baselines are asked ----------------------------------------------------------------------------------


def queries(users: DataFrame, user_state: DataFrame, *, seen: Literal["none", "history", "train_and_history"], history: int) -> DataFrame:
    """The baselines' input for each user_idx of `users`; a user without state has an empty history. history: L of `seen: history`."""
    state = users.select("user_idx").join(user_state.select("user_idx", "items"), "user_idx", how="left")
    empty = F.array().cast("array<int>")
    items = F.coalesce(F.col("items"), empty)
    # slice() from before the first element gives nothing, so the start is clamped
    last = F.slice(items, F.greatest(F.size(items) - history + 1, F.lit(1)), history)
    hidden = {"none": empty, "history": F.array_distinct(last), "train_and_history": F.array_distinct(items)}[seen]
    return state.select("user_idx", items.alias("items"), hidden.alias("seen"))


def train_counts(events: DataFrame, *, refit: bool = False) -> DataFrame:
    """user_idx, item_idx, count: how often a user clicked an item in train (refit: or in valid)."""
    return events.where(F.col("split").isin(TRAIN, *[VALID] * refit)).groupBy("user_idx", "item_idx").count()


def train_state(events: DataFrame) -> DataFrame:
    """user_idx, items array<int32>: what each user did before its valid events, oldest first."""
    known = events.where(F.col("split").isin(TRAIN, CONTEXT))
    listed = F.sort_array(F.collect_list(F.struct("ts", "seq", "item_idx")))
    return known.groupBy("user_idx").agg(F.transform(listed, lambda e: e["item_idx"]).alias("items"))


# ---- most popular --------------------------------------------------------------------------------------------------


def most_pop(counts: DataFrame, asked: DataFrame, eligible: DataFrame, *, num: int) -> DataFrame:
    """Everyone's list is the eligible items by train clicks, without what the user has seen. eligible: idx."""
    longest = asked.agg(F.max(F.size("seen"))).first()
    depth = num + int((longest and longest[0]) or 0)
    clicks = counts.groupBy("item_idx").agg(F.sum("count").alias("clicks"))
    known = clicks.join(eligible.select(F.col("idx").alias("item_idx")), "item_idx", how="left_semi")
    top = [row["item_idx"] for row in known.orderBy(F.desc("clicks"), "item_idx").limit(depth).collect()]
    popular = F.array(*map(F.lit, top)).cast("array<int>")
    enough = F.slice(popular, F.lit(1), F.size("seen") + num)
    return asked.select("user_idx", F.slice(F.array_except(enough, "seen"), 1, num).alias("items"))


# ---- ranking -------------------------------------------------------------------------------------------------------


def best(ids: Ints, scores: Floats, *, num: int) -> Ints:
    """Positions of the `num` highest scores, best first, ties by smaller id: exact, whatever order they come in."""
    kept: Ints = np.arange(len(ids), dtype=np.int32)
    if len(ids) > num:
        kept = kept[scores >= np.partition(scores, len(scores) - num)[len(scores) - num]]
    order = np.lexsort((ids[kept], -scores[kept]))
    top: Ints = kept[order][:num]
    return top


def rank(asked: DataFrame, make: Callable[[], Scorer], *, num: int) -> DataFrame:
    """Each user's best unseen items by the scorer, which is made once per task."""

    def lists(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """(user_idx, items, seen) in; (user_idx, items) out: at most `num` unseen items, best first. Users without one are left out."""
        scorer = make()
        for batch in batches:
            users, histories, hidden = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("user_idx", "items", "seen"))
            found = []
            for (ids, scores), seen in zip(scorer(histories), hidden, strict=True):
                fresh = np.isin(ids, seen, invert=True)
                found.append(ids[fresh][best(ids[fresh], scores[fresh], num=num)])
            full = [i for i, items in enumerate(found) if len(items)]
            columns = [pa.array(users[full], pa.int32()), pa.array([found[i] for i in full], pa.list_(pa.int32()))]
            yield pa.record_batch(columns, names=["user_idx", "items"])

    return asked.select("user_idx", "items", "seen").mapInArrow(lists, LISTS)


def _ids(rows: DataFrame) -> Ints:
    column: Ints = rows.select(F.col("idx").cast("int")).toArrow().column("idx").to_numpy()
    return np.unique(column)


# ---- item-item cosine ----------------------------------------------------------------------------------------------


def itemcf(counts: DataFrame, asked: DataFrame, eligible: DataFrame, *, num: int, neighbours: int = NEIGHBOURS) -> DataFrame:
    """score(u, j) = sum over u's distinct items i of cos(i, j), for j among i's `neighbours` nearest eligible items.

    cos(i, j) = users with both / sqrt(users with i * users with j), over train. The train pairs travel whole to every executor
    (12 bytes a pair): made for comparisons on up to some 10^8 pairs, not for a daily run.
    """
    pairs = counts.select("user_idx", "item_idx").toArrow()
    users, items = (pairs.column(name).to_numpy() for name in ("user_idx", "item_idx"))
    wanted, allowed = _ids(asked.select(F.explode("items").alias("idx")).distinct()), _ids(eligible)
    size = int(max(part.max(initial=0) for part in (items, wanted, allowed))) + 1
    met = sp.csc_array((np.ones(len(users)), (users, items)), shape=(int(users.max(initial=0)) + 1, size))
    nearest = _nearest(counts.sparkSession, met, wanted, allowed, neighbours)
    return rank(asked, lambda: _sum_of_neighbours(nearest), num=num)


def _nearest(spark: SparkSession, met: Any, wanted: Ints, allowed: Ints, neighbours: int) -> Any:
    """Sparse float64[items, items]: each wanted row holds the cosines of its nearest allowed items, itself never among them."""
    blocks = [wanted[start : start + BLOCK] for start in range(0, len(wanted), BLOCK)]
    may = np.zeros(met.shape[1], dtype=bool)
    may[allowed] = True

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        by_user = met.tocsr()
        for batch in batches:
            for number in batch.column("id").to_numpy():
                yield _rows_of_block(met, by_user, blocks[number], may, neighbours)

    numbers = spark.range(0, len(blocks), numPartitions=max(1, min(len(blocks), 2 * spark.sparkContext.defaultParallelism)))
    found = numbers.mapInArrow(rows, "i int, j int, cosine double").toArrow()
    i, j, cosine = (found.column(name).to_numpy() for name in ("i", "j", "cosine"))
    return sp.csr_array((cosine, (i, j)), shape=(met.shape[1], met.shape[1]))


def _rows_of_block(met: Any, by_user: Any, block: Ints, may: npt.NDArray[np.bool_], neighbours: int) -> pa.RecordBatch:
    both = (met[:, block].T.tocsr() @ by_user).tocsr()
    num_users = np.diff(met.indptr)
    found: list[tuple[Ints, Ints, Floats]] = []
    for row, item in enumerate(block):
        span = slice(both.indptr[row], both.indptr[row + 1])
        others, shared = both.indices[span], both.data[span]
        fit = may[others] & (others != item)
        others, shared = others[fit].astype(np.int32), shared[fit]
        cosine = shared / np.sqrt(float(num_users[item]) * num_users[others])
        top = best(others, cosine, num=neighbours)
        found.append((np.full(len(top), item, dtype=np.int32), others[top], cosine[top]))
    return pa.record_batch([pa.array(np.concatenate(part)) for part in zip(*found, strict=True)], names=["i", "j", "cosine"])


def _sum_of_neighbours(nearest: Any) -> Scorer:
    def scorer(histories: Sequence[Ints]) -> Iterator[tuple[Ints, Floats]]:
        for items in histories:
            rows = nearest[np.unique(items)]
            ids, place = np.unique(rows.indices, return_inverse=True)
            yield ids.astype(np.int32), np.bincount(place, weights=rows.data, minlength=len(ids)).astype(np.float64)

    return scorer


# ---- matrix factorisation ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Factors:
    """A trained ALS model: its parameters, and item vectors float64[n, rank] of ids int32[n] (ascending). recall: on valid."""

    rank: int
    reg: float
    alpha: float
    ids: Ints
    vectors: Floats
    recall: float = 0.0

    @property
    def name(self) -> str:
        """Method and parameters, as in column `model` of the metrics."""
        return f"als(rank={self.rank},reg={self.reg:g},alpha={self.alpha:g})"

    @cached_property
    def gram(self) -> Floats:
        """float64[rank, rank]: sum over all items of v v^T."""
        return self.vectors.T @ self.vectors

    def solve(self, items: Ints) -> Floats:
        """float64[rank]: the vector of a user with this history, by the half step that ends ALS training (Hu et al. 2008, eq. 4).

        For a user in training this is the model's own vector; it also serves users that the split keeps out of training.
        """
        known, clicks = np.unique(items[np.isin(items, self.ids)], return_counts=True)
        own, extra = self.vectors[np.searchsorted(self.ids, known)], self.alpha * clicks
        # MLlib scales the regularisation by the number of the user's items (ALS-WR, Zhou et al. 2008)
        left = self.gram + own.T @ (extra[:, None] * own) + self.reg * len(known) * np.eye(self.rank)
        return np.linalg.solve(left, own.T @ (1 + extra)) if len(known) else np.zeros(self.rank)


def train_als(counts: DataFrame, *, rank: int, reg: float, alpha: float, iterations: int, seed: int) -> Factors:
    """Train MLlib's implicit ALS on the click counts."""
    blocks = max(4, ceil(counts.count() / 1_000_000))  # by the data, not the cores: another number gives another start
    fitted = ALS(
        rank=rank, maxIter=iterations, regParam=reg, alpha=alpha, implicitPrefs=True, seed=seed, numUserBlocks=blocks, numItemBlocks=blocks,
        userCol="user_idx", itemCol="item_idx", ratingCol="count",
    ).fit(counts.select("user_idx", "item_idx", F.col("count").cast("float")))  # fmt: skip
    table = fitted.itemFactors.orderBy("id").toArrow()
    vectors = np.stack(table.column("features").to_numpy()).astype(np.float64)
    return Factors(rank, reg, alpha, table.column("id").to_numpy().astype(np.int32), vectors)


def als_lists(factors: Factors, asked: DataFrame, eligible: DataFrame, *, num: int) -> DataFrame:
    """Every user's unseen eligible items by the inner product with its vector; users without a known item get no list."""
    allowed = np.isin(factors.ids, _ids(eligible))
    ids, vectors = factors.ids[allowed], factors.vectors[allowed]

    def scorer(histories: Sequence[Ints]) -> Iterator[tuple[Ints, Floats]]:
        for start in range(0, len(histories), BLOCK):
            users = np.stack([factors.solve(items) for items in histories[start : start + BLOCK]])
            for user, scores in zip(users, users @ vectors.T, strict=True):
                yield (ids, scores) if user.any() else (ids[:0], scores[:0])

    return rank(asked, lambda: scorer, num=num)


def choose_als(
    counts: DataFrame, asked: DataFrame, truth: DataFrame, eligible: DataFrame, *, grid: Als, num: int, seed: int
) -> tuple[Factors, dict[str, float]]:
    """The model of the grid with the highest recall@num on `truth` (user_idx, truth) of valid, and every model's recall by name.

    Where there is nothing to choose by (split.kind production holds no valid clicks out) or from: the first model, and no recall.
    """
    models = list(product(grid.rank, grid.reg, grid.alpha))
    if len(models) == 1 or truth.isEmpty():
        rank, reg, alpha = models[0]
        return train_als(counts, rank=rank, reg=reg, alpha=alpha, iterations=grid.iterations, seed=seed), {}
    tried: list[Factors] = []
    for size, reg, alpha in models:
        factors = train_als(counts, rank=size, reg=reg, alpha=alpha, iterations=grid.iterations, seed=seed)
        joined = truth.join(als_lists(factors, asked, eligible, num=num), "user_idx", how="left")
        hits = F.coalesce(F.size(F.array_intersect("items", "truth")), F.lit(0))
        row = joined.agg(F.avg(hits / F.size("truth"))).first()
        tried.append(replace(factors, recall=float((row and row[0]) or 0)))
    return max(tried, key=lambda factors: factors.recall), {factors.name: factors.recall for factors in tried}
