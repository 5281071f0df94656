"""Index: FAISS indexes of the day's items and of the training users, with their recall against exact search measured."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.compute as pc
from pyarrow import fs as pafs
from pyspark.sql import DataFrame

from conf.errors import BadDataError
from conf.files import hash_file, storage_faults
from retrieval.index_build import Asked, Built, build_all, choices
from retrieval.index_inputs import read_vectors, recommendable, sample_users
from retrieval.vector_index import VectorIndex, flat_vectors
from retrieval.worker import read_columns
from spark_jobs.job import Artefact, Context, Job, main


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
    cosine, all_users = facts["similarity"] == "cosine", len(users.idx) // facts["interests"]
    asked = {"items": Asked(catalogue, cosine, queries, all_users), "users": Asked(train, True, queries, all_users)}
    if not cosine:
        asked["items_cosine"] = Asked(catalogue, True, catalogue.matrix[: settings.recall_queries, None, :], len(items.idx))
    built = build_all(asked, settings)
    document = {"factory": settings.factory, "similarity": facts["similarity"], "interests": facts["interests"]}
    names = write(context, built, {**document, "recall_at": settings.recall_at, "recall_queries": len(queries)})
    context.counters["index"] = {name: measured(made) for name, made in built.items()}
    context.counters["choices"] = choices(built)
    return {"index": Artefact(names=tuple(names), rows=len(catalogue.idx), identity=identity(context, names))}


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
                **measured(made),
                "bytes": sum(size for size, _ in sizes.values()),
                "files": {file: {"bytes": size, "sha256": sha256} for file, (size, sha256) in sizes.items()},
            }
        with store.fs.open_output_stream(f"{folder}/index.json") as stream:
            stream.write(json.dumps({**document, "indexes": indexes}, indent=1).encode())
    return [file for part in indexes.values() for file in part["files"]] + ["index.json"]


def measured(made: Built) -> dict[str, Any]:
    """What the manifest and index.json tell of an index."""
    told = {"factory": made.factory, "effort": made.effort, "recall": made.recall, "build_s": round(made.build_s, 3)}
    return {**told, "tried": list(made.tried)}


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
