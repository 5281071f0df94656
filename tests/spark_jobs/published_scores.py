"""Scores of users published by hand through the real protocol, without Spark: what a comparison reads."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from conf.command import Request
from conf.files import hash_file
from conf.storage import FileEntry, Publication, Store

KEYS = ("ada", "bob", "cyd", "dan", "eve")
USER_COLUMNS = ("recall", "precision", "ndcg_hit", "ndcg_std", "hr", "mrr")

Recall = Mapping[tuple[str, int], Mapping[str, float]]  # (channel, n) -> user -> recall


def publish_scores(
    asked: Request,
    variant: str,
    recall: Recall,
    *,
    keys: Sequence[str] = KEYS,
    truth: Mapping[str, int] | None = None,
    clicks: Mapping[str, tuple[int, int]] | None = None,
    ds: str | None = None,
    run_id: str = "r1",
) -> None:
    """user_index (numbered by the order of keys), metrics_user and metrics of one run; the other metrics are functions of recall.

    clicks: user -> held-out clicks and those found, the same as of the cut and of the click; who is left out has none of the latter.
    """
    store, ds = Store.of(asked.settings, variant), ds or asked.ds
    index = {key: number for number, key in enumerate(keys, start=1)}
    identity = f"{variant}/{ds}/{run_id} {'-'.join(keys)}"
    with store.publication("vocabulary", ds, run_id, asked.settings) as publication:
        _seal(publication, "user_index", pa.table({"key": list(index), "idx": pa.array(index.values(), pa.int32())}), "-".join(keys))
        publication.commit()
    rows = [
        {
            "user_idx": index[key], "channel": channel, "n": n, "recall": value, "ndcg_hit": value / 2, "ndcg_std": value / 4,
            "hr": float(value > 0), "precision": value / 8, "mrr": value / 3,
            "n_truth": (truth or {}).get(key, 4), "n_hit": round(4 * value), "run_id": run_id,
            **dict(zip(("n_click", "n_click_hit"), (clicks or {}).get(key, (4, 0)), strict=True)),
            **dict(zip(("n_asof", "n_asof_hit"), (clicks or {}).get(key, (None, None)), strict=True)),
        }
        for (channel, n), users in recall.items()
        for key, value in users.items()
    ]  # fmt: skip
    cells = [{"channel": channel, "metric": metric, "n": n} for channel, n in recall for metric in USER_COLUMNS]
    ints = [("user_idx", pa.int32()), ("n", pa.int32()), ("n_truth", pa.int32()), ("n_hit", pa.int32())]
    ints += [(name, pa.int32()) for name in ("n_click", "n_click_hit", "n_asof", "n_asof_hit")]
    schema = pa.schema([*ints, *((name, pa.float64()) for name in USER_COLUMNS), ("channel", pa.string()), ("run_id", pa.string())])
    with store.publication("offline_metrics", ds, run_id, asked.settings, inputs={"user_index": identity}) as publication:
        _seal(publication, "metrics_user", pa.Table.from_pylist(rows, schema), run_id)
        _seal(publication, "metrics", pa.table({name: [cell[name] for cell in cells] for name in ("channel", "metric", "n")}), run_id)
        publication.commit()


def _seal(publication: Publication, name: str, table: pa.Table, content: str) -> None:
    path = f"{publication.folder(name)}/a.parquet"
    pq.write_table(table, path)
    size, sha256 = hash_file(publication.store.fs, path)
    publication.seal(name, [FileEntry("a.parquet", len(table), size, sha256)], rows=len(table), content_hash=content)
