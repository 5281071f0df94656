"""Scores the candidates of every channel, their merge and the baselines against held-out clicks, or against those of a later day.

Source: Lu et al. 2022 (MIC), section 4.2: recall, NDCG and hit rate per user, averaged over users.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate
from math import log2
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import Fault, SettingsError
from conf.tables import TEST, TRAIN, VALID, resolve
from spark_jobs import baselines
from spark_jobs.job import Context, Job, main, spark_schema
from spark_jobs.later_truth import count_unknown, later_clicks, truth_of
from spark_jobs.oracle import oracle_lists

CHANNELS: Final = "channels"
MERGED: Final = "merged"
ORACLE: Final = "oracle"
MEANS: Final = ("recall", "ndcg_hit", "ndcg_std", "hr")
Z95: Final = 1.959963984540054  # 97.5 % point of the normal distribution
VALID_USERS: Final = 2_000  # that choose the parameters of ALS
BASELINES: Final = {"most_pop": "most_pop", "itemcf": "itemcf_cosine", "als": "als"}  # names in column channel: `itemcf` is a channel too


# ---- who is scored, and on what ------------------------------------------------------------------------------------


def held_out(events: DataFrame, split: int = TEST) -> DataFrame:
    """user_idx, truth array<int32>: each user's distinct items of one split, in ascending order; users without any have no row."""
    return events.where(F.col("split") == split).groupBy("user_idx").agg(F.sort_array(F.collect_set("item_idx")).alias("truth"))


def sample_units(truth: DataFrame, *, max_users: int, seed: int) -> DataFrame:
    """At most `max_users` rows of `truth`, those of the smallest hash of (seed, user_idx): the same for every channel and partitioning."""
    order = F.xxhash64(F.lit(seed).cast("long"), F.col("user_idx").cast("long"))
    return truth.orderBy(order, "user_idx").limit(max_users)


def count_truth(units: DataFrame, events: DataFrame, eligible: DataFrame) -> dict[str, int]:
    """Held-out items of the units, how many of them nobody clicked in train, and how many may not be recommended."""
    items = units.select(F.explode("truth").alias("item_idx"))
    trained = events.where(F.col("split") == TRAIN).select("item_idx", F.lit(True).alias("trained")).distinct()
    allowed = eligible.select(F.col("idx").alias("item_idx"), F.lit(True).alias("allowed"))
    joined = items.join(trained, "item_idx", how="left").join(allowed, "item_idx", how="left")
    row = joined.agg(
        F.count(F.lit(1)).alias("truth_items"),
        F.count(F.when(F.col("trained").isNull(), 1)).alias("truth_items_never_trained"),
        F.count(F.when(F.col("allowed").isNull(), 1)).alias("truth_items_not_eligible"),
    ).first()
    assert row is not None
    return row.asDict()


def merged_lists(candidates: DataFrame, units: DataFrame, user_index: DataFrame, item_index: DataFrame) -> DataFrame:
    """Published candidates of the units, of either layout, back to user_idx, items array<int32> (best first).

    Published keys have the type they came with; the indexes hold them as strings.
    """
    users = user_index.join(F.broadcast(units), user_index.idx == units.user_idx, how="left_semi")
    users = F.broadcast(users.select(F.col("key").alias("user"), F.col("idx").alias("user_idx")))
    mine = candidates.withColumn("user", F.col("user_key").cast("string")).join(users, "user", how="inner")
    if "item_keys" in candidates.columns:
        rows = mine.select("user_idx", F.posexplode("item_keys").alias("rank", "item"))
    else:
        rows = mine.select("user_idx", "rank", F.col("item_key").alias("item"))
    items = item_index.select(F.col("key").alias("item"), F.col("idx").alias("item_idx"))
    found = rows.withColumn("item", F.col("item").cast("string")).join(items, "item", how="inner")
    ranked = found.groupBy("user_idx").agg(F.sort_array(F.collect_list(F.struct("rank", "item_idx"))).alias("ranked"))
    return ranked.select("user_idx", F.col("ranked.item_idx").alias("items"))


