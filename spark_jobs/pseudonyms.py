"""Keyed pseudonyms: in place of a business key its HMAC-SHA256, so that no table holds the key a user has elsewhere.

The secret reaches the executors inside the pickled function of mapInArrow: a literal, or an argument of a SQL function, would stand in
plans, in the event log and in the user interface of Spark.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import Fault, SettingsError
from conf.last_days import last_days
from conf.sections.source import Pseudonyms
from spark_jobs.context import Context
from spark_jobs.secret_key import Key
from spark_jobs.sources.raw import Raw


def check_key(context: Context, key: Key | None) -> None:
    """Note in the facts by which key the tables are made; refuse another one than the last committed day of this variant has.

    Raises:
        SettingsError: another key, or other sides, and source.pseudonyms.since does not say that this is meant.
    """
    chosen = context.settings.source.pseudonyms
    facts = None if key is None else {"users": chosen.users, "items": chosen.items, "key": key.fingerprint}
    manifests, _ = last_days(context.store, "ingest", "clicks", context.ds, 1)
    for manifest in manifests:
        before = manifest.facts.get("pseudonyms")
        if before != facts and not (chosen.since is not None and manifest.ds < chosen.since):
            found = f"ds={manifest.ds}: {_shown(before)}; now: {_shown(facts)}"
            fix = f"give the key of that day, or another --variant; if the change is meant: --set source.pseudonyms.since={context.ds}"
            raise SettingsError("source.pseudonyms", [Fault("the last committed day has other pseudonyms", found, fix)])
    if facts is not None:
        context.facts["pseudonyms"] = facts


def _shown(facts: dict[str, object] | None) -> str:
    if facts is None:
        return "none"
    return f"{' and '.join(side for side in ('users', 'items') if facts[side])} by key {facts['key']}"


def pseudonymised(raw: Raw, key: Key, chosen: Pseudonyms) -> Raw:
    """The same rows with pseudonyms for keys, and without the text of raw rows, which would tell them."""
    columns = ["user_key"] * chosen.users + ["item_key"] * chosen.items
    return replace(
        raw,
        clicks=replaced(raw.clicks.withColumn("_raw", F.lit(None).cast("string")), columns, key),
        users=replaced(raw.users, columns[:1], key) if chosen.users else raw.users,
        items=replaced(raw.items, columns[-1:], key) if chosen.items else raw.items,
        user_key_type="string" if chosen.users else raw.user_key_type,
        item_key_type="string" if chosen.items else raw.item_key_type,
    )


def replaced(table: DataFrame, columns: Sequence[str], key: Key) -> DataFrame:
    """The same rows with pseudonyms in these columns of strings."""
    return table.mapInArrow(_replacing(columns, key.secret), table.schema)


def _replacing(columns: Sequence[str], secret: bytes) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def replacing(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            named = zip(batch.schema.names, batch.columns, strict=True)
            arrays = [pseudonyms(array, secret) if name in columns else array for name, array in named]
            yield pa.record_batch(arrays, names=batch.schema.names)

    return replacing


def pseudonyms(keys: pa.Array, secret: bytes) -> pa.Array:
    """64 hex digits for each key, null for null; each distinct key is hashed once."""
    encoded = pc.dictionary_encode(keys)
    made = [hmac.digest(secret, text.encode(), "sha256").hex() for text in encoded.dictionary.to_pylist()]
    return pa.array(made, pa.string()).take(encoded.indices)
