"""Texts -> vectors of unit length, computed on the executors: by a sentence encoder, or by TF-IDF and SVD where there is none.

A vector travels as binary: float32, little-endian. It depends on the set of texts and the settings only, never on partitions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, GroupedData
from pyspark.sql import functions as F

from conf.errors import Fault, SettingsError
from conf.sections.semantics import Encoder, Tfidf
from spark_jobs.ranking import with_rank

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

EPS: Final = 1e-6  # a vector shorter than this has no direction
SCHEMA: Final = "text string, vector binary"
_BLOCK: Final = 1024  # texts weighed together


def unit_batch(texts: pa.Array, vectors: npt.NDArray[Any]) -> pa.RecordBatch:
    """(text, vector): the vectors at unit length, null where one is shorter than EPS or not finite."""
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    usable = np.isfinite(lengths) & (lengths >= EPS)
    units = (wide / np.where(usable, lengths, 1)[:, None]).astype("<f4")
    packed = [row.tobytes() if known else None for row, known in zip(units, usable, strict=True)]
    return pa.RecordBatch.from_arrays([texts, pa.array(packed, pa.binary())], names=["text", "vector"])


# ---- TF-IDF and SVD --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """What was learned from a sample of the texts. vectorizer: of T 3-grams. components: float64[D, T], the directions kept."""

    vectorizer: Any
    components: F64

    def encode(self, texts: Sequence[str]) -> F64:
        """float64[n, D], not of unit length; 0 where no 3-gram of a text is known. A row does not depend on the others."""
        projected: F64 = self.vectorizer.transform(texts) @ self.components.T
        return projected


def learn(texts: Sequence[str], settings: Tfidf) -> Weights:
    """TF-IDF of 3-grams within words (padded by spaces), logarithmic counts; truncated SVD. `texts`: at least one, none blank.

    Source: Deerwester et al. 1990, "Indexing by latent semantic analysis", over character n-grams.
    """
    # imported here: a day without semantics does not wait for it
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), sublinear_tf=True, max_features=settings.terms)
    weighed = vectorizer.fit_transform(texts)
    num_texts, num_terms = weighed.shape
    if num_terms <= settings.dim:
        return Weights(vectorizer, np.eye(num_terms))
    dim = min(settings.dim, num_texts)  # with as many directions as texts nothing is lost
    with np.errstate(invalid="ignore"):  # the share of variance that it explains, where all texts are alike: nobody reads it
        svd = TruncatedSVD(n_components=dim, n_iter=7, random_state=settings.seed).fit(weighed)
    return Weights(vectorizer, svd.components_)


def by_tfidf(texts: DataFrame, settings: Tfidf) -> DataFrame:
    """(text) distinct -> (text, vector). The weights are learned on the driver from `settings.sample` texts at most."""
    order = [F.xxhash64("text", F.lit(settings.seed)), F.col("text")]
    sample = [row["text"] for row in texts.orderBy(*order).limit(settings.sample).collect()]
    if not sample:
        return texts.withColumn("vector", F.lit(None).cast("binary"))
    shared = texts.sparkSession.sparkContext.broadcast(learn(sample, settings))

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK):
                column = batch.column("text").slice(start, _BLOCK)
                yield unit_batch(column, shared.value.encode(column.to_pylist()))

    return texts.mapInArrow(encode, SCHEMA)


# ---- sentence encoder ------------------------------------------------------------------------------------------------


def check_encoder(settings: Encoder) -> None:
    """Refuse before any task starts.

    Raises:
        SettingsError: the folder is not there or holds no sentence encoder, or the package that reads it is not installed.
    """
    folder, faults = Path(settings.path or ""), []
    if not folder.is_dir():
        fix = "give a local folder in sentence-transformers format, or set semantics.kind: tfidf, which needs no model"
        faults.append(Fault("the folder of the sentence encoder is not there", f"semantics.encoder.path is {folder}", fix))
    elif not (folder / "modules.json").is_file():
        fix = "save the encoder with SentenceTransformer.save(folder)"
        faults.append(Fault("the folder holds no sentence encoder: modules.json is missing", str(folder), fix))
    if find_spec("sentence_transformers") is None:
        faults.append(
            Fault("sentence-transformers is not installed", fix="pip install 'trichannel[semantics]', here and on every executor")
        )
    if faults:
        raise SettingsError("semantics.encoder", faults)


def by_encoder(texts: DataFrame, settings: Encoder) -> DataFrame:
    """(text) distinct -> (text, vector), by batch inference on the executors."""
    assert settings.path is not None
    load = partial(sentence_encoder, settings.path, settings.device)
    return batches_of(texts, settings.batch).applyInArrow(make_encode(load), SCHEMA)


def batches_of(texts: DataFrame, size: int) -> GroupedData:
    """(text) distinct, in groups of `size` that are encoded together, with `_row`, the order inside.

    They are cut out of all texts by length, then by text: padding stays small, and no vector depends on partitions, although an
    encoder's last digits depend on the batch.
    """
    ranked = with_rank(texts, [F.length("text"), F.col("text")], "_row")
    return ranked.groupBy(F.floor(F.col("_row") / size).alias("_batch"))


def make_encode(load: Callable[[], Any]) -> Callable[[pa.Table], pa.Table]:
    """Body of applyInArrow: one batch of texts in, (text, vector) out. load: gives the encoder, which it should hold."""

    def encode(batch: pa.Table) -> pa.Table:
        rows = batch.sort_by("_row")
        texts = rows.column("text").combine_chunks()
        vectors = load().encode(texts.to_pylist(), batch_size=len(texts), convert_to_numpy=True, show_progress_bar=False)
        return pa.Table.from_batches([unit_batch(texts, vectors)])

    return encode


@lru_cache(maxsize=1)
def sentence_encoder(path: str, device: str | None) -> Any:
    """The encoder, loaded once in a process, without the network.

    Raises:
        FileNotFoundError: the folder is not on this machine.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"semantics.encoder.path: {path} is not on this executor; put the folder at the same path everywhere")
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, device=device, local_files_only=True)
