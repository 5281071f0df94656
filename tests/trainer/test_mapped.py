"""Features, related items and histories stand once in the memory of a host, whatever the number of its workers."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from conf.settings import Settings
from tests.contracts.test_workers import started
from tests.trainer.mapped_worker import file_of, read
from tests.trainer.planted import planted_settings, publish, rows_of_tables, world
from trainer.shared import alone

# Arrays that are there with what the test plants; the first of each is the one a large day would feel.
WANTED = {"item.single.item_id", "item.multi.tags", "user.multi.likes", "all.eligible", "query.batch.hist", "query.truth", "query.seen"}
WANTED |= {"cooc.first", "cooc.other", "cooc.up_to", "cooc_pairs.other", "sem_nn.other", "bank.idx", "bank.hist", "bank.hist_len"}


def planted(root: Path) -> Settings:
    given = planted_settings(root, objectives={"micrec": {}, "mic": {}}, semantics={"kind": "tfidf"}, cooc={"keep_pairs": True})
    settings = Settings.model_validate(given.model_dump(mode="json") | {"mining": {}})
    made = world()
    items = range(1, len(made.item_topic))
    met = [{"item_i": i, "item_j": j, "count": 1 + i % 3} for i in items for j in items if i != j and (i + j) % 7 == 0]
    cooc = [row | {"same_category": False, "weight": float(row["count"])} for row in met]
    alike = [{"item_idx": i, "neighbours": [1 + i % 80, 1 + (i + 4) % 80], "similarities": [0.9, 0.8]} for i in items]
    tables: Any = rows_of_tables(made, settings)
    publish(settings, made, tables=tables | {"cooccurrence": {"cooc": cooc, "cooc_pairs": met}, "semantics": {"sem_nn": alike}})
    return settings


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what memory is mapped from")
@pytest.mark.parametrize("backend", ["ddp", pytest.param("horovod", marks=pytest.mark.slow)])
def test_two_workers_of_a_host_map_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    settings, temporary, config = planted(tmp_path / "root"), tmp_path / "temporary", tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    code, said = started(backend, 2, "-m", "tests.trainer.mapped_worker", backend, str(config), str(tmp_path / "out"))
    assert code == 0, said
    assert "not writable" not in said  # a warning of torch
    first, second = (torch.load(tmp_path / f"out-{rank}.pt", weights_only=True) for rank in range(2))
    own: dict[str, Tensor] = read(settings, alone())
    assert first.keys() == second.keys() == own.keys() >= WANTED
    assert not list(temporary.glob("trichannel*"))  # unlinked: nothing can be left behind
    for name, array in own.items():
        for rank, (found, _) in enumerate((first[name], second[name])):
            wanted = array[rank::2] if name.startswith("query.") else array
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted), name
        if array.numel():
            assert file_of(array) == "", name  # one process alone has them as they were read
            assert first[name][1] == second[name][1], name
            assert str(temporary) in first[name][1], name
