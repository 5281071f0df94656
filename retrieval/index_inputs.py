"""What an index is made of: the vectors of a table by idx, which items may be recommended, which queries measure recall."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.draws import words64
from conf.errors import BadDataError, Fault
from conf.fields import FIRST_ID, Registry
from retrieval.blocklist import blocked_items
from retrieval.ragged import F32, I32, Bools
from retrieval.worker import read_columns
from spark_jobs.job import Context

_QUERY_SEED = 20  # of the choice of queries that measure recall: any fixed number does


@dataclass(frozen=True)
class Vectors:
    """Rows of an embedding table, by (idx, interest). idx: int32[n]. matrix: float32[n, D]."""

    idx: I32
    matrix: F32

    def of(self, keep: Bools) -> "Vectors":
        """The rows that `keep` marks."""
        return Vectors(self.idx[keep], self.matrix[keep])


@dataclass(frozen=True)
class Source:
    """What an index holds: of an embedding table, in its files, the rows of `ids`, int32[n], ascending; the same number of each.

    space: the column of their vectors, `vector` or `joint`.
    """

    files: tuple[str, ...]
    ids: I32
    rows_per_id: int = 1
    space: str = "vector"

    @property
    def rows(self) -> int:
        """Rows of the index."""
        return len(self.ids) * self.rows_per_id

    def vectors(self) -> Vectors:
        """Every row."""
        return read_vectors(self.files, keep=self.ids, space=self.space)

    def sample(self, rows: int, seed: int) -> "Source":
        """About so many of the rows, at least of one id: those of the ids whose hashes are smallest, the same ones on every run."""
        order = np.argsort(words64(seed, self.ids), kind="stable")
        return replace(self, ids=np.sort(self.ids[order[: max(1, rows // self.rows_per_id)]]))

    def split(self, parts: int) -> list["Source"]:
        """Parts of consecutive ids, as even as can be."""
        return [replace(self, ids=ids) for ids in np.array_split(self.ids, parts)]


def read_ids(files: Sequence[str]) -> I32:
    """int32[n]: every idx of an embedding table, once, ascending."""
    ids: I32 = np.unique(read_columns(files, ["idx"])["idx"].to_numpy())
    return ids


def read_vectors(files: Sequence[str], *, keep: I32 | None = None, space: str = "vector") -> Vectors:
    """The rows of an embedding table, by (idx, interest); those of the ids in `keep`. Raises BadDataError where a number is not finite."""
    columns = ["idx", "interest", space]
    tables = [read_columns([file], columns) for file in files] if keep is None else list(_kept(files, keep, columns))
    table = pa.concat_tables(tables).sort_by([("idx", "ascending"), ("interest", "ascending")])
    flat = pc.list_flatten(table[space]).to_numpy().astype(np.float32, copy=False)
    matrix = flat.reshape(len(table), -1) if len(table) else flat.reshape(0, 1)
    broken = ~np.isfinite(matrix).all(axis=1)
    if broken.any():
        found = f"idx {table['idx'].to_numpy()[broken][:5].tolist()}"
        raise BadDataError(
            "embeddings", [Fault(f"{broken.sum()} vectors are not finite", found, "train again with a smaller trainer.optimizer.lr")]
        )
    return Vectors(table["idx"].to_numpy(), matrix)


def _kept(files: Sequence[str], keep: I32, columns: list[str]) -> Iterator[pa.Table]:
    for file in files:  # one at a time: of all rows there may be more than fit
        table = read_columns([file], columns)
        yield table.filter(pa.array(np.isin(table["idx"].to_numpy(), keep)))


def recommendable(context: Context, items: I32) -> I32:
    """Of these items, item_idx of those that may be recommended: eligible, not blocked, and with at least one field the vocabularies know.

    An item of which nothing is known has the vector of every other such item: a search could not tell them apart.
    """
    table = read_columns(context.files("item_feat"))
    given = context.settings.embeddings.path is not None  # vectors made elsewhere know of no fields
    eligible, known = (
        table["eligible"].to_numpy(),
        np.isin(table["idx"].to_numpy(), items) if given else has_known_field(table, context.registry),
    )
    usable, blocked = eligible & known, np.isin(table["idx"].to_numpy(), blocked_items(context))
    chosen: I32 = np.sort(table["idx"].to_numpy()[usable & ~blocked])
    left_out = {"not_eligible": ~eligible, "nothing_known": eligible & ~known, "blocked": usable & blocked}
    counts = {name: int(which.sum()) for name, which in left_out.items()}
    context.counters["index_items"] = {"catalogue": len(table), "indexed": len(chosen), **counts}
    missing = np.setdiff1d(chosen, items)
    if len(missing):
        fix = f"run: trichannel embed --ds {context.ds}"
        fault = Fault(f"{len(missing)} items have no vector", f"item_idx {missing[:5].tolist()}", fix)
        raise BadDataError(f"embeddings_item, ds={context.ds}", [fault])
    if not len(chosen):
        found = f"{len(table)} items: {', '.join(f'{name} {count}' for name, count in counts.items())}"
        fix = "look at source.items.eligible and publish_ts, model.fields.item, index.blocklist"
        fault = Fault("no item may be recommended", found, fix)
        raise BadDataError(f"item_feat, ds={context.ds}", [fault])
    return chosen


def has_known_field(item_feat: pa.Table, registry: Registry) -> Bools:
    """bool[n]: whether any field of the row holds the id of a real value, not OOV or missing."""
    known = np.zeros(len(item_feat), dtype=np.bool_)
    for field in registry.item:
        column = item_feat[field.name]
        if field.role == "multi":
            parents = pc.list_parent_indices(column).to_numpy()
            known[parents[pc.list_flatten(column).to_numpy() >= FIRST_ID]] = True
        else:
            known |= column.to_numpy() >= FIRST_ID
    return known


def sample_queries(source: Source, num: int) -> F32:
    """float32[Q, K, D]: the vectors of `num` users or items, the same ones on every run, spread over all of them."""
    vectors = source.sample(num * source.rows_per_id, _QUERY_SEED).vectors()
    return vectors.matrix.reshape(-1, source.rows_per_id, vectors.matrix.shape[1])
