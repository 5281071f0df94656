"""The indexes of the day for the jobs that search them; those made of other vectors than the day's are refused."""

from collections.abc import Iterator, Mapping
from typing import Final

from conf.errors import Fault, NotReadyError
from conf.manifest import Manifest
from retrieval.vector_index import INDEX_JSON, IndexFiles, index_files
from spark_jobs.job import Context

_VECTORS: Final = ("embeddings_user", "embeddings_item")


def indexes_of(context: Context) -> dict[str, IndexFiles]:
    """The indexes by name.

    Raises:
        NotReadyError: the day's vectors are not those in the index, or the model that the job reads is not the one that made them.
        BadDataError: index.json is missing or damaged.
    """
    made, vectors = context.manifests["index"], _vectors(context)
    fix = f"run: trichannel index --ds {context.ds}"
    faults = [
        Fault(f"the index was made of other vectors than {name} holds", f"index run {made.run_id}", fix)
        for name, manifest in vectors.items()
        if _read(made, name) != manifest.content_hash
    ]
    faults += _model_faults(context, vectors)
    if faults:
        raise NotReadyError(f"index, ds={context.ds}", faults)
    (told,) = (entry.sha256 for entry in made.files if entry.name == INDEX_JSON)
    return index_files(context.store.uri(context.store.folder_of(made)), told)


def _vectors(context: Context) -> Mapping[str, Manifest]:
    """Both tables of vectors as they are now; those that the job reads as it read them."""
    read = {name: manifest for name, manifest in context.manifests.items() if name in _VECTORS}
    return read | context.store.manifests([name for name in _VECTORS if name not in read], context.ds, context.settings)


def _model_faults(context: Context, vectors: Mapping[str, Manifest]) -> Iterator[Fault]:
    """A job that encodes what it searches for must do it with the model of the index."""
    model = context.manifests.get("model")
    if model is not None and any(_read(manifest, "model") != model.content_hash for manifest in vectors.values()):
        found = f"model run {model.run_id}"
        fix = f"run: trichannel embed --ds {context.ds}, then: trichannel index --ds {context.ds}"
        yield Fault("the index was made of the vectors of another model", found, fix)


def _read(manifest: Manifest, table: str) -> str:
    """Content of the table when the run read it."""
    return manifest.inputs.get(table, "").rsplit(" ", 1)[-1]
