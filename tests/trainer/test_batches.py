"""Global batches: the same from both sources and for any number of workers, every train row once, faults named."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from petastorm.workers_pool.thread_pool import WorkerThread

from conf.errors import BadDataError
from conf.settings import Settings
from conf.storage import Store
from tests.trainer.planted import DS, World, planted_settings, publish, world
from trainer.backends import build_backend
from trainer.batches import Batches, Samples, survey
from trainer.batches.order import Piece, RowGroup, plan_epoch, rows_of, skip_rows
from trainer.batches.petastorm import read_petastorm, refuse_pickled_schema
from trainer.catalogue import UserTable
from trainer.encoders.encoder import Batch

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # Petastorm; silenced outside of pytest

Day = Callable[..., tuple[Settings, World]]


def opened(settings: Settings, num_items: int = 80) -> Samples:
    store = Store.of(settings)
    return survey(store, store.manifest("samples", DS, settings), build_backend("single"), num_items=num_items)


def users_of(settings: Settings) -> UserTable:
    store = Store.of(settings)
    files = store.files_of(store.manifest("user_feat", DS, settings))
    return UserTable.from_arrow(pa.concat_tables([pq.ParquetFile(file).read() for file in files]), settings.registry())


def batches_of(settings: Settings, *, rank: int = 0, size: int = 1, epoch: int = 0, start: int = 0) -> list[Batch]:
    batches = Batches(opened(settings), settings, users_of(settings), rank=rank, size=size)
    with batches.epoch(epoch, start=start) as prefetched:
        return list(prefetched)


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype, name
            assert torch.equal(a[name], b[name]), name


# ---- the order, by hand ----------------------------------------------------------------------------------------------


def test_streams_are_equal_and_hold_every_row_once() -> None:
    # 4 + 1 + 0 + 6 train rows = 11, in 3 streams: 3, 4, 4 rows; a batch of 6 takes 2 of each, so 1 step, 5 rows dropped
    groups = [RowGroup("f", i, i, train + 1, train) for i, train in enumerate((4, 1, 0, 6))]
    plan = plan_epoch(groups, seed=1, epoch=0, streams=3, batch=6)
    assert [sum(p.stop - p.start for p in pieces) for pieces in plan.streams] == [3, 4, 4]
    assert (plan.steps, plan.dropped) == (1, 5)
    rows = [(p.group.number, row) for pieces in plan.streams for p in pieces for row in range(p.start, p.stop)]
    assert sorted(rows) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), *((3, row) for row in range(6))]
    # the last row group of 6 rows is longer than a stream, so it stands in two of them at least
    assert sum(p.group.number == 3 for pieces in plan.streams for p in pieces) >= 2


def test_rows_of_a_group_are_a_permutation_of_its_train_rows() -> None:
    split = np.array([0, 1, 0, 0, 1, 0], dtype=np.int8)
    group = RowGroup("f", 0, 0, 6, 4)
    first, second = (rows_of(Piece(group, *bounds), split, seed=1, epoch=0) for bounds in ((0, 3), (3, 4)))
    assert sorted([*first, *second]) == [0, 2, 3, 5]
    orders = {tuple(rows_of(Piece(group, 0, 4), split, seed=1, epoch=epoch)) for epoch in range(20)}
    assert len(orders) > 5


def test_skipped_rows_cut_pieces_and_drop_whole_groups() -> None:
    a, b, c = (RowGroup("f", i, i, 5, 5) for i in range(3))
    pieces = [Piece(a, 0, 5), Piece(b, 2, 4), Piece(c, 0, 5)]
    assert list(skip_rows(pieces, 0)) == pieces
    assert list(skip_rows(pieces, 5)) == pieces[1:]
    assert list(skip_rows(pieces, 6)) == [Piece(b, 3, 4), pieces[2]]
    assert list(skip_rows(pieces, 12)) == []


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_every_train_row_once_an_epoch(day: Day) -> None:
    settings, made = day(trainer={"batch": 6})
    samples = opened(settings)
    trained = sum(len(clicks) - made.num_valid for clicks in made.clicks)
    assert (samples.train_rows, samples.valid_rows) == (trained, len(made.clicks) * made.num_valid)
    for epoch in (0, 1):
        plan = Batches(samples, settings, None, rank=0, size=1).plan(epoch)
        ids = torch.cat([batch["sample_id"] for batch in batches_of(settings, epoch=epoch)])
        assert len(ids) == len(ids.unique()) == trained - plan.dropped == plan.steps * 6
        assert plan.dropped < 6
        train_ids = {(user << 32) | p for user, clicks in enumerate(made.clicks, 1) for p in range(len(clicks) - made.num_valid)}
        assert set(ids.tolist()) <= train_ids


def test_a_batch_holds_the_rows_of_the_tables(day: Day) -> None:
    settings, made = day()
    batch = batches_of(settings)[0]
    assert batch["row"].tolist() == list(range(48))
    for b in range(48):
        user, position = int(batch["sample_id"][b]) >> 32, int(batch["sample_id"][b]) & 0xFFFFFFFF
        clicks = made.clicks[user - 1]
        before = clicks[max(0, position - 5) : position]
        assert (int(batch["user_idx"][b]), int(batch["item_idx"][b])) == (user, clicks[position])
        assert batch["hist"][b].tolist() == before + [0] * (5 - len(before))
        assert int(batch["hist_len"][b]) == len(before)
        assert int(batch["user.gender"][b]) == 4 + user % 2
        assert batch["user.likes"][b].tolist() == [4 + int(made.user_topic[user]) if user % 3 else 0]  # multi: from user_feat
    assert all(batch[name].dtype == torch.int64 for name in batch if name != "weight")


@pytest.mark.parametrize("epoch", [0, 3])
def test_petastorm_and_arrow_give_the_same_batches(day: Day, epoch: int) -> None:
    settings, _ = day(samples={"masks": {"draws": 2}})
    other = settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"batches": "petastorm"})})
    assert_equal(batches_of(settings, epoch=epoch), batches_of(other, epoch=epoch))


def test_masks_of_both_views_come_with_the_batch_where_both_are_stored(day: Day) -> None:
    settings, _ = day(samples={"masks": {"strategy": "rfm", "draws": 2}})
    first = batches_of(settings, epoch=1)[0]
    assert {"um_a", "uh_a", "vm_a", "um_b", "uh_b", "vm_b"} <= first.keys()
    assert (first["draw"] == 1).all()
    files = Store.of(settings).files_of(Store.of(settings).manifest("samples", DS, settings))
    stored = {row["sample_id"]: row for file in files for row in pq.ParquetFile(file).read().to_pylist()}
    for name in ("um_a", "uh_a", "vm_b"):
        assert first[name].tolist() == [stored[i][f"{name}1"] for i in first["sample_id"].tolist()]


def test_all_rows_of_a_batch_hide_the_same_fields_where_the_seed_of_cfm_is_the_batch(day: Day) -> None:
    settings, _ = day(samples={"masks": {"strategy": "cfm", "cfm_seed": "per_batch"}})
    known = replace(opened(settings), mask_patterns={"user": [1, 2], "item": [1, 2, 4]})

    def made(rank: int, size: int, start: int = 0) -> list[Batch]:
        with Batches(known, settings, users_of(settings), rank=rank, size=size).epoch(1, start=start) as prefetched:
            return list(prefetched)

    whole = made(0, 1)
    for name, patterns in (("um_a", {1, 2}), ("vm_a", {1, 2, 4})):
        chosen = [set(batch[name].tolist()) for batch in whole]
        assert all(len(masks) == 1 for masks in chosen)
        assert set().union(*chosen) == patterns
        assert [set(batch[name].tolist()) for batch in made(1, 2, start=3)] == chosen[3:]  # on all ranks, and when resumed


@pytest.mark.parametrize("source", ["arrow", "petastorm"])
@pytest.mark.parametrize("size", [2, 3, 6])
def test_workers_share_the_same_global_batches(day: Day, source: str, size: int) -> None:
    settings, _ = day(trainer={"batches": source})
    whole = batches_of(settings)
    parts = [batches_of(settings, rank=rank, size=size) for rank in range(size)]
    joined = [{name: torch.cat([part[step][name] for part in parts]) for name in whole[0]} for step in range(len(whole))]
    assert_equal(whole, joined)


@pytest.mark.parametrize(
    "row_groups",
    [((1200,),), ((1, 2, 3, 5, 8, 13, 400), (700,)), tuple((40,) for _ in range(40)), ((0,), (1193, 7))],
    ids=["one group for six streams", "unequal", "many files", "an empty file"],
)
def test_unequal_row_groups_give_every_worker_the_same_steps(tmp_path: Path, row_groups: tuple[tuple[int, ...], ...]) -> None:
    settings = planted_settings(tmp_path / "root")
    publish(settings, row_groups=row_groups)
    steps = {len(batches_of(settings, rank=rank, size=3)) for rank in range(3)}
    assert steps == {opened(settings).train_rows // 6 // 8}
    ids = torch.cat([batch["sample_id"] for rank in range(3) for batch in batches_of(settings, rank=rank, size=3)])
    assert len(ids) == len(ids.unique())


@pytest.mark.parametrize("source", ["arrow", "petastorm"])
def test_a_resumed_epoch_goes_on_with_the_same_batches(day: Day, source: str) -> None:
    settings, _ = day(trainer={"batches": source})
    whole = batches_of(settings, epoch=1)
    for start in (1, 7, len(whole) - 1):
        assert_equal(whole[start:], batches_of(settings, epoch=1, start=start))
    assert batches_of(settings, epoch=1, start=len(whole)) == []


def test_epochs_and_seeds_change_the_order_and_masks_rotate(day: Day) -> None:
    settings, _ = day(samples={"masks": {"draws": 2}})
    first, second, third = (batches_of(settings, epoch=epoch) for epoch in range(3))
    assert not torch.equal(first[0]["sample_id"], second[0]["sample_id"])
    masks = [
        {int(i): int(m) for batch in epoch for i, m in zip(batch["sample_id"], batch["uh_b"], strict=True)}
        for epoch in (first, second, third)
    ]
    common = set(masks[0]) & set(masks[1]) & set(masks[2])
    assert all(masks[0][i] == masks[2][i] for i in common)  # epoch e uses draw e mod 2
    assert any(masks[0][i] != masks[1][i] for i in common)
    other = settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"seed": 2})})
    assert not torch.equal(first[0]["sample_id"], batches_of(other)[0]["sample_id"])


def test_item_counts_are_train_clicks(day: Day) -> None:
    settings, made = day()
    want = np.zeros(81, dtype=np.int64)
    for clicks in made.clicks:
        np.add.at(want, clicks[: len(clicks) - made.num_valid], 1)
    assert opened(settings).item_counts.tolist() == want.tolist()


# ---- faults ----------------------------------------------------------------------------------------------------------


def damage(settings: Settings, change: Callable[[Path], None]) -> Path:
    """Change the second samples file after the survey has seen it whole."""
    store = Store.of(settings)
    file = Path(store.files_of(store.manifest("samples", DS, settings))[1])
    change(file)
    return file


def zero_data_pages(file: Path) -> None:
    body = bytearray(file.read_bytes())
    footer = int.from_bytes(body[-8:-4], "little") + 8
    body[4 : len(body) - footer] = bytes(len(body) - footer - 4)
    file.write_bytes(body)


def rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda file: pq.write_table(change(pq.ParquetFile(file).read()), file)


def longer_history(table: pa.Table) -> pa.Table:
    column = pa.array([[*row, 0] for row in table["hist"].to_pylist()], pa.list_(pa.int32()))
    return table.set_column(table.column_names.index("hist"), "hist", column)


def with_nulls(table: pa.Table, name: str) -> pa.Table:
    """Every tenth value is null."""
    values = [None if i % 10 == 0 else value for i, value in enumerate(table[name].to_pylist())]
    column = pa.array(values, table.schema.field(name).type)
    return table.set_column(table.column_names.index(name), pa.field(name, column.type), column)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("source", ["arrow", "petastorm"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (zero_data_pages, "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "cannot be read"),
        (Path.unlink, "cannot be read"),
        (rewrite(longer_history), "want 5"),
        (rewrite(lambda table: table.drop_columns(["item_idx"])), "'item_idx' is missing"),
        (rewrite(lambda table: table.slice(3)), "its manifest says"),
    ],
    ids=["data pages", "cut off", "gone", "other history", "column missing", "fewer rows"],
)
def test_a_damaged_file_is_named(day: Day, source: str, change: Callable[[Path], None], words: str) -> None:
    settings, _ = day(trainer={"batches": source})
    batches = Batches(opened(settings), settings, users_of(settings), rank=0, size=1)
    file = damage(settings, change)
    with batches.epoch(0) as prefetched, pytest.raises(BadDataError, match=words) as caught:
        list(prefetched)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, WorkerThread)]  # nor those of the other streams
    assert caught.value.where == str(file)
    assert caught.value.exit_code == 6


def test_the_survey_names_damaged_files_and_unknown_items(day: Day) -> None:
    settings, _ = day()
    with pytest.raises(BadDataError, match="outside the catalogue"):
        opened(settings, num_items=10)
    file = damage(settings, zero_data_pages)
    with pytest.raises(BadDataError, match="cannot be read") as caught:
        opened(settings)
    assert caught.value.where == str(file)


@pytest.mark.parametrize("source", ["arrow", "petastorm"])
@pytest.mark.parametrize("column", ["weight", "user_idx"])
def test_nulls_are_refused(day: Day, source: str, column: str) -> None:
    settings, _ = day(trainer={"batches": source})
    batches = Batches(opened(settings), settings, users_of(settings), rank=0, size=1)
    damage(settings, rewrite(lambda table: with_nulls(table, column)))
    with batches.epoch(0) as prefetched, pytest.raises(BadDataError, match=f"'{column}' has nulls"):
        list(prefetched)


class _Runs:
    """Code that a pickled schema would run when it is opened."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.proof), "w")