# ---- the metrics ---------------------------------------------------------------------------------------------------


def score(lists: DataFrame, units: DataFrame, *, channels: Sequence[str], at: Sequence[int]) -> DataFrame:
    """One row per unit, channel and N: recall, ndcg_hit, ndcg_std, hr, n_truth, n_hit, all shares in [0, 1].

    lists: user_idx, channel, items. units: user_idx, truth (not empty). A unit that a channel has no list for counts as an
    empty list; a list shorter than N counts as misses; an item that a list repeats counts once, at its first place.
    """
    grid = units.withColumn("channel", F.explode(F.array(*map(F.lit, channels))))
    own = lists.select("user_idx", "channel", F.array_distinct("items").alias("items"))
    joined = grid.join(own, ["user_idx", "channel"], how="left")
    at_rank = F.transform("items", lambda item, i: F.when(F.array_contains("truth", item), i + 1))
    hits = F.coalesce(F.filter(at_rank, lambda rank: rank.isNotNull()), F.array().cast("array<int>"))
    scored = joined.select("user_idx", "channel", F.size("truth").alias("n_truth"), hits.alias("hits"))
    cells = scored.select("*", F.explode(F.array(*(_cell(n, max(at)) for n in at))).alias("cell"))
    return cells.select("user_idx", "channel", "cell.n", *(f"cell.{name}" for name in MEANS), "n_truth", "cell.n_hit")


def _cell(n: int, longest: int) -> Column:
    """The numbers of one row at cut-off n, from its columns `hits` (ranks of the hits, from 1) and `n_truth`."""
    gains = [1 / log2(rank + 1) for rank in range(1, longest + 1)]
    gain, ideal = F.array(*map(F.lit, gains)), F.array(*map(F.lit, accumulate(gains, initial=0.0)))  # ideal[k]: k hits at the top
    hits = F.filter("hits", lambda rank: rank <= n)
    n_hit, n_truth = F.size(hits), F.col("n_truth")
    dcg = F.aggregate(hits, F.lit(0.0), lambda total, rank: total + F.element_at(gain, rank))
    return F.struct(
        F.lit(n).alias("n"),
        (n_hit / n_truth).alias("recall"),
        F.when(n_hit > 0, dcg / F.element_at(ideal, n_hit + 1)).otherwise(0.0).alias("ndcg_hit"),
        (dcg / F.element_at(ideal, F.least(n_truth, F.lit(n)) + 1)).alias("ndcg_std"),
        F.when(n_hit > 0, 1.0).otherwise(0.0).alias("hr"),
        n_hit.alias("n_hit"),
    )


def means(per_user: DataFrame) -> DataFrame:
    """channel, metric, n, value, n_users, ci_lo, ci_hi: mean over users and its normal 95 % interval (null for a single user)."""
    long = per_user.select("channel", "n", F.explode(F.array(*(_named(name) for name in MEANS))).alias("cell"))
    value, half = F.avg("cell.value"), Z95 * F.stddev_samp("cell.value") / F.sqrt(F.count("*"))
    return long.groupBy("channel", F.col("cell.metric").alias("metric"), "n").agg(
        value.alias("value"), F.count("*").cast("int").alias("n_users"), (value - half).alias("ci_lo"), (value + half).alias("ci_hi")
    )


def _named(name: str) -> Column:
    return F.struct(F.lit(name).alias("metric"), F.col(name).alias("value"))


