"""The packaged configurations: demo.yaml says everything, the others load and mean what they say."""

import re
from importlib import resources
from itertools import pairwise

import pytest

from conf.jobs import JOBS, config_hash, outputs
from conf.settings import Settings, load, packaged_names, to_yaml
from conf.tables import ARTEFACTS, resolve

REGENERATE = """python -c "from conf.settings import *; s = to_yaml(load('demo')); open('conf/demo.yaml', 'w').write(s)" """


def text_of(name: str) -> str:
    return resources.files("conf").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def test_demo_is_complete_and_current() -> None:
    assert text_of("demo") == to_yaml(load("demo")), f"a setting changed; write the file again: {REGENERATE}"


def test_demo_comments_every_key() -> None:
    lines = text_of("demo").splitlines()
    bare = [line for before, line in pairwise(lines) if re.match(r" *\w+:", line) and not before.strip().startswith("#")]
    assert bare == []


def test_demo_is_the_demo() -> None:
    s = load("demo")
    assert (s.source.kind, s.storage.root) == ("synthetic", "data/demo")
    assert s.source.synthetic.users >= 10_000
    assert s.source.synthetic.items >= 5_000
    assert s.source.synthetic.clicks >= 500_000
    assert (s.split.kind, s.split.k) == ("last_k", 5)
    assert (s.trainer.launcher, s.trainer.workers, s.trainer.batches) == ("horovod", 2, "petastorm")
    assert s.objectives.mic is not None
    assert set(s.channels.names) == {"u2i", "u2u2i", "i2i", "itemcf", "popular"}
    assert set(s.evaluation.baselines) == {"most_pop", "itemcf", "als"}


def test_movielens() -> None:
    s = load("movielens")
    assert (s.source.kind, s.source.path, s.source.default_ds) == ("movielens", "data/ml-100k", "1998-04-22")
    assert (s.split.kind, s.split.k, s.session.kind) == ("last_k", 5, "auto")
    assert load("movielens", ["source.path=elsewhere"]).source.path == "elsewhere"


def test_mic_micrec_is_movielens_with_both_papers() -> None:
    s, other = load("mic_micrec"), load("movielens")
    assert (s.source, s.split, s.session, s.model, s.trainer) == (other.source, other.split, other.session, other.model, other.trainer)
    assert s.objectives.trained == {"mic": {"uv": 1, "uu": 1, "vv": 1}, "micrec": {"fea": 1, "sem": 0.3, "sess": 0.1}}
    assert s.objectives.tables == {"sem_nn", "cooc", "cooc_pairs"}
    assert s.semantics.kind == "tfidf"


def test_sequential_is_movielens_with_another_tower() -> None:
    s, other = load("sequential"), load("movielens")
    assert (s.source, s.split, s.session, s.cooc, s.evaluation) == (other.source, other.split, other.session, other.cooc, other.evaluation)
    assert (s.model.encoder, s.model.item_tower, s.registry().user) == ("sasrec", "id", ())
    assert 1 < s.trainer.clicks_per_row <= s.model.history  # a loss at every click
    line = load("sequential", ["source.kind=sequences", "split.k=1", "cooc.category_field=null"])  # as its head says
    assert line.registry().user == ()


@pytest.mark.parametrize(("name", "history", "day"), [("amazon_books", 20, "2014-07-31"), ("taobao", 50, "2017-12-03")])
def test_mic_protocol(name: str, history: int, day: str) -> None:
    """Lu et al. 2022, 4.1 and 4.3; what they leave to ComiRec, as there."""
    s = load(name)
    assert (s.model.history, s.source.default_ds) == (history, day)
    assert (s.source.min_item_events, s.source.min_user_events, s.source.catalogue) == (5, 5, "clicked")
    assert (s.split.kind, s.split.seed, s.channels.seen) == ("user", 1230, "none")
    assert (s.model.dim, s.model.dropout, s.trainer.batch, s.trainer.optimizer.lr) == (128, 0.2, 1024, 0.001)
    assert s.objectives.mic is not None
    assert (s.base.weight, s.objectives.mic.weight, s.objectives.mic.temperature) == (0.7, 0.3, 0.1)
    assert (s.evaluation.at, s.trainer.valid_at) == ([20, 50], 50)
    assert s.registry().user == ()  # neither log knows anything of its users, and ids of held-out users are never trained


def test_production_holds_nothing_out_and_scales() -> None:
    s = load("production")
    assert (s.split.kind, s.merge.layout, s.evaluation.baselines) == ("production", "lists", [])
    assert (s.trainer.launcher, s.trainer.workers) == ("horovod", 8)
    assert s.trainer.optimizer.tables == "rowwise_adagrad"
    assert (s.index.factory, s.index.max_bytes) == ("auto", 4_000_000_000)
    assert s.storage.root.startswith("hdfs://")
    assert "NCCL" in text_of("production")


@pytest.mark.parametrize("name", packaged_names())
def test_every_configuration_can_be_planned(name: str) -> None:
    s = load(name)
    for job in JOBS:
        assert re.fullmatch("[0-9a-f]{16}", config_hash(job, s))
        for table in outputs(job, s):
            if table not in ARTEFACTS:
                assert resolve(table, s.registry(), s.shape()).columns


@pytest.mark.parametrize("name", packaged_names())
def test_to_yaml_and_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("yaml") / "again.yaml"
    path.write_text(to_yaml(load(name)), encoding="utf-8")
    assert load(str(path)) == load(name)


@pytest.mark.parametrize("name", packaged_names())
def test_no_configuration_knows_this_machine(name: str) -> None:
    assert ".." not in str(load(name).source.path)
    assert isinstance(load(name), Settings)


@pytest.mark.parametrize("name", ["local", "production"])
def test_spark_properties_are_properties(name: str) -> None:
    text = resources.files("conf").joinpath(f"spark/{name}.conf").read_text(encoding="utf-8")
    properties = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(len(pair) == 2 and pair[0].startswith("spark.") for pair in properties)
    names = [pair[0] for pair in properties]
    assert len(names) == len(set(names))
    assert ("spark.master" in names) == (name == "local")  # a cluster's master comes from spark-submit
