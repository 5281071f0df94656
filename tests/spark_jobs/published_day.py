"""A whole small day in a store: the data jobs run for real, what the model and retrieval would publish is made up.

Everything goes through the real publication protocol, so that offline_metrics and report read what they read in a pipeline.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.command import Log, Request
from conf.settings import Settings
from conf.storage import MAIN
from conf.tables import TEST, resolve
from spark_jobs import cooccurrence, events, samples, sessions, vocabulary
from spark_jobs.job import Artefact, Context, Job, run_job, spark_schema
from tests.spark_jobs.small_logs import clicks_df, random_log

HOSTILE = "<script>alert('1')</script> & \"more\""  # title of one item

SETTINGS: Mapping[str, Any] = {
    "source": {
        "kind": "generic",
        "path": "unused",
        "fields": {"user": {"city": "single", "plan": "single"}, "item": {"category": "single", "tags": "multi", "title": "text"}},
    },
    "split": {"kind": "last_k", "k": 2},
    "session": {"kind": "gap"},
    "model": {"history": 5, "fields": {"user": ["user_id", "city"]}},  # and never sees a plan
    "channels": {"names": ["u2i", "i2i", "itemcf", "popular"], "top": 12},
    "evaluation": {
        "at": [3, 10],
        "max_users": 25,
        "als": {"rank": [4], "reg": [0.05], "alpha": [1.0, 10.0], "iterations": 3},
        "slices": {"user_fields": ["city", "plan"]},
        "category_field": "category",
    },
    "report": {"sample_users": 3},
}


def day_settings(**changed: Mapping[str, Any]) -> Settings:
    """SETTINGS with sections replaced key by key."""
    merged = {name: {**SETTINGS.get(name, {}), **changed.get(name, {})} for name in {*SETTINGS, *changed}}
    return Settings.model_validate(merged)


def request_for(root: Path, settings: Settings, *, run_id: str = "r1", ds: str = "2026-01-06") -> Request:
    rooted = settings.model_copy(update={"storage": settings.storage.model_copy(update={"root": str(root)})})
    log = Log("text", run_id=run_id)
    return Request("test", rooted, (), ds, MAIN, run_id, force=False, break_lock=False, dry_run=False, log=log)


def publish_day(spark: SparkSession, asked: Request, *, until: str = "click_ranks") -> None:
    """Every table up to those of job `until`."""
    made: Mapping[str, Callable[..., Any]] = {
        "ingest": ingest, "vocabulary": vocabulary.JOB.transform, "events": events.JOB.transform, "sessions": sessions.JOB.transform,
        "cooccurrence": cooccurrence.JOB.transform, "samples": samples.JOB.transform, "train": train, "embed": embed, "index": index,
        "neighbours": neighbours, "candidates": candidates, "click_ranks": click_ranks,
    }  # fmt: skip
    for name, transform in made.items():
        run_job(Job(name, transform), spark, asked)
        if name == until:
            return


def _frame(context: Context, name: str, rows: list[tuple[Any, ...]]) -> DataFrame:
    return context.spark.createDataFrame(rows, spark_schema(resolve(name, context.registry, context.settings.shape())))


def _published(context: Context, name: str) -> DataFrame:
    """A table of the day, whether or not the job lists it among its inputs."""
    store = context.store
    return context.spark.read.parquet(*store.files_of(store.manifest(name, context.ds, context.settings)))


def ingest(context: Context, _: Mapping[str, DataFrame]) -> dict[str, Any]:
    log = random_log(5, users=40, items=30, clicks=900)
    users, items = sorted({c.user for c in log}), sorted({c.item for c in log} | {"i-cold"})
    context.facts.update(has_clock=True, user_key_type="string", item_key_type="string")
    return {
        "clicks": clicks_df(context.spark, log),
        "users": _frame(context, "users", [(user, ["Ulm", "Oslo", None][n % 3], ["basic", "pro"][n % 2]) for n, user in enumerate(users)]),
        "items": _frame(
            context,
            "items",
            [
                (item, None, n % 7 > 0, "ab"[n % 2], ["x", "y"][: n % 3], HOSTILE if n == 1 else f"Title of {item}")
                for n, item in enumerate(items)
            ],
        ),
        "rejects": _frame(context, "rejects", []),
    }


def train(context: Context, _: Mapping[str, DataFrame]) -> dict[str, Artefact]:
    folder = Path(context.folder("model"))
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, training_log())) + "\n")
    groups = {"num": 5, "least": 99, "median": 125, "most": 125}
    workers = [{"rows": 300, "trained": 299, "row_groups": 4}, {"rows": 299, "trained": 299, "row_groups": 2}]
    context.counters["balance"] = {"row_groups": groups, "streams": [150, 150, 150, 149], "workers": workers}
    return {"model": Artefact(("model.pt", "metrics.jsonl"))}


def training_log() -> list[dict[str, Any]]:
    """Lines as the trainer writes them: three epochs, the best validation recall in the second and, again, in the third."""
    losses = [(0, 50, 2.5, 6.0), (1, 100, 2.0, 5.0), (2, 120, 1.75, 4.5)]
    steps = [
        {
            "kind": "step",
            "epoch": e,
            "step": s,
            "loss": a,
            "mic.uv": b,
            "grad_norm": 1.0,
            "grad_norm.dense": 1.0,
            "watch.ui_align": 0.5,
            "watch.uu_uniform": -2.0 - e,
            "watch.ii_uniform": -1.0 - e,
            "samples_per_s": 9.0,
        }
        for e, s, a, b in losses
    ]
    epochs = [
        {
            "kind": "epoch",
            "epoch": e,
            "step": 40 * (e + 1),
            "loss": 2.0,
            "mic.uv": 5.0,
            "grad_norm": 1.0,
            "steps": 40,
            "samples_per_s": 1e4,
            "recall@50": r,
        }
        for e, r in enumerate((0.2, 0.3, 0.3))
    ]
    return [*steps, *epochs]


def embed(context: Context, _: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    vector = F.array(F.lit(1.0), F.lit(0.0)).cast("array<float>").alias("vector")
    interest = F.lit(0).cast("tinyint").alias("interest")
    users = _published(context, "user_state").select(F.col("user_idx").alias("idx"), interest, vector)
    return {"embeddings_user": users, "embeddings_item": _published(context, "item_feat").select("idx", interest, vector)}


def index(context: Context, _: Mapping[str, DataFrame]) -> dict[str, Artefact]:
    folder = Path(context.folder("index"))
    rejected = {"factory": "HNSW32", "effort": None, "recall": None, "bytes": 5_000_000, "queries_per_s": None, "why": "takes 5 MB"}
    tried = [{"factory": "Flat", "effort": 0, "recall": 1.0, "bytes": 1_234_567, "queries_per_s": 4321, "why": "taken"}]
    tried += [{"factory": "IVF8,Flat", "effort": 2, "recall": 0.93, "bytes": 1_400_000, "queries_per_s": 9876, "why": "recall"}, rejected]
    part = {"rows": 26, "is_unit": True, "factory": "Flat", "recall": 0.987, "build_s": 0.012, "bytes": 1_234_567}
    part |= {"tried": tried, "parts": ["items"], "files": {}}
    content = {"factory": "auto", "similarity": "cosine", "interests": 1, "recall_at": 50, "recall_queries": 40}
    (folder / "index.json").write_text(json.dumps({**content, "indexes": {"items": part, "users": {**part, "rows": 38, "recall": 1.0}}}))
    return {"index": Artefact(("index.json",))}


def neighbours(context: Context, _: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    none = (
        F.array().cast("array<int>").alias("neighbours"),
        F.array().cast("array<float>").alias("similarities"),
        F.lit(0).alias("cluster"),
    )
    return {f"neighbours_{side}": _published(context, f"embeddings_{side}").select("idx", *none) for side in ("user", "item")}


def candidates(context: Context, _: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """Random lists of unseen eligible items; i2i has nothing for every third user; merged is u2i with i2i's ranks beside it."""
    eligible = [row["idx"] for row in _published(context, "item_feat").where("eligible").orderBy("idx").collect()]
    user_key, item_key = ({row["idx"]: row["key"] for row in _published(context, f"{side}_index").collect()} for side in ("user", "item"))
    channel_rows: list[tuple[Any, ...]] = []
    merged: list[tuple[Any, ...]] = []
    for state in _published(context, "user_state").orderBy("user_idx").collect():
        user, rng = state["user_idx"], np.random.default_rng(state["user_idx"])
        fresh = [i for i in eligible if i not in state["items"]]
        lists = {name: rng.permutation(fresh).tolist()[:12] for name in ("u2i", "i2i", "itemcf")} | {"popular": fresh[:12]}
        if user % 3 == 0:
            lists["i2i"] = []
        channel_rows += [(user, name, items, [1 - 0.01 * n for n in range(len(items))]) for name, items in lists.items()]
        for rank, item in enumerate(lists["u2i"], start=1):
            also = [("i2i", place, 0.5) for place, other in enumerate(lists["i2i"], start=1) if other == item]
            sources = [("u2i", rank, 1.0), *also]
            merged.append((context.ds, user_key[user], rank, item_key[item], 1 / (60 + rank), sources, False, "dssm-0123", context.run_id))
    context.counters["users"] = len({row[1] for row in merged})
    rows = _frame(context, "candidates", merged) if context.settings.merge.layout == "rows" else _lists(context, merged)
    return {"channel_candidates": _frame(context, "channel_candidates", channel_rows), "candidates": rows}


def click_ranks(context: Context, _: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """Ranks from 0 (not found) to 12 of the held-out clicks of three users in four."""
    clicks: dict[int, list[Any]] = {}
    for row in _published(context, "events").orderBy("user_idx", "ts", "seq").collect():
        clicks.setdefault(row["user_idx"], []).append(row)
    rows = [
        (user, place, row["item_idx"], (7 * place + user) % 13)
        for user, own in clicks.items()
        for place, row in enumerate(own)
        if row["split"] == TEST and user % 4
    ]
    return {"click_ranks": _frame(context, "click_ranks", rows)}


def _lists(context: Context, merged: list[tuple[Any, ...]]) -> DataFrame:
    by_user: dict[str, list[tuple[Any, ...]]] = {}
    for row in merged:
        by_user.setdefault(row[1], []).append(row)
    rows = [
        (context.ds, user, [r[3] for r in own], [r[4] for r in own], [r[5] for r in own], False, "dssm-0123", context.run_id)
        for user, own in by_user.items()
    ]
    return _frame(context, "candidates", rows)
