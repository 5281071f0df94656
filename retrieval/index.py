"""Index: FAISS indexes of the day's items and of the training users, with their recall against exact search measured."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs
from pyspark.sql import DataFrame

from conf.draws import words64
from conf.errors import BadDataError, Fault, GateError, SettingsError
from conf.fields import FIRST_ID, Registry
from conf.files import hash_file, storage_faults
from conf.sections.retrieval import Index
from retrieval.blocklist import blocked_items
from retrieval.ragged import F32, I32, Bools
from retrieval.vector_index import VectorIndex, flat_vectors, set_nprobe, unit
from retrieval.worker import read_columns
from spark_jobs.job import Artefact, Context, Job, main

_QUERY_SEED = 20  # of the choice of queries that measure recall: any fixed number does


@dataclass(frozen=True)
class Vectors:
    """Rows of an embedding table, by (idx, interest). idx: int32[n]. matrix: float32[n, D]."""

    idx: I32
    matrix: F32

    def of(self, keep: Bools) -> "Vectors":
        """The rows that `keep` marks."""
        return Vectors(self.idx[keep], self.matrix[keep])


def transform(context: Context, _: Mapping[str, DataFrame]) -> Mapping[str, Artefact]:
    """Build, measure and write the indexes; the tables are read by file on the driver, where FAISS needs them whole.

    items: in the model's own similarity (u2i). users: cosine (u2u2i). items_cosine: cosine (i2i), where `items` is not that already.
    """
    settings, facts = context.settings.index, context.facts
    items, users = (read_vectors(context.files(f"embeddings_{side}")) for side in ("item", "user"))
    catalogue = items.of(np.isin(items.idx, recommendable(context, items)))
    state = read_columns(context.files("user_state"), ["user_idx", "num_train"])
    train = users.of(np.isin(users.idx, state.filter(pc.greater(state["num_train"], 0))["user_idx"].to_numpy()))
    context.counters["index_users"] = {"indexed": len(np.unique(train.idx)), "no_train_events": len(state) - len(np.unique(train.idx))}
    if not len(train.idx):
        raise BadDataError(f"index, ds={context.ds}", ["no user has train events"])

    queries = sample_users(train, facts["interests"], settings.recall_queries)
    cosine = facts["similarity"] == "cosine"
    plan = {"items": (catalogue, cosine, queries), "users": (train, True, queries)}
    if not cosine:
        plan["items_cosine"] = (catalogue, True, catalogue.matrix[: settings.recall_queries, None, :])
    built = {name: build(name, vectors, settings, is_unit=is_unit, queries=asked) for name, (vectors, is_unit, asked) in plan.items()}
    refuse_below({name: index.recall for name, index in built.items()}, settings)
    document = {"factory": settings.factory, "nprobe": settings.nprobe, "similarity": facts["similarity"], "interests": facts["interests"]}
    names = write(context, built, {**document, "recall_at": settings.recall_at, "recall_queries": len(queries)})
    context.counters["index"] = {name: {"recall": index.recall, "build_s": index.build_s} for name, index in built.items()}
    return {"index": Artefact(names=tuple(names), rows=len(catalogue.idx), identity=identity(context, names))}


# ---- what goes in --------------------------------------------------------------------------------------------------


def read_vectors(files: Sequence[str]) -> Vectors:
    """The rows of an embedding table, by (idx, interest). Raises BadDataError where a number is not finite."""
    table = read_columns(files, ["idx", "interest", "vector"]).sort_by([("idx", "ascending"), ("interest", "ascending")])
    flat = pc.list_flatten(table["vector"]).to_numpy().astype(np.float32, copy=False)
    matrix = flat.reshape(len(table), -1) if len(table) else flat.reshape(0, 1)
    broken = ~np.isfinite(matrix).all(axis=1)
    if broken.any():
        found = f"idx {table['idx'].to_numpy()[broken][:5].tolist()}"
        raise BadDataError(
            "embeddings", [Fault(f"{broken.sum()} vectors are not finite", found, "train again with a smaller trainer.optimizer.lr")]
        )
    return Vectors(table["idx"].to_numpy(), matrix)


def recommendable(context: Context, items: Vectors) -> I32:
    """item_idx of the items that may be recommended: eligible, not blocked, and with at least one field the vocabularies know.

    An item of which nothing is known has the vector of every other such item: a search could not tell them apart.
    """
    table = read_columns(context.files("item_feat"))
    eligible, known = table["eligible"].to_numpy(), has_known_field(table, context.registry)
    usable, blocked = eligible & known, np.isin(table["idx"].to_numpy(), blocked_items(context))
    chosen: I32 = table["idx"].to_numpy()[usable & ~blocked]
    left_out = {"not_eligible": ~eligible, "nothing_known": eligible & ~known, "blocked": usable & blocked}
    counts = {name: int(which.sum()) for name, which in left_out.items()}
    context.counters["index_items"] = {"catalogue": len(table), "indexed": len(chosen), **counts}
    missing = np.setdiff1d(chosen, items.idx)
    if len(missing):
        fault = Fault(f"{len(missing)} items have no vector", f"item_idx {missing[:5].tolist()}")
        raise BadDataError(f"embeddings_item, ds={context.ds}", [fault])
    if not len(chosen):
        fault = Fault("no item may be recommended", f"{len(table)} items, none eligible, with a known field and not blocked")
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


def sample_users(users: Vectors, interests: int, num: int) -> F32:
    """float32[Q, K, D]: the vectors of `num` users, the same ones on every run, spread over all of them."""
    matrix = users.matrix.reshape(-1, interests, users.matrix.shape[1])
    order = np.argsort(words64(_QUERY_SEED, users.idx[::interests]), kind="stable")
    chosen: F32 = matrix[order[:num]]
    return chosen


# ---- building and measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """An index with what was measured of it. build_s: seconds to train and add."""

    index: VectorIndex
    recall: float
    build_s: float


def build(name: str, vectors: Vectors, settings: Index, *, is_unit: bool, queries: F32) -> Built:
    """Build one index and measure its recall on `queries`, float32[Q, K, D].

    Raises:
        SettingsError: FAISS refuses the factory string, or cannot train it on so few vectors.
    """
    matrix = np.ascontiguousarray(unit(vectors.matrix) if is_unit else vectors.matrix)
    started = time.perf_counter()
    try:
        searcher = faiss.index_factory(matrix.shape[1], settings.factory, faiss.METRIC_INNER_PRODUCT)
        searcher.train(matrix)
        searcher.add(matrix)
    except RuntimeError as error:  # all that FAISS raises
        reason = str(error).rsplit("Error: ", 1)[-1].rsplit(".cpp:", 1)[-1]
        fix = "choose a factory that fits this many vectors; Flat always does"
        raise SettingsError(f"index.factory {settings.factory!r}, {name}: {len(matrix)} vectors", [Fault(reason, fix=fix)]) from error
    build_s = round(time.perf_counter() - started, 3)
    set_nprobe(searcher, settings.nprobe)
    index = VectorIndex(searcher, vectors.idx, matrix, is_unit)
    return Built(index, measure_recall(index, queries, at=settings.recall_at), build_s)


def measure_recall(index: VectorIndex, queries_QKD: F32, *, at: int) -> float:
    """Share of each query's exact `at` best that the index finds, by brute force over every vector; equal scores count as right."""
    found = index.nearest(queries_QKD, at)
    queries = unit(queries_QKD) if index.is_unit else queries_QKD
    ids, starts = np.unique(index.ids, return_index=True)
    wanted = min(at, len(ids))
    step, hits = max(1, (1 << 26) // (len(index) * queries.shape[1])), 0
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        scores = (block.reshape(-1, block.shape[2]) @ index.vectors.T).reshape(len(block), block.shape[1], -1).max(axis=1)
        scores = np.maximum.reduceat(scores, starts, axis=1)
        least = np.partition(scores, len(ids) - wanted, axis=1)[:, len(ids) - wanted]
        part = found.part(start, start + len(block))
        assert part.weights is not None
        # the product above is in float32: two scores nearer than that are equal
        hits += int((part.weights >= (least - 1e-5 * np.maximum(1, np.abs(least)))[part.rows]).sum())
    return hits / (wanted * len(queries))


def refuse_below(recalls: Mapping[str, float], settings: Index) -> None:
    """Raise GateError naming every index whose recall is below index.min_recall."""
    faults = [
        Fault(
            f"{name}: recall@{settings.recall_at} is {recall:.4f}, want {settings.min_recall}",
            f"factory {settings.factory}, nprobe {settings.nprobe}",
            "raise index.nprobe, take another index.factory (Flat is exact), or lower index.min_recall",
        )
        for name, recall in recalls.items()
        if recall < settings.min_recall
    ]
    if faults:
        raise GateError("index", faults)


# ---- what comes out ------------------------------------------------------------------------------------------------


def write(context: Context, built: Mapping[str, Built], document: dict[str, Any]) -> list[str]:
    """Write every index, its row ids and index.json into the run folder; return the file names."""
    store, folder = context.store, context.folder("index")
    with storage_faults(folder), tempfile.TemporaryDirectory(prefix="trichannel-index-") as scratch:
        is_local = isinstance(store.fs, pafs.LocalFileSystem)
        local = Path(folder if is_local else scratch)  # FAISS writes local files only
        indexes: dict[str, dict[str, Any]] = {}
        for name, made in built.items():
            names = write_index(name, made.index, local)
            if not is_local:
                pafs.copy_files(str(local), folder, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=store.fs)
            sizes = {file: hash_file(store.fs, f"{folder}/{file}") for file in names}
            indexes[name] = {
                "rows": len(made.index),
                "is_unit": made.index.is_unit,
                "recall": made.recall,
                "build_s": made.build_s,
                "bytes": sum(size for size, _ in sizes.values()),
                "files": {file: {"bytes": size, "sha256": sha256} for file, (size, sha256) in sizes.items()},
            }
        with store.fs.open_output_stream(f"{folder}/index.json") as stream:
            stream.write(json.dumps({**document, "indexes": indexes}, indent=1).encode())
    return [file for part in indexes.values() for file in part["files"]] + ["index.json"]


def write_index(name: str, index: VectorIndex, folder: Path) -> list[str]:
    """Write <name>.faiss and <name>_ids.npy, and the vectors where the index does not hold them as they are."""
    faiss.write_index(index.searcher, str(folder / f"{name}.faiss"))
    np.save(folder / f"{name}_ids.npy", index.ids)
    if isinstance(index.searcher, faiss.IndexFlat) and np.array_equal(flat_vectors(index.searcher), index.vectors):
        return [f"{name}.faiss", f"{name}_ids.npy"]
    np.save(folder / f"{name}_vectors.npy", index.vectors)
    return [f"{name}.faiss", f"{name}_ids.npy", f"{name}_vectors.npy"]


def identity(context: Context, names: Sequence[str]) -> str:
    """16 hex digits over the indexes themselves: index.json also holds times, which differ from run to run."""
    import hashlib

    folder = context.store.run_folder("index", context.ds, context.run_id)
    hashes = [hash_file(context.store.fs, f"{folder}/{name}")[1] for name in sorted(names) if name != "index.json"]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


JOB = Job(name="index", transform=transform, doc="Build the FAISS indexes of items and training users, and measure their recall.")

if __name__ == "__main__":
    sys.exit(main(JOB))
