"""An index larger than one worker: trained on a sample, filled part by part by Spark tasks, each of which writes its own files.

Each attempt writes under names of its own. What the driver was told of is the index; files of lost and overtaken attempts are in no
manifest, and the job removes them.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from pyarrow import fs as pafs
from pyspark import TaskContext
from pyspark.core.broadcast import Broadcast

from conf.files import hash_file, open_root
from conf.sections.retrieval import Index
from retrieval.index_choice import lists
from retrieval.index_inputs import Source
from retrieval.index_measure import Made, fill, ready, trained
from retrieval.index_parts import flat_vectors
from retrieval.ragged import F32, I32
from retrieval.vector_index import IndexFiles
from spark_jobs.job import Context

_TRAINING_SEED = 22  # of the choice of vectors that are trained on: any fixed number does
_ROWS_A_LIST = 39  # that FAISS wants of an IVF index

Files = dict[str, tuple[int, str]]


def parts_of(source: Source, dim: int, settings: Index) -> int:
    """Parts of the index, at most one for each id; by `auto` as many as keep the vectors that build a part within max_memory."""
    wanted = -(-4 * dim * source.rows // settings.max_bytes) if settings.shards == "auto" else settings.shards
    return max(1, min(wanted, len(source.ids)))


def make_parts(context: Context, name: str, source: Source, factory: str, *, is_unit: bool, parts: int) -> Made:
    """The index in parts of consecutive ids, in the run folder, opened. The same vectors give the same parts.

    Raises:
        SettingsError: as `retrieval.index_measure.trained`.
    """
    started = time.perf_counter()
    sample = source.sample(max(context.settings.index.sample_rows, _ROWS_A_LIST * lists(source.rows)), _TRAINING_SEED)
    empty = trained(name, ready(sample.vectors(), is_unit=is_unit), factory)
    folder = context.store.uri(context.store.run_folder("index", context.ds, context.run_id))
    spark = context.spark.sparkContext
    shared = spark.broadcast(faiss.serialize_index(empty).tobytes())  # with all centres: too much for every task's own message
    write = partial(_write_part, shared=shared, name=name, folder=folder, is_unit=is_unit)
    pieces = list(enumerate(source.split(parts)))
    found: dict[str, Files] = dict(spark.parallelize(pieces, parts).map(write).collect())
    sha256 = {file: digest for files in found.values() for file, (_, digest) in files.items()}
    index = IndexFiles(folder, name, is_unit, 1, sha256, tuple(found)).open()
    return Made(index, time.perf_counter() - started, found)


def _write_part(numbered: tuple[int, Source], *, shared: Broadcast[bytes], name: str, folder: str, is_unit: bool) -> tuple[str, Files]:
    """(what the names of the part's files begin with, the files)."""
    number, source = numbered
    task = TaskContext.get()
    assert task is not None
    stem = f"{name}-{number:05d}-{task.taskAttemptId()}"
    vectors = source.vectors()
    matrix = ready(vectors, is_unit=is_unit)
    searcher = faiss.deserialize_index(np.frombuffer(shared.value, dtype=np.uint8))
    fill(searcher, matrix)
    filesystem, path = open_root(folder)
    with tempfile.TemporaryDirectory(prefix="trichannel-part-") as scratch:  # FAISS writes local files only
        names = write_part(stem, searcher, vectors.idx, matrix, Path(scratch))
        pafs.copy_files(scratch, path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)
    return stem, {file: hash_file(filesystem, f"{path}/{file}") for file in names}


def write_part(stem: str, searcher: faiss.Index, ids: I32, vectors: F32, folder: Path) -> list[str]:
    """Write <stem>.faiss and <stem>_ids.npy, and the vectors where the index does not hold them as they are."""
    faiss.write_index(searcher, str(folder / f"{stem}.faiss"))
    np.save(folder / f"{stem}_ids.npy", ids)
    if isinstance(searcher, faiss.IndexFlat) and np.array_equal(flat_vectors(searcher), vectors):
        return [f"{stem}.faiss", f"{stem}_ids.npy"]
    np.save(folder / f"{stem}_vectors.npy", vectors)
    return [f"{stem}.faiss", f"{stem}_ids.npy", f"{stem}_vectors.npy"]
