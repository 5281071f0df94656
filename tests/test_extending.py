"""The examples of docs/extending.md are run: what it promises of a new source, job, encoder, objective, channel and metric is so."""

import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.sql import functions as F
from torch import Tensor

from conf.sections.retrieval import Channels
from conf.settings import Settings
from retrieval.ragged import Ragged, best_first, last_distinct
from retrieval.scoring import two_steps
from retrieval.world import Users, World
from spark_jobs.job import Artefact, Context, Job, Output, main
from spark_jobs.metrics.lists import F64, Lists
from spark_jobs.sources.raw import BAD_TIME, CLICKS, Raw, click_columns
from tests.contracts import test_encoders
from tests.retrieval.small_world import lists_of, make_case
from tests.spark_jobs.metrics.blocks import block, known
from tests.trainer import tiny
from trainer.encoders import ENCODERS, Batch, Encoder
from trainer.encoders.fields import FieldEncoder
from trainer.objectives import Objective, Step

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
NAMES: dict[str, Any] = {
    **{"F": F, "Raw": Raw, "BAD_TIME": BAD_TIME, "click_columns": click_columns, "Settings": Settings, "SparkSession": Any},
    **{"Context": Context, "DataFrame": Any, "Job": Job, "Output": Output, "Artefact": Artefact, "main": main, "sys": sys},
    **{"Encoder": Encoder, "FieldEncoder": FieldEncoder, "Batch": Batch, "torch": torch, "Tensor": Tensor, "Mapping": Mapping},
    **{"Objective": Objective, "Step": Step},
    **{"Users": Users, "World": World, "Channels": Channels, "Ragged": Ragged, "best_first": best_first, "last_distinct": last_distinct},
    "two_steps": two_steps,
    **{"np": np, "Lists": Lists, "F64": F64},
}


def example(section: str) -> dict[str, Any]:
    """The names that the section's first Python block defines."""
    body = TEXT.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"```python\n(.*?)```", body, flags=re.DOTALL)
    assert block is not None
    made = NAMES | {"__name__": "example"}
    exec(textwrap.dedent("   " + block.group(1).lstrip()), made)
    return made


def test_source(spark, tmp_path):
    (tmp_path / "log.json").write_text('{"uid": "u", "sku": "a", "at": 10}\n{"uid": "u", "sku": "b", "at": null}\n')
    settings = Settings.model_validate({"source": {"kind": "generic", "path": str(tmp_path / "log.json")}})
    raw = example("A source")["source"](spark, settings, "2026-01-31")
    assert dict(raw.clicks.dtypes) == dict(CLICKS)
    assert {(r.item_key, r.ts, r.problem) for r in raw.clicks.collect()} == {("a", 10, None), ("b", None, BAD_TIME)}
    assert raw.items.columns == ["item_key", "publish_ts", "eligible"]


def test_job():
    job = example("A job")["JOB"]
    assert isinstance(job, Job)
    assert job.name == "trending"


@pytest.mark.parametrize(
    "promise",
    [
        test_encoders.test_shapes,
        test_encoders.test_no_rows,
        test_encoders.test_masks_change_the_vectors,
    ],
    ids=lambda promise: promise.__name__,
)
def test_encoder(promise, monkeypatch):
    monkeypatch.setitem(ENCODERS, "dssm", example("An encoder")["MeanPool"])
    promise(tiny.encoder(test_encoders.given("dssm")))


def test_objective():
    given = tiny.settings()
    section = SimpleNamespace(objectives=SimpleNamespace(norms=SimpleNamespace(weight=0.5)))
    encoder = tiny.encoder(given)
    norms = example("An objective")["Norms"](section, encoder)
    batch = tiny.batch()
    (value,) = norms(tiny.step(given, encoder, batch)).values()
    expected = [max(0.0, float(vector.pow(2).sum()) - 1) for vector in encoder.user(batch)[:, 0].detach()]
    assert value.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert norms.weights == {"user": 0.5}


def test_channel():
    case = make_case()
    lists = lists_of(example("A channel")["recommend"](case.users, case.world, Channels(top=5)))
    assert len(lists) == len(case.users)
    assert any(lists)
    for found, seen in zip(lists, lists_of(case.users.seen.weighted(case.users.seen.values * 0.0)), strict=True):
        assert not {item for item, _ in found} & {item for item, _ in seen}
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_metric():
    longest_tail = example("A metric")["longest_tail"]
    # 3, 1, 0 and 0 clicks, one more each: shares 4/8, 2/8, 1/8, 1/8
    found = longest_tail(block([[1, 2], [2, 4, 1], []], [[1]] * 3, 3, known([3, 1, 0, 0])))
    assert found[:2].tolist() == [2.0, 3.0]
    assert np.isnan(found[2])
