"""What the report shows of the lists themselves: how far the channels agree, and a few users with titles instead of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from conf.fields import Registry
from conf.tables import TEST

HISTORY_SHOWN, CANDIDATES_SHOWN = 8, 10
VALUES_SHOWN = 3  # of a multi field


def overlap(channel_candidates: DataFrame, user_state: DataFrame, *, channels: Sequence[str], n: int, max_users: int) -> dict[str, Any]:
    """How much of each channel's first n another channel's first n hold, over a sample of users with history.

    Returns:
        users: int, sampled. n. channels. share: float[len(channels)][len(channels)], row = whose items, column = who else has them;
        None where the row's channel has no item.
    """
    users = user_state.where(F.size("items") > 0).orderBy(F.xxhash64("user_idx"), "user_idx").select("user_idx").limit(max_users).persist()
    mine = channel_candidates.join(F.broadcast(users), "user_idx", how="left_semi")
    lists = [F.first(F.when(F.col("channel") == c, F.slice("items", 1, n)), ignorenulls=True).alias(c) for c in channels]
    wide = mine.groupBy("user_idx").agg(*lists)
    both = [
        F.sum(F.size(F.array_intersect(_list(a), _list(b)))).alias(f"{i}_{j}")
        for i, a in enumerate(channels)
        for j, b in enumerate(channels)
    ]
    row = wide.agg(*both).first()
    assert row is not None
    size = len(channels)
    share = [[row[f"{i}_{j}"] / row[f"{i}_{i}"] if row[f"{i}_{i}"] else None for j in range(size)] for i in range(size)]
    return {"users": users.count(), "n": n, "channels": list(channels), "share": share}


def _list(channel: str) -> Any:
    return F.coalesce(F.col(f"`{channel}`"), F.array().cast("array<int>"))


def sample_users(tables: Mapping[str, DataFrame], registry: Registry, *, num: int, title_field: str | None) -> list[dict[str, Any]]:
    """`num` users with history (and held-out clicks, where any are held out), each with

    key, fields, history (newest first), candidates (best first, with channels and ranks there; `clicked`: held out), num_held_out.
    Items are {key, title, fields}. The choice depends on row numbers only.
    """
    chosen = _choose(tables, num)
    if not chosen:
        return []
    users = {row["idx"]: row["key"] for row in tables["user_index"].where(F.col("idx").isin([r["user_idx"] for r in chosen])).collect()}
    published = _published(tables["candidates"], list(users.values()))
    numbers = {idx for row in chosen for idx in (*row["items"], *row["truth"])}
    keys = {row["idx"]: row["key"] for row in tables["item_index"].where(F.col("idx").isin(list(numbers))).collect()}
    wanted = set(keys.values()) | {item["key"] for items in published.values() for item in items}
    titles = _items(tables["items"], wanted, registry, title_field)
    about = {row["user_key"]: row for row in tables["users"].where(F.col("user_key").isin(list(users.values()))).collect()}
    return [_shown(row, users[row["user_idx"]], keys, titles, published, about, registry) for row in chosen]


def _choose(tables: Mapping[str, DataFrame], num: int) -> list[Row]:
    test = tables["events"].where(F.col("split") == TEST).groupBy("user_idx").agg(F.collect_set("item_idx").alias("truth"))
    state = tables["user_state"].where(F.size("items") > 0)
    last = F.slice(F.reverse("items"), 1, HISTORY_SHOWN).alias("items")
    rows = state.join(test, "user_idx", how="left").withColumn("truth", F.coalesce("truth", F.array().cast("array<int>")))
    order = [F.size("truth") == 0, F.xxhash64(F.col("user_idx")), F.col("user_idx")]
    return rows.orderBy(*order).select("user_idx", last, "truth").limit(num).collect()


def _published(candidates: DataFrame, users: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """user key -> its first candidates: key, score, sources; of either layout."""
    # compared in the type they are stored in, so that Parquet can skip files
    stored = [int(key) for key in users] if dict(candidates.dtypes)["user_key"] == "bigint" else list(users)
    mine = candidates.where(F.col("user_key").isin(stored)).withColumn("user", F.col("user_key").cast("string"))
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in users}
    if "item_keys" in candidates.columns:
        for row in mine.collect():
            zipped = zip(row["item_keys"], row["scores"], row["sources"], strict=True)
            found[row["user"]] = [_candidate(*part) for part in zipped][:CANDIDATES_SHOWN]
    else:
        for row in mine.where(F.col("rank") <= CANDIDATES_SHOWN).orderBy("rank").collect():
            found[row["user"]].append(_candidate(row["item_key"], row["score"], row["sources"]))
    return found


def _candidate(key: object, score: float, sources: Sequence[Row]) -> dict[str, Any]:
    return {"key": str(key), "score": score, "sources": [{"channel": s["channel"], "rank": s["rank"]} for s in sources]}


def _items(items: DataFrame, keys: set[str], registry: Registry, title_field: str | None) -> dict[str, dict[str, Any]]:
    """item key -> {key, title, fields}; the title is the key where there is no other."""
    rows = items.where(F.col("item_key").isin(list(keys))).collect()
    known = {row["item_key"]: row for row in rows}
    plain = [field.name for field in registry.source_fields("item") if field.role != "text" and field.name != title_field]
    found = {}
    for key in keys:
        row = known.get(key)
        title = _text(row[title_field]) if row and title_field else None
        found[key] = {"key": key, "title": title or key, "fields": [text for name in plain if row and (text := _text(row[name]))]}
    return found


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value[:VALUES_SHOWN])
    return "" if value is None else str(value)


def _shown(
    row: Row,
    key: str,
    keys: Mapping[int, str],
    titles: Mapping[str, dict[str, Any]],
    published: Mapping[str, list[dict[str, Any]]],
    about: Mapping[str, Row],
    registry: Registry,
) -> dict[str, Any]:
    held_out = {keys[idx] for idx in row["truth"]}
    names = [field.name for field in registry.source_fields("user") if field.role != "text"]
    fields = {name: _text(about[key][name]) for name in names} if key in about else {}
    return {
        "key": key,
        "fields": {name: text for name, text in fields.items() if text},
        "num_held_out": len(held_out),
        "history": [titles[keys[idx]] for idx in row["items"]],
        "candidates": [{**titles[c["key"]], **c, "clicked": c["key"] in held_out} for c in published[key]],
    }
