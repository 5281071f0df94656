"""Scores the candidates of every channel, their merge and the baselines against held-out clicks, or against those of a later day.

What is measured: spark_jobs/metrics/. Source: Lu et al. 2022 (MIC), section 4.2: recall, NDCG and hit rate per user, averaged over users;
Xie et al. 2022 (MicRec), section 5.3: HIT and coverage.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from functools import partial, reduce
from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from conf.errors import Fault, SettingsError
from conf.tables import VALID, resolve
from spark_jobs import baselines
from spark_jobs.held_out import count_truth, held_out, sample_units
from spark_jobs.job import Context, Job, main, spark_schema
from spark_jobs.later_truth import count_unknown, later_clicks, truth_of
from spark_jobs.metrics import ACCURACY, VARIETY
from spark_jobs.metrics.catalogue import catalogue_use
from spark_jobs.metrics.clicks import ASOF, as_of_click
from spark_jobs.metrics.groups import known_items, user_slices
from spark_jobs.metrics.lists import Items
from spark_jobs.metrics.scoring import ALL, COUNTS, first_items, score
from spark_jobs.metrics.summary import Number, summarise
from spark_jobs.metrics.vectors import vector_use
from spark_jobs.oracle import oracle_lists
from spark_jobs.published_lists import merged_lists

CHANNELS: Final = "channels"
MERGED: Final = "merged"
ORACLE: Final = "oracle"
VALID_USERS: Final = 2_000  # that choose the parameters of ALS
BASELINES: Final = {"most_pop": "most_pop", "itemcf": "itemcf_cosine", "als": "als"}  # names in column channel: `itemcf` is a channel too


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
        return {name: context.spark.createDataFrame([], _schema(context, name)) for name in ("metrics_user", "metrics")}
    eligible = tables["item_feat"].where("eligible").select("idx").persist()
    counters.update(count_truth(units, tables["events"], eligible))
    if "clicks" in tables:
        counters["truth_items_unknown"] = count_unknown(units)
    made = {**_published(tables, units), **_compared(context, tables, units, eligible)}
    channels = [*settings.channels.names, *(name for name in made if name != CHANNELS)]
    lists = reduce(DataFrame.unionByName, (first_items(part, max(at)) for part in made.values())).persist()
    for row in lists.where(F.size("items") > 0).groupBy("channel").count().collect():
        counters[f"users_with_list.{row['channel']}"] = row["count"]
    scored = score(lists, units, _items(context, tables), channels=channels, at=at)
    ranks = None if "clicks" in tables else tables.get("click_ranks")  # those are of clicks that the split held out
    scored = as_of_click(scored, ranks, at=at).persist()
    numbers = [
        *summarise(scored, _user_slices(context, tables, units)),
        *catalogue_use(lists, eligible, channels=channels, at=at, num_users=counters["users_scored"]),
        *vector_use(tables["embeddings_user"], tables["embeddings_item"], units, num=settings.evaluation.vectors, seed=settings.split.seed),
    ]
    per_user = scored.where(F.col("slice") == ALL).select("user_idx", "channel", "n", *ACCURACY, *VARIETY, *COUNTS, *ASOF)
    run_id = context.manifests["candidates"].run_id
    return {"metrics_user": per_user.withColumn("run_id", F.lit(run_id)), "metrics": _labelled(context, tables, numbers)}


def _items(context: Context, tables: Mapping[str, DataFrame]) -> Items:
    settings = context.settings
    name = settings.evaluation.category_field or settings.cooc.category_field
    category = next((field for field in context.registry.item if field.name == name), None)
    return known_items(tables["events"], tables["item_feat"], category, settings.evaluation.slices)


def _user_slices(context: Context, tables: Mapping[str, DataFrame], units: DataFrame) -> DataFrame:
    asked = context.settings.evaluation.slices
    fields = [field for field in context.registry.source_fields("user") if field.name in asked.user_fields]
    return user_slices(units, tables["user_state"], tables["users"], tables["user_index"], fields, asked)


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


def _schema(context: Context, name: str) -> StructType:
    return spark_schema(resolve(name, context.registry, context.settings.shape()))


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


def _labelled(context: Context, tables: Mapping[str, DataFrame], numbers: Sequence[Number]) -> DataFrame:
    """The numbers with their run, data set, model and variant; a baseline's model is its own name and parameters."""
    trained = tables["candidates"].select("model_id").first()
    assert trained is not None, "candidates is never empty"
    own = {name: name for name in [*BASELINES.values(), ORACLE]} | {"als": context.counters.get("als_chosen", "als")}
    run = (context.manifests["candidates"].run_id, context.settings.source.kind)
    rows = [(*run, own.get(x.channel, trained["model_id"]), context.store.variant, *astuple(x)) for x in numbers]
    return context.spark.createDataFrame(rows, _schema(context, "metrics"))


JOB = Job("offline_metrics", transform, "Score the candidates of every channel and of the baselines against held-out clicks.")

if __name__ == "__main__":
    sys.exit(main(JOB))
