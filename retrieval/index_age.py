"""The indexes of the day for the jobs that search them; those made of other vectors than the day's are refused."""

from conf.errors import Fault, NotReadyError
from retrieval.vector_index import IndexFiles, index_files
from spark_jobs.job import Context


def indexes_of(context: Context) -> dict[str, IndexFiles]:
    """The indexes by name.

    Raises:
        NotReadyError: vectors that the job reads are not those in the index.
        BadDataError: index.json is missing or unreadable.
    """
    made = context.manifests["index"]
    others = [
        name
        for name in ("embeddings_user", "embeddings_item")
        if name in context.manifests and made.inputs.get(name, "").rsplit(" ", 1)[-1] != context.manifests[name].content_hash
    ]
    if others:
        fix = f"run: trichannel index --ds {context.ds}"
        faults = [Fault(f"the index was made of other vectors than {name} holds", f"index run {made.run_id}", fix) for name in others]
        raise NotReadyError(f"index, ds={context.ds}", faults)
    return index_files(context.store.uri(context.store.folder_of(made)))
