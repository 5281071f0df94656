"""Index: FAISS indexes of the day's items and of the training users, with their recall against exact search measured."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pyarrow import fs as pafs
from pyspark.sql import DataFrame

from conf.errors import BadDataError, Fault
from conf.files import hash_file, storage_faults
from conf.storage import Store
from retrieval.index_build import Asked, Built, build_all, choices
from retrieval.index_inputs import Source, read_ids, recommendable, sample_queries
from retrieval.index_measure import Made, make
from retrieval.index_parts import StackedRows
from retrieval.index_shards import Files, make_parts, parts_of, write_part
from retrieval.ragged import F32
from retrieval.similarity import JOINT
from retrieval.vector_index import VectorIndex
from retrieval.worker import read_columns
from spark_jobs.job import Artefact, Context, Job, main


def transform(context: Context, _: Mapping[str, DataFrame]) -> Mapping[str, Artefact]:
    """Build, measure and write the indexes.

    items: in the model's own similarity (u2i). users: cosine (u2u2i). items_cosine: cosine (i2i), where `items` is not that already.
    items_joint: cosine in the joint space (u2i), where `channels.u2i.space` asks for it and it is not encoder space.
    """
    settings, facts = context.settings.index, context.facts
    items, users, num_users = sources(context)
    queries = sample_queries(users, settings.recall_queries)
    cosine = facts["similarity"] == "cosine"
    asked = {
        "items": ask(context, "items", items, queries, is_unit=cosine, num=num_users),
        "users": ask(context, "users", users, queries, is_unit=True, num=num_users),
    }
    if not cosine:
        own = sample_queries(items, settings.recall_queries)
        asked["items_cosine"] = ask(context, "items_cosine", items, own, is_unit=True, num=len(items.ids))
    if context.settings.channels.u2i.space == "joint" and context.settings.shape().joint:
        items, users = replace(items, space="joint"), replace(users, space="joint")
        queries = sample_queries(users, settings.recall_queries)
        asked[JOINT] = ask(context, JOINT, items, queries, is_unit=True, num=num_users)
    folder = context.folder("index")  # empties it: asked for once
    with storage_faults(folder):
        built = build_all(asked, settings)
        document = {"factory": settings.factory, "similarity": facts["similarity"], "interests": facts["interests"]}
        names = write(context, folder, built, {**document, "recall_at": asked["items"].at, "recall_queries": len(queries)})
    context.counters["index"] = {name: measured(index) for name, index in built.items()}
    context.counters["choices"] = choices(built)
    return {"index": Artefact(names=tuple(names), rows=len(items.ids), identity=identity(context, names))}


def sources(context: Context) -> tuple[Source, Source, int]:
    """(the items that may be recommended, the users with train events, the number of all users)."""
    item_files, user_files = (tuple(context.files(f"embeddings_{side}")) for side in ("item", "user"))
    items = Source(item_files, recommendable(context, read_ids(item_files)))
    state = read_columns(context.files("user_state"), ["user_idx", "num_train"])
    all_users = read_ids(user_files)
    train = np.intersect1d(all_users, state.filter(pc.greater(state["num_train"], 0))["user_idx"].to_numpy())
    context.counters["index_users"] = {"indexed": len(train), "no_train_events": len(state) - len(train)}
    if not len(train):
        fix = f"see split.* in the settings, or run: trichannel events --ds {context.ds}, then what follows"
        found = f"{len(all_users)} users have vectors, {len(state)} a row in user_state"
        raise BadDataError(f"index, ds={context.ds}", [Fault("no user has train events", found, fix)])
    return items, Source(user_files, train, context.facts["interests"]), len(all_users)


def ask(context: Context, name: str, source: Source, queries: F32, *, is_unit: bool, num: int) -> Asked:
    """What is asked of one index; one part is built here, several are by Spark tasks."""
    settings = context.settings.index
    parts, at = parts_of(source, queries.shape[2], settings), settings.recall_at or context.settings.channels.top

    def one(factory: str) -> Made:
        return make(name, source.vectors(), factory, is_unit=is_unit)

    several = partial(make_parts, context, name, source, is_unit=is_unit, parts=parts)
    return Asked(source, is_unit, queries, at, num, one if parts == 1 else several, parts)


# ---- what comes out ------------------------------------------------------------------------------------------------


def write(context: Context, folder: str, built: Mapping[str, Built], document: dict[str, Any]) -> list[str]:
    """Write what is not in the run folder yet, and index.json; remove what no index is made of; return the file names."""
    store = context.store
    indexes: dict[str, dict[str, Any]] = {}
    for name, one in built.items():
        parts = one.made.parts or {name: put(store, folder, name, one.made.index)}
        files = {file: entry for entries in parts.values() for file, entry in entries.items()}
        indexes[name] = {
            "rows": len(one.made.index),
            "is_unit": one.made.index.is_unit,
            **measured(one),
            "bytes": sum(size for size, _ in files.values()),
            "parts": list(parts),
            "files": {file: {"bytes": size, "sha256": sha256} for file, (size, sha256) in files.items()},
        }
    with store.fs.open_output_stream(f"{folder}/index.json") as stream:
        stream.write(json.dumps({**document, "indexes": indexes}, indent=1).encode())
    names = [file for part in indexes.values() for file in part["files"]] + ["index.json"]
    for info in store.fs.get_file_info(pafs.FileSelector(folder)):
        if info.base_name not in names:
            store.fs.delete_file(info.path)
    return names


def put(store: Store, folder: str, name: str, index: VectorIndex) -> Files:
    """Write an index of one part, by way of a local folder: FAISS writes local files only."""
    assert not isinstance(index.vectors, StackedRows)
    with tempfile.TemporaryDirectory(prefix="trichannel-index-") as scratch:
        names = write_part(name, index.searcher, index.ids, index.vectors, Path(scratch))
        pafs.copy_files(scratch, folder, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=store.fs)
    return {file: hash_file(store.fs, f"{folder}/{file}") for file in names}


def measured(built: Built) -> dict[str, Any]:
    """What the manifest and index.json tell of an index."""
    told = {"factory": built.factory, "effort": built.effort, "recall": built.recall, "build_s": round(built.made.build_s, 3)}
    return {**told, "tried": list(built.tried)}


def identity(context: Context, names: Sequence[str]) -> str:
    """16 hex digits over the indexes themselves: index.json also holds times, which differ from run to run."""
    folder = context.store.run_folder("index", context.ds, context.run_id)
    hashes = [hash_file(context.store.fs, f"{folder}/{name}")[1] for name in sorted(names) if name != "index.json"]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


JOB = Job(name="index", transform=transform, doc="Build the FAISS indexes of items and training users, and measure their recall.")

if __name__ == "__main__":
    sys.exit(main(JOB))
