"""An index older than its vectors is refused, by jobs that read the vectors and by those that do not."""

import pytest

from conf.errors import BadDataError, NotReadyError
from conf.tables import resolve
from retrieval import click_ranks
from spark_jobs.job import run_job
from tests.retrieval.conftest import ask
from tests.retrieval.day import DS, day_settings, flip_a_bit, manifest, publish_model, table
from tests.trainer.planted import write

VECTORS = ("embeddings_user", "embeddings_item")


@pytest.fixture
def embedded_again(copied):
    """embedded_again(name, ...) publishes embed once more, other vectors in these tables, and index not."""

    def publish(*changed):
        rows = {name: table(copied, name) for name in VECTORS}
        for name in changed:
            rows[name] = [row | {"vector": [-x for x in row["vector"]]} for row in rows[name]]
        with copied.store.publication("embed", DS, "again", copied.settings, inputs=manifest(copied, VECTORS[0]).inputs) as publication:
            for name in VECTORS:
                shape = resolve(name, copied.settings.registry(), copied.settings.shape())
                write(publication, shape, rows[name], ((len(rows[name]),),), manifest(copied, name).facts)
            publication.commit()
        return copied

    return publish


def test_other_vectors_of_both_sides_are_refused_until_index_runs(embedded_again, run):
    day = embedded_again(*VECTORS)
    for job in ("neighbours", "candidates"):
        with pytest.raises(NotReadyError) as refused:
            run(day, job, run_id="late")
        assert [fault.what for fault in refused.value.faults] == [
            f"the index was made of other vectors than {name} holds" for name in VECTORS
        ]
        assert refused.value.exit_code == 3
    run(day, "index", "neighbours", "candidates", run_id="mended")


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_that_a_job_does_not_read_are_compared_too(embedded_again, spark, run, name):
    """candidates reads no vectors of items, click_ranks neither items' nor users'."""
    day = embedded_again(name)
    with pytest.raises(NotReadyError, match=f"the index was made of other vectors than {name} holds"):
        run(day, "candidates", run_id="late")
    with pytest.raises(NotReadyError, match=f"the index was made of other vectors than {name} holds"):
        run_job(click_ranks.JOB, spark, ask(day, "late"))


def test_clicks_are_not_encoded_by_another_model_than_that_of_the_index(copied, spark, run):
    publish_model(copied.store, day_settings(copied.settings.storage.root, trainer={"seed": 99}), {}, run_id="again")
    with pytest.raises(NotReadyError, match="vectors of another model   model run again   run: trichannel embed --ds"):
        run_job(click_ranks.JOB, spark, ask(copied, "late"))
    run(copied, "embed", "index", run_id="mended")
    run_job(click_ranks.JOB, spark, ask(copied, "mended"))


def test_an_index_json_that_is_not_the_one_committed_is_refused(copied, run):
    flip_a_bit(f"{copied.store.folder_of(manifest(copied, 'index'))}/index.json")
    with pytest.raises(BadDataError, match=r"index.json.*\n.*the file is damaged"):
        run(copied, "candidates", run_id="late")
