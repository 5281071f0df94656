"""SASRec against a slow twin; what it sees at each position."""

import numpy as np
import pytest
import torch

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch, Encoder
from trainer.encoders.sasrec import SASRec
from trainer.randomness import words64

IDS = {"model.item_tower": "id", "model.fields": {"user": [], "item": None}}


def given(**overrides: object) -> Encoder:
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    encoder = tiny.encoder(tiny.settings({"model.encoder": "sasrec", "model.sasrec": {"blocks": 2, "heads": 2}, **dotted}))
    assert isinstance(encoder, SASRec)
    return encoder


def norm(w: slow.Weights, name: str, x: slow.Vector) -> slow.Vector:
    out: slow.Vector = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return out


def slow_block(w: slow.Weights, name: str, rows: list[slow.Vector]) -> list[slow.Vector]:
    """Row n attends to rows 0..n; 2 heads of 3 dimensions."""
    normed = [norm(w, f"{name}.norm_attention", x) for x in rows]
    query, key, value = ([w[f"{name}.{part}.weight"] @ x for x in normed] for part in ("query", "key", "value"))
    out = []
    for n, x in enumerate(rows):
        heads = []
        for head in (slice(0, 3), slice(3, 6)):
            share = slow.softmax(np.array([query[n][head] @ key[m][head] / np.sqrt(3) for m in range(n + 1)]))
            heads.append(sum(share[m] * value[m][head] for m in range(n + 1)))
        y = x + slow.dense(w, f"{name}.out", np.concatenate(heads))
        out.append(y + slow.mlp(w, f"{name}.dense", norm(w, f"{name}.norm_dense", y), slow.relu))
    return out


def slow_last(w: slow.Weights, batch: Batch, row: int, uh: int) -> slow.Vector:
    """EMPTY and the clicks that are kept, each with the vector of its place, that of click p being 1 + p."""
    places = slow.kept(batch, row, uh)
    clicks = [slow.item_ids(int(batch["hist"][row, p]))["item_id"][0] for p in places]
    rows = [w["embed.item_id.weight"][3] + w["places.weight"][0]]
    rows += [w["embed.item_id.weight"][click] + w["places.weight"][1 + p] for p, click in zip(places, clicks, strict=True)]
    for name in ("blocks.0", "blocks.1"):
        rows = slow_block(w, name, rows)
    return norm(w, "norm", rows[-1])


def test_equals_the_slow_twin_on_ids_alone() -> None:
    slow.compare(
        given(**IDS),
        lambda w, batch, row, um, uh: slow_last(w, batch, row, uh),
        lambda w, idx, vm: slow.pooled(w["embed.item_id.weight"], slow.item_ids(idx, vm)["item_id"]),
    )


def test_equals_the_slow_twin_with_fields() -> None:
    def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
        fields = slow.parts(w, slow.user_ids(batch, row, um))
        return slow.mlp(w, "user_tower", np.concatenate([slow_last(w, batch, row, uh), *fields]), slow.relu)

    def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
        return slow.mlp(w, "item_tower", np.concatenate(slow.parts(w, slow.item_ids(idx, vm))), slow.relu)

    slow.compare(given(), slow_user, slow_item)


def test_no_position_sees_what_comes_later() -> None:
    encoder, batch = given(), tiny.batch()
    before = encoder.prefixes(batch)
    changed = {**batch, "hist": batch["hist"].clone()}
    changed["hist"][:, 3] = torch.where(batch["hist"][:, 3] > 0, batch["hist"][:, 3] % tiny.ITEMS + 1, 0)
    after, long = encoder.prefixes(changed), batch["hist_len"] > 3
    assert long.any()
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=0)  # vector n is that after clicks 0..n - 1
    assert not torch.isclose(after[long, 4], before[long, 4]).all(dim=1).any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_vector_n_is_that_of_the_history_cut_after_n_clicks(dropout: float) -> None:
    encoder, batch = given(model__dropout=dropout), tiny.batch()
    noise = words64(1, batch["row"])
    vectors_BPD = encoder.prefixes(batch, noise=noise)
    assert vectors_BPD.shape == (13, 1 + tiny.LENGTH, 6)
    for num in range(1 + tiny.LENGTH):
        has = batch["hist_len"] >= num
        cut = {
            **batch,
            "hist": batch["hist"].masked_fill(torch.arange(tiny.LENGTH) >= num, 0),
            "hist_len": batch["hist_len"].clamp(max=num),
        }
        torch.testing.assert_close(vectors_BPD[has, num], encoder.user(cut, noise=noise)[has, 0], rtol=0, atol=1e-6)


def test_padding_changes_no_position() -> None:
    # property P4.1
    encoder, batch = given(), tiny.batch()
    wide = {**batch, "hist": torch.nn.functional.pad(batch["hist"], (0, 3))}
    torch.testing.assert_close(encoder.prefixes(wide), encoder.prefixes(batch), rtol=0, atol=0)


def test_it_sees_the_order() -> None:
    # property P4.2
    encoder, batch = given(), tiny.batch()
    assert not torch.allclose(encoder.user(slow.turned(batch)), encoder.user(batch), atol=1e-4)


def test_users_encoded_a_part_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, batch = given(), tiny.batch()
    monkeypatch.setattr("trainer.encoders.sasrec._ROWS", 4)
    with torch.no_grad():
        parts = encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"])
    torch.testing.assert_close(parts, encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"]), rtol=0, atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.sasrec\.heads \(4\) must divide the width of an embedding \(6\)"):
        given(model__sasrec={"heads": 4})


def test_an_encoder_without_positions_says_so() -> None:
    with pytest.raises(NotImplementedError, match="DSSM has no vector for every position"):
        tiny.encoder(tiny.settings()).prefixes(tiny.batch())


@pytest.mark.parametrize("fields", [{}, IDS])
def test_rows_put_together_by_length_learn_what_they_learn_together(monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]) -> None:
    encoder, batch = given(model__dropout=0.5, **fields), tiny.batch()
    assert len(batch["hist_len"].unique()) > 3
    own_BP = torch.arange(1 + tiny.LENGTH) <= batch["hist_len"][:, None]
    found = []
    for rows in (2, 100):
        monkeypatch.setattr("trainer.encoders.sasrec._PIECE_ROWS", rows)
        vectors_ND = encoder.train().prefixes(batch, noise=words64(1, batch["row"]))[own_BP]
        gradients = torch.autograd.grad(vectors_ND.pow(3).sum(), [x for x in encoder.parameters() if x.requires_grad], allow_unused=True)
        found.append([vectors_ND, *(x for x in gradients if x is not None)])
    assert len(found[0]) > 20
    for small, whole in zip(*found, strict=True):  # by cubes: squares of normed vectors add up to a constant
        torch.testing.assert_close(small, whole, rtol=1e-4, atol=1e-4)
