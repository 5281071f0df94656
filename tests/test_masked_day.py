"""From samples on with the masks of Yao et al. and dropped values: both engines' rows, and two Horovod workers that train on them."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from conf.masks import correlated, masking_of, masks_of
from conf.settings import load
from conf.storage import Store
from tests.tiny_day import DS, TINY, TinyDay, trichannel

MASKS = (
    "samples.masks.strategy=cfm",
    "samples.masks.draws=2",
    "samples.masks.p_val=0.2",
    "samples.masks.mi.normalise=sqrt",
    "trainer.epochs=1",
)


def ran(day: TinyDay, job: str, *overrides: str) -> None:
    sets = [word for override in (*MASKS, *overrides) for word in ("--set", override)]
    done = trichannel(day, job, *sets)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_correlated_masks_and_dropped_values(tiny_day, tmp_path):
    shutil.copytree(tiny_day.root, tmp_path / "root")
    day = TinyDay(tmp_path / "root")
    settings = load("demo", [f"storage.root={day.root}", *TINY, *MASKS])
    store = Store.of(settings)
    ran(day, "samples")
    made = store.manifest("samples", DS, settings)
    for side, fields in (("user", settings.registry().user), ("item", settings.registry().item)):
        assert_information(made.counters["mutual_information"][side], [field.name for field in fields], f"{side}_id")
        assert made.facts["mask_patterns"][side] == list(correlated(by_root(made.counters["mutual_information"][side]["nats"])))
    rows = pq.ParquetDataset(store.files_of(made)).read(use_threads=False)
    sample_id, hist_len = (rows[name].to_numpy().astype(np.int64) for name in ("sample_id", "hist_len"))
    masking = masking_of(settings, made.facts["mask_patterns"])
    for draw in (0, 1):
        for name, mask in masks_of(masking, sample_id, hist_len, draw).items():
            assert (rows[name].to_numpy() == mask).all(), name
        assert (rows[f"vm_a{draw}"].to_numpy() + rows[f"vm_b{draw}"].to_numpy() == 2 ** len(settings.registry().item) - 1).all()

    ran(day, "train")
    trained = store.manifest("model", DS, settings)
    assert trained.inputs["samples"] == made.identity
    (log,) = [file for file in store.files_of(trained) if file.endswith("metrics.jsonl")]
    epoch = next(line for line in map(json.loads, Path(log).read_text().splitlines()) if line["kind"] == "epoch")
    losses = [epoch[f"mic.{part}"] for part in ("uv", "uu", "vv")]
    assert all(loss > 0 and math.isfinite(loss) for loss in losses), losses

    ran(day, "samples", "samples.engine=sql")
    assert store.manifest("samples", DS, settings).content_hash == made.content_hash


def assert_information(found: Mapping[str, Any], fields: list[str], id_field: str) -> None:
    nats = np.array(found["nats"])
    assert found["fields"] == fields
    assert (nats == nats.T).all()
    own = fields.index(id_field)
    assert nats[own, own] == pytest.approx(np.log(found["rows"]), abs=1e-6)
    others = [n for n in range(len(fields)) if n != own]
    assert (nats[own, others] == np.diag(nats)[others]).all()
    assert (nats[others].max(axis=1) <= np.diag(nats)[others]).all()


def by_root(nats: list[list[float]]) -> np.ndarray:
    entropy = np.diag(np.array(nats))
    return np.array(nats) / np.sqrt(np.outer(entropy, entropy))