def coverage(lists: DataFrame, eligible: DataFrame, *, channels: Sequence[str], at: Sequence[int], n_users: int) -> DataFrame:
    """Rows like those of `means` with metric 'coverage': the share of eligible items that stand in any unit's first N."""
    spark = lists.sparkSession
    places = lists.select("channel", F.posexplode("items").alias("rank", "item_idx"))
    best = places.groupBy("channel", "item_idx").agg(F.min("rank").alias("rank"))
    kept = best.join(eligible.select(F.col("idx").alias("item_idx")), "item_idx", how="left_semi")
    counted = kept.groupBy("channel").agg(*(F.count(F.when(F.col("rank") < n, 1)).alias(str(n)) for n in at))
    found = {row["channel"]: row.asDict() for row in counted.collect()}
    total = max(eligible.count(), 1)
    rows = [(c, "coverage", n, found.get(c, {}).get(str(n), 0) / total, n_users, None, None) for c in channels for n in at]
    return spark.createDataFrame(rows, "channel string, metric string, n int, value double, n_users int, ci_lo double, ci_hi double")


# ---- the job -------------------------------------------------------------------------------------------------------


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, DataFrame]:
    """Score every list of at most evaluation.max_users users with something to find; empty tables where there is nothing."""
    settings, counters = context.settings, context.counters
    at = sorted(set(settings.evaluation.at))
    truth = _truth(context, tables).persist()
    units = sample_units(truth, max_users=settings.evaluation.max_users, seed=settings.split.seed)
    units = units.repartition(context.spark.sparkContext.defaultParallelism, "user_idx").persist()  # a limit leaves one task for all
    counters["users_with_truth"], counters["users_scored"] = truth.count(), units.count()
    counters["users_without_truth"] = context.manifests["user_index"].rows - counters["users_with_truth"]
    if counters["users_scored"] == 0:  # split.kind production without a later day: published empty, and the report says so
        return {name: _no_rows(context, name) for name in ("metrics_user", "metrics")}
    eligible = tables["item_feat"].where("eligible").select("idx").persist()
    counters.update(count_truth(units, tables["events"], eligible))
    if "clicks" in tables:
        counters["truth_items_unknown"] = count_unknown(units)
    made = {**_published(tables, units), **_compared(context, tables, units, eligible)}
    channels = [*settings.channels.names, *(name for name in made if name != CHANNELS)]
    tops = (part.select("user_idx", "channel", F.slice("items", 1, max(at)).alias("items")) for part in made.values())
    lists = reduce(DataFrame.unionByName, tops).persist()
    for row in lists.where(F.size("items") > 0).groupBy("channel").count().collect():
        counters[f"users_with_list.{row['channel']}"] = row["count"]
    per_user = score(lists, units, channels=channels, at=at).persist()
    rows = means(per_user).unionByName(coverage(lists, eligible, channels=channels, at=at, n_users=counters["users_scored"]))
    run_id = context.manifests["candidates"].run_id
    return {"metrics_user": per_user.withColumn("run_id", F.lit(run_id)), "metrics": _labelled(context, tables, rows)}


def _truth(context: Context, tables: Mapping[str, DataFrame]) -> DataFrame:
    """user_idx, truth: what is to be found of each user, held out of the day itself or clicked after it.

    Raises:
        SettingsError: a later day is asked for, and the log has no clock time.
    """
    if "clicks" not in tables:
        return held_out(tables["events"])
    truth_ds = context.manifests["clicks"].ds
    if not context.facts["has_clock"]:
        fault = Fault("needs clock times", "this log has only an order of clicks", "hold clicks out by split.kind")
        raise SettingsError("--truth-ds", [fault])
    later = later_clicks(tables["clicks"], tables["user_index"], tables["item_index"], after=context.ds, until=truth_ds).persist()
    context.facts["truth_ds"] = context.counters["truth_ds"] = truth_ds
    strangers = later.where(F.col("user_idx").isNull()).agg(F.countDistinct("user_key")).first()
    context.counters["truth_users_unknown"] = strangers[0] if strangers else 0
    return truth_of(later)


def _no_rows(context: Context, name: str) -> DataFrame:
    schema = spark_schema(resolve(name, context.registry, context.settings.shape()))
    return context.spark.createDataFrame([], schema)