def test_a_pickled_schema_is_refused_and_never_opened(tmp_path: Path) -> None:
    file, proof = tmp_path / "a.parquet", tmp_path / "ran"
    table = pa.table({"x": [1, 2]})
    pq.write_table(table, file)
    refuse_pickled_schema([str(file)])
    key = b"dataset-toolkit.unischema.v1"
    crafted = table.schema.with_metadata({key: pickle.dumps(_Runs(proof))})
    pq.write_metadata(crafted, tmp_path / "_common_metadata")
    with pytest.raises(BadDataError, match="pickled schema"):
        refuse_pickled_schema([str(file)])
    (tmp_path / "_common_metadata").write_bytes(b"not parquet")
    with pytest.raises(BadDataError, match="pickled schema"):
        refuse_pickled_schema([str(file)])
    pq.write_metadata(crafted, tmp_path / "_common_metadata")
    groups = [RowGroup(str(file), 0, 0, 2, 2)]
    with pytest.raises(BadDataError):  # 'x' is no sample; what counts is that reading by file never touches the schema
        list(read_petastorm(groups, ["x", "sample_id", "hist"], 5))
    assert not proof.exists()


def test_folder_names_that_would_break_a_url(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path / "a#b %20 c", trainer={"batches": "petastorm"})
    publish(settings, world(users=12))
    assert len(batches_of(settings)) == opened(settings).train_rows // 6 // 8
