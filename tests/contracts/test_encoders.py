"""What every encoder promises. A new encoder is tested by its line in ENCODERS."""

import copy

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from conf.fields import MASK
from conf.settings import Settings
from tests.trainer import tiny
from trainer.backends import is_sparse_table
from trainer.catalogue import Catalogue
from trainer.encoders import ENCODERS, Batch, Encoder, build_encoder
from trainer.randomness import words64

TABLES = ({"tables": "adam"}, {"tables": "rowwise_adagrad"})


def given(name: str, dropout: float = 0.0, tables: dict[str, str] = TABLES[0]) -> Settings:
    # wide enough that no row finds all ReLUs shut
    return tiny.settings({**tiny.by_encoder(name), "model.hidden": [32], "model.dropout": dropout, "trainer.optimizer": tables})


@pytest.fixture(params=sorted(ENCODERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(name: str) -> Encoder:
    return tiny.encoder(given(name))


def views(encoder: Encoder, batch: Batch, noise: Tensor | None = None) -> dict[str, Tensor]:
    return {
        "user": encoder.user(batch, noise=noise),
        "user_b": encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"], noise=noise),
        "item": encoder.item(batch["item_idx"], noise=noise),
        "item_b": encoder.item(batch["item_idx"], vm=batch["vm_b"], noise=noise),
    }


def test_shapes(encoder: Encoder) -> None:
    got = views(encoder, tiny.batch())
    assert encoder.similarity in ("cosine", "inner_product")
    assert got["user"].shape == got["user_b"].shape == (13, encoder.interests, encoder.dim)
    assert got["item"].shape == got["item_b"].shape == (13, encoder.dim)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in got.values())


def test_seventeen_item_fields(name: str) -> None:
    # as many as in MicRec's news set: the id, eight of one value, eight lists
    roles = {f"{role}_{n}": role for role in ("single", "multi") for n in range(8)}
    base = given(name)
    fields = {"user": {"gender": "single", "hobbies": "multi"}, "item": {**roles, "title": "text"}}
    source = {"kind": "generic", "path": "clicks.csv", "fields": fields}
    wide = Settings.model_validate({**base.model_dump(), "source": source})
    columns = {f: [4, 5, 2, 6] if role == "single" else [[4], [], [5, 6], [7, 4, 5]] for f, role in roles.items()}
    table = pa.table({"idx": [1, 2, 3, 4], "eligible": [True] * 4, "item_id": [4, 5, 6, 2], **columns})
    catalogue = Catalogue.from_arrow(table, wide.registry())
    encoder = build_encoder(wide, wide.registry(), catalogue, {**tiny.VOCAB, **dict.fromkeys(roles, 8)})
    ids = torch.arange(1, 5)
    clean = encoder.item(ids)
    assert clean.shape == (4, encoder.dim)
    for bit in range(17):
        assert not torch.isclose(encoder.item(ids, vm=torch.full((4,), 1 << bit)), clean).all(dim=1).any(), wide.registry().item[bit].name


def test_no_rows(encoder: Encoder) -> None:
    got = views(encoder, tiny.rows_of(tiny.batch(), []))
    assert got["user"].shape == (0, encoder.interests, encoder.dim)
    assert got["item"].shape == (0, encoder.dim)


def test_masks_change_the_vectors(encoder: Encoder) -> None:
    batch = tiny.batch()
    clean, every = views(encoder, batch), torch.full((13,), 0b111)
    assert not torch.isclose(encoder.user(batch, um=every), clean["user"]).all(dim=2).any()
    assert not torch.isclose(encoder.item(batch["item_idx"], vm=every), clean["item"]).all(dim=1).any()
    long = batch["hist_len"] > 1
    assert not torch.isclose(encoder.user(batch, uh=torch.full((13,), 0b11111))[long], clean["user"][long]).all(dim=2).any()


def test_given_values_take_the_place_of_the_catalogues(encoder: Encoder) -> None:
    ids = torch.arange(1, tiny.ITEMS + 1)
    clean, tags = encoder.item(ids), tiny.catalogue(tiny.settings()).multi["tags"][ids]
    torch.testing.assert_close(encoder.item(ids, multi={"tags": tags}), clean, rtol=0, atol=0)
    last = tags.masked_fill(torch.arange(tags.shape[1]) == 0, 0)  # without each item's first value
    changed = ~torch.isclose(encoder.item(ids, multi={"tags": last}), clean).all(dim=1)
    several = ((tags > 0).sum(dim=1) > 1) & (tags != tags[:, :1]).logical_and(tags > 0).any(dim=1)
    assert changed[several].all()


@pytest.mark.parametrize("mask", ["learned", "zero"])
def test_a_hidden_field_shows_a_learned_row_or_zeros(name: str, mask: str) -> None:
    batch, every = tiny.batch(), torch.full((13,), 0b111)
    encoder = tiny.encoder(tiny.settings({**tiny.by_encoder(name), "model.embedding": {"init": 0.5, "mask": mask}}))
    assert not torch.isclose(encoder.item(batch["item_idx"], vm=every), encoder.item(batch["item_idx"])).all(dim=1).any()
    (encoder.user(batch, um=every).square().sum() + encoder.features(batch["item_idx"], vm=every).sum()).backward()
    for table in (encoder.get_parameter(f"embed.{field}.weight") for field in ("category", "tags")):
        assert table.grad is not None
        assert bool(table.grad[1].any()) is (mask == "learned")
    assert bool((encoder.features(batch["item_idx"], vm=every) == 0).all())  # the learned row starts there, too
    with torch.no_grad():
        for table in encoder.tables():
            table[1] = 1
    assert encoder.features(batch["item_idx"], vm=every).unique().tolist() == [mask == "learned"]


def test_a_dropped_click_is_left_out_or_is_a_token(name: str) -> None:
    batch = tiny.rows_of(tiny.batch(), (tiny.batch()["hist_len"] > 2).nonzero().flatten().tolist())
    dropped = torch.ones(len(batch["row"]), dtype=torch.int64)  # the first click
    item_mask = {"hist": batch["hist"].clone(), "hist_len": batch["hist_len"]}
    item_mask["hist"][:, 0] = tiny.ITEMS  # its id becomes MASK below
    users = []
    for kind in ("drop", "token"):
        encoder = tiny.encoder(tiny.settings({**tiny.by_encoder(name), "model.hidden": [32], "model.history_mask": kind}))
        with torch.no_grad():
            for table in encoder.tables():
                table[1] = 0.25
        users.append(encoder.user(batch, uh=dropped))
        torch.testing.assert_close(encoder.user(batch, uh=torch.zeros_like(dropped)), encoder.user(batch), rtol=0, atol=0)
    assert not torch.isclose(users[0], users[1]).all(dim=2).any()
    for field in ("item_id", "category"):  # an item that is MASK in every field
        encoder.catalogue.single[field][tiny.ITEMS] = MASK
    encoder.catalogue.multi["tags"][tiny.ITEMS] = torch.tensor([MASK] + [0] * (encoder.catalogue.multi["tags"].shape[1] - 1))
    others = (batch["hist"][:, 1:] != tiny.ITEMS).all(dim=1)
    torch.testing.assert_close(users[1][others], encoder.user(batch | item_mask)[others])


def test_no_mask_bit_is_the_clean_view(encoder: Encoder) -> None:
    batch, none = tiny.batch(), torch.zeros(13, dtype=torch.int64)
    clean = views(encoder, batch)
    torch.testing.assert_close(encoder.user(batch, um=none, uh=none), clean["user"], rtol=0, atol=0)
    torch.testing.assert_close(encoder.item(batch["item_idx"], vm=none), clean["item"], rtol=0, atol=0)


def test_dropping_the_only_click_drops_nothing(encoder: Encoder) -> None:
    batch = tiny.batch()
    short = batch["hist_len"] <= 1
    assert short.any()
    every = encoder.user(batch, uh=torch.full((13,), 0b11111))
    torch.testing.assert_close(every[short], encoder.user(batch)[short], rtol=0, atol=0)


def test_padding_changes_nothing(encoder: Encoder) -> None:
    # property P4.1: more room at the end of the history and of every multi field
    batch = tiny.batch()
    wide = {key: nn.functional.pad(value, (0, 4)) if value.dim() == 2 else value for key, value in batch.items()}
    for key, value in views(encoder, batch).items():
        torch.testing.assert_close(views(encoder, wide)[key], value, rtol=0, atol=1e-6)


def test_chunks_equal_the_whole(encoder: Encoder) -> None:
    # property P4.6
    encoder.eval()
    ids = torch.arange(1, tiny.ITEMS + 1)
    chunks = torch.cat([encoder.item(chunk) for chunk in ids.split(2)])
    torch.testing.assert_close(chunks, encoder.item(ids), rtol=0, atol=1e-6)
    batch = tiny.batch()
    rows = torch.cat([encoder.user(tiny.rows_of(batch, [row])) for row in range(13)])
    torch.testing.assert_close(rows, encoder.user(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tables", TABLES, ids=lambda tables: tables["tables"])
def test_a_gradient_reaches_every_parameter(name: str, tables: dict[str, str]) -> None:
    encoder = tiny.encoder(given(name, tables=tables))
    sum((value * torch.randn(value.shape)).sum() for value in views(encoder, tiny.batch()).values()).backward()  # type: ignore[union-attr]
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert gradient.abs().sum() > 0, key
    for table in encoder.tables():  # PAD never learns, MASK does
        assert table.grad is not None
        assert table.grad.to_dense()[0].abs().max() == 0
        assert table.grad.to_dense()[1].abs().max() > 0


def test_tables_are_parameters_of_the_encoder(encoder: Encoder) -> None:
    own = {id(parameter) for parameter in encoder.parameters()}
    tables = encoder.tables()
    assert tables
    assert all(isinstance(table, nn.Parameter) and id(table) in own for table in tables)


def test_an_empty_history_is_a_token_of_its_own(encoder: Encoder) -> None:
    batch = tiny.rows_of(tiny.batch(), [0])
    assert int(batch["hist_len"]) == 0
    encoder.user(batch).sum().backward()
    table = dict(encoder.named_parameters())["embed.item_id.weight"]
    assert table.grad is not None
    assert table.grad.to_dense().abs().sum(dim=1).nonzero().flatten().tolist() == [3]


def test_no_dropout_without_noise_or_in_eval_mode(name: str) -> None:
    encoder, batch = tiny.encoder(given(name, dropout=0.5)), tiny.batch()
    noise = words64(1, torch.arange(13))
    plain = views(encoder, batch)
    for key, value in views(encoder, batch, noise).items():
        assert not torch.isclose(value, plain[key]).all()
    for key, value in views(copy.deepcopy(encoder).eval(), batch, noise).items():
        torch.testing.assert_close(value, plain[key], rtol=0, atol=0)


def test_dropout_goes_by_the_row(name: str) -> None:
    encoder, batch = tiny.encoder(given(name, dropout=0.5)), tiny.batch()
    noise, rows = words64(1, torch.arange(13)), [12, 3, 7]
    whole = views(encoder, batch, noise)
    for key, value in views(encoder, tiny.rows_of(batch, rows), noise[rows]).items():
        torch.testing.assert_close(value, whole[key][rows], rtol=0, atol=1e-6)


def test_deep_copies_keep_their_kind_of_gradient(name: str) -> None:
    encoder = copy.deepcopy(tiny.encoder(given(name, tables=TABLES[1])))
    assert all(is_sparse_table(table) for table in encoder.tables())


def test_the_catalogue_is_no_part_of_the_weights(encoder: Encoder) -> None:
    assert set(encoder.state_dict()) == {key for key, _ in encoder.named_parameters()}