def _published(tables: Mapping[str, DataFrame], units: DataFrame) -> dict[str, DataFrame]:
    """user_idx, channel, items of what the run recommends, for the units."""
    own = tables["channel_candidates"].join(F.broadcast(units.select("user_idx")), "user_idx", how="left_semi")
    merged = merged_lists(tables["candidates"], units, tables["user_index"], tables["item_index"])
    return {CHANNELS: own.select("user_idx", "channel", "items"), MERGED: merged.withColumn("channel", F.lit(MERGED))}


def _compared(context: Context, tables: Mapping[str, DataFrame], units: DataFrame, eligible: DataFrame) -> dict[str, DataFrame]:
    """The same of what it is compared with: the baselines asked for, and the oracle of generated data. Times go to the counters."""
    settings, counters, num = context.settings, context.counters, max(context.settings.evaluation.at)
    refit = settings.split.refit
    ask = partial(baselines.queries, seen=settings.channels.seen, history=settings.model.history)
    asked, counts = ask(units, tables["user_state"]).persist(), baselines.train_counts(tables["events"], refit=refit).persist()

    def als() -> DataFrame:
        """The lists of the grid's best on valid; which one, and what each found, goes to the counters."""
        seed, grid = settings.split.seed, settings.evaluation.als
        truth = sample_units(held_out(tables["events"], VALID), max_users=VALID_USERS, seed=seed).persist()
        # what valid is asked with: with refit the state of the day holds the answers
        state, train = tables["user_state"], counts
        if refit:
            state, train = baselines.train_state(tables["events"]), baselines.train_counts(tables["events"]).persist()
        chosen, tried = baselines.choose_als(train, ask(truth, state).persist(), truth, eligible, grid=grid, num=num, seed=seed)
        counters["als_valid_recall"], counters["als_chosen"] = tried, chosen.name
        if refit:
            chosen = baselines.train_als(
                counts, rank=chosen.rank, reg=chosen.reg, alpha=chosen.alpha, iterations=grid.iterations, seed=seed
            )
        return baselines.als_lists(chosen, asked, eligible, num=num)

    makers: dict[str, Callable[[], DataFrame]] = {
        "most_pop": lambda: baselines.most_pop(counts, asked, eligible, num=num),
        "itemcf": lambda: baselines.itemcf(counts, asked, eligible, num=num),
        "als": als,
        ORACLE: lambda: oracle_lists(settings, asked, tables["user_index"], tables["item_index"], eligible, num=num),
    }
    made = {}
    names = {maker: BASELINES[maker] for maker in settings.evaluation.baselines}
    for maker, name in (names | ({ORACLE: ORACLE} if settings.source.kind == "synthetic" else {})).items():
        start = time.monotonic()
        made[name] = makers[maker]().withColumn("channel", F.lit(name)).persist()
        made[name].count()
        counters[f"seconds.{name}"] = round(time.monotonic() - start, 3)
    return made


def _labelled(context: Context, tables: Mapping[str, DataFrame], rows: DataFrame) -> DataFrame:
    """The rows with their run, data set, model and variant; a baseline's model is its own name and parameters."""
    settings = context.settings
    trained = tables["candidates"].select("model_id").first()
    assert trained is not None, "candidates is never empty"
    own = {name: name for name in [*BASELINES.values(), ORACLE]} | {"als": context.counters.get("als_chosen", "als")}
    names = F.create_map(*(F.lit(word) for pair in own.items() for word in pair))
    return rows.select(
        "*",
        F.lit(context.manifests["candidates"].run_id).alias("run_id"),
        F.lit(settings.source.kind).alias("dataset"),
        F.coalesce(names[F.col("channel")], F.lit(trained["model_id"])).alias("model"),
        F.lit(context.store.variant).alias("setting"),
        F.lit("all").alias("slice"),
    )


JOB = Job("offline_metrics", transform, "Score the candidates of every channel and of the baselines against held-out clicks.")

if __name__ == "__main__":
    sys.exit(main(JOB))
