"""What stands for a user in the bank: the last train items, and nothing held out."""

from pathlib import Path

import pytest
import torch

from conf.inputs import input_manifests
from conf.settings import Settings
from conf.storage import Store
from conf.tables import TRAIN, VALID
from tests.trainer.planted import DS, World, planted_settings, publish, rows_of_tables, world
from tests.trainer.test_shared import on_workers
from trainer.backends.single import SingleBackend
from trainer.batches import survey
from trainer.mining.queries import UserQueries, read_queries
from trainer.shared import Shared
from trainer.tables import Tables


def read(settings: Settings, *, workers: int = 1, refitting: bool = False) -> list[UserQueries]:
    store = Store.of(settings)
    manifests = input_manifests("train", store, DS, settings)
    tables = Tables.read(store, manifests, settings)

    def of(shared: Shared) -> UserQueries:
        trained = (TRAIN, VALID) if refitting else (TRAIN,)
        samples = survey(store, manifests["samples"], SingleBackend(), num_items=tables.catalogue.num_items, trained=trained)
        return read_queries(tables, samples, settings, shared)

    found: list[UserQueries] = on_workers(workers, of)
    return found


def expected(made: World, settings: Settings, *, held_out: int) -> torch.Tensor:
    length = settings.model.history
    kept = [clicks[: len(clicks) - held_out][-length:] for clicks in made.clicks]
    return torch.tensor([known + [0] * (length - len(known)) for known in kept], dtype=torch.int32)


@pytest.mark.parametrize("refit", [False, True])
def test_histories_end_before_anything_held_out(tmp_path: Path, refit: bool) -> None:
    """With split.refit user_state holds the validation clicks as well: they are taken off, until the model is trained on them."""
    settings = planted_settings(tmp_path, split={"refit": refit})
    made = publish(settings)
    for found in read(settings, workers=2):
        assert torch.equal(found.idx, torch.arange(1, len(made.clicks) + 1))
        assert torch.equal(found.hist, expected(made, settings, held_out=made.num_valid))
    if refit:
        assert torch.equal(read(settings, refitting=True)[0].hist, expected(made, settings, held_out=0))


def test_users_without_a_train_event_are_not_there(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path)
    made = world()
    tables = rows_of_tables(made, settings)
    tables["events"]["user_state"][3] |= {"num_train": 0}  # one whose clicks are context only
    tables["events"]["user_state"][5] |= {"items": [], "ts": []}
    publish(settings, made, tables=tables)
    found = read(settings)[0]
    assert sorted(set(range(1, 61)) - set(found.idx.tolist())) == [4, 6]


def test_a_batch_has_what_an_encoder_reads(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path)
    made = publish(settings)
    batch = read(settings)[0].batch(torch.tensor([4, 9]))
    assert batch["user_idx"].tolist() == [5, 10]
    assert batch["user.gender"].tolist() == [5, 4]
    assert batch["user.likes"].tolist() == [[4 + made.user_topic[5]], [4 + made.user_topic[10]]]
    assert batch["hist"][0].tolist() == made.clicks[4][:-2][-5:]
    assert batch["hist_len"].tolist() == [5, 5]
