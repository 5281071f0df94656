"""Training on layout sequences is training on layout windows: the same row groups, the same batches, the same validation.

Both are written by the functions that the tasks of the job run, from the same files of events.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conf.draws import shuffle
from conf.errors import BadDataError, UsageError
from conf.files import hash_file
from conf.manifest import FileEntry, Manifest
from conf.masks import masking_of
from conf.settings import Settings
from conf.storage import Store
from conf.tables import TRAIN, VALID, resolve
from spark_jobs.kernels.samples import permutation
from spark_jobs.samples import recipe_of, samples_of
from spark_jobs.task_files import arrow_schema
from spark_jobs.user_blocks import blocks_of
from tests.trainer.test_batches import assert_equal
from trainer.backends import build_backend
from trainer.batches import Batches, Samples, survey
from trainer.batches.arrow import read_group
from trainer.batches.petastorm import read_petastorm
from trainer.encoders.encoder import Batch
from trainer.shared import alone
from trainer.validation import read_queries

DS, ITEMS, GROUP = "2026-01-31", 60, 23
FIELDS = {"user": {"gender": "single"}, "item": {"category": "single", "tags": "multi"}}
PATTERNS = {"user": [1, 2], "item": [3, 6, 5]}


def settings_of(root: Path, **masks: object) -> Settings:
    values = {
        "storage": {"root": str(root)},
        "source": {"fields": FIELDS},
        "model": {"history": 4},
        "samples": {"block": 5, "masks": {"draws": 2, "p_hist": 0.4, **masks}},
        "trainer": {"launcher": "single", "workers": 1, "streams": 4, "batch": 24, "batches": "arrow"},
        "channels": {"seen": "history"},
    }
    return Settings.model_validate(values)


def event_files() -> Iterator[tuple[pa.Table, dict[str, np.ndarray]]]:
    """Two files of users with 1 to 30 clicks, the last ones of some held out; (events, columns of each event's user)."""
    rng = np.random.default_rng(7)
    for users in (range(1, 40, 2), range(2, 40, 2)):
        rows = []
        for user in users:
            num = 1 + user * 7 % 30
            held = 2 * (num > 8)
            stages = [TRAIN] * (num - 2 * held) + [VALID] * held + [2] * held
            rows += [(user, int(rng.integers(1, ITEMS + 1)), 1000 * n, stage, 1 + n / 4) for n, stage in enumerate(stages)]
        kinds = {"user_idx": pa.int32(), "item_idx": pa.int32(), "ts": pa.int64(), "split": pa.int8(), "weight": pa.float32()}
        events = pa.table({n: pa.array(c, k) for (n, k), c in zip(kinds.items(), zip(*rows, strict=True), strict=True)})
        user = events["user_idx"].to_numpy()
        yield events, {"user_id": (user + 3).astype(np.int32), "gender": (4 + user % 2).astype(np.int32)}


def published(settings: Settings, layout: str, run_id: str) -> Manifest:
    """The table in a layout, a file for each split and file of events."""
    settings = Settings.model_validate(settings.model_dump() | {"samples": {**settings.samples.model_dump(), "layout": layout}})
    store, schema = Store.of(settings), arrow_schema(resolve("samples", settings.registry(), settings.shape()))
    recipe = recipe_of(settings, masking_of(settings, PATTERNS), split_kind="last_k")
    facts: dict[str, object] = {"mask_patterns": PATTERNS}
    if layout == "sequences":
        facts["sequences"] = {"history": 4, "group_rows": GROUP}
    entries = []
    with store.publication("samples", DS, run_id, settings) as publication:
        folder = publication.folder("samples")
        for number, split in enumerate((TRAIN, VALID)):
            for place, (events, users) in enumerate(event_files()):
                if layout == "sequences":
                    batches = blocks_of(events, users, schema, split=split, first_target=0, history=4, size=settings.samples.block)
                else:
                    batches = samples_of(events, users, schema, recipe, split=split, group=GROUP)
                path = f"{folder}/part-{publication.attempt}-{number}{place}.parquet"
                with pq.ParquetWriter(path, schema) as writer:
                    for batch in batches:
                        for some in (batch.slice(0, 3), batch.slice(3)) if layout == "sequences" else (batch,):  # several row groups
                            writer.write_batch(some)
                footer = pq.read_metadata(path)
                sizes = tuple(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
                entries.append(FileEntry(path.rsplit("/", 1)[1], footer.num_rows, *hash_file(store.fs, path), sizes))
        rows = sum(entry.rows for entry in entries)
        manifest = publication.seal("samples", entries, rows=rows, content_hash=f"{rows}:{run_id}", facts=facts)
        publication.commit()
    return manifest


def opened(settings: Settings, manifest: Manifest, *, trained: tuple[int, ...] = (TRAIN,)) -> Samples:
    return survey(Store.of(settings), manifest, build_backend("single"), num_items=ITEMS, trained=trained)


def batches_of(samples: Samples, settings: Settings, *, epoch: int = 0, start: int = 0, rank: int = 0, size: int = 1) -> list[Batch]:
    with Batches(samples, settings, None, rank=rank, size=size).epoch(epoch, start=start) as made:
        return list(made)


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., tuple[Settings, Samples, Samples]]:
    """both(strategy="cfm", ...) -> (settings, windows, sequences)."""

    def make(**masks: object) -> tuple[Settings, Samples, Samples]:
        settings = settings_of(tmp_path, **masks)
        windows, sequences = (opened(settings, published(settings, layout, layout)) for layout in ("windows", "sequences"))
        return settings, windows, sequences

    return make


def test_the_row_groups_are_the_same(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    _, windows, sequences = both()
    assert [(g.number, g.index, g.rows, g.train) for g in sequences.groups] == [
        (g.number, g.index, g.rows, g.train) for g in windows.groups
    ]
    assert len(windows.groups) > 10
    assert max(g.rows for g in windows.groups) == GROUP
    assert sequences.valid == windows.valid
    assert sum(windows.valid) > 0
    assert torch.equal(sequences.item_counts, windows.item_counts)
    columns = ("sample_id", "user_idx", "item_idx", "ts", "split", "hist", "hist_len", "weight", "user_id", "gender")
    for cut, stored in zip(sequences.groups, windows.groups, strict=True):
        assert read_group(cut, columns).equals(read_group(stored, columns).combine_chunks())


@pytest.mark.parametrize("masks", [{}, {"strategy": "rfm"}, {"strategy": "cfm"}], ids=["random_p", "rfm", "cfm"])
def test_the_batches_are_the_same(both: Callable[..., tuple[Settings, Samples, Samples]], masks: dict[str, object]) -> None:
    settings, windows, sequences = both(**masks)
    for epoch in (0, 1, 2):
        assert_equal(batches_of(windows, settings, epoch=epoch), batches_of(sequences, settings, epoch=epoch))
    for name in ("um_b", "uh_b", "vm_b"):
        assert any(int(batch[name].max()) > 0 for batch in batches_of(sequences, settings)), name
    assert_equal(batches_of(windows, settings, start=3), batches_of(sequences, settings, start=3))
    for rank in (0, 1):
        assert_equal(batches_of(windows, settings, rank=rank, size=2), batches_of(sequences, settings, rank=rank, size=2))


def test_once_validation_has_chosen_its_rows_are_trained_on_too(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    manifests = [published(settings, layout, layout) for layout in ("windows", "sequences")]
    one, (both, again) = opened(settings, manifests[0]), (opened(settings, made, trained=(TRAIN, VALID)) for made in manifests)
    assert_equal(batches_of(both, settings), batches_of(again, settings))
    assert (both.train_rows, both.valid_rows) == (one.train_rows + one.valid_rows, 0)
    assert torch.equal(both.item_counts, one.item_counts + one.valid_counts)
    assert not both.valid_counts.any()


@pytest.mark.parametrize("strategy", ["random_p", "cfm"])
def test_masks_that_are_not_stored_are_the_same(tmp_path: Path, strategy: str) -> None:
    stored, computed = (settings_of(tmp_path, strategy=strategy, stored=kept) for kept in (True, False))
    with_masks, without = (opened(settings, published(settings, "windows", name)) for settings, name in ((stored, "a"), (computed, "b")))
    columns = pq.read_schema(without.groups[0].file).names
    assert not [name for name in columns if name[:3] in ("um_", "uh_", "vm_")]
    assert "um_b1" in pq.read_schema(with_masks.groups[0].file).names
    for epoch in (0, 1):
        assert_equal(batches_of(with_masks, stored, epoch=epoch), batches_of(without, computed, epoch=epoch))


# ---- rows of several clicks ------------------------------------------------------------------------------------------


def several(settings: Settings, clicks: int, *, trained: tuple[int, ...] = (TRAIN,)) -> tuple[Settings, Samples]:
    """The settings, and the published sequences with rows of up to `clicks` clicks."""
    given = settings.model_dump()
    chosen = {"samples": {"layout": "sequences"}, "model": {"encoder": "sasrec"}, "base": {"loss": "sampled_softmax"}}
    chosen["trainer"] = {"clicks_per_row": clicks, "batch": 4}
    other = Settings.model_validate(given | {name: {**given[name], **values} for name, values in chosen.items()})
    store = Store.of(settings)
    manifest = store.manifest("samples", DS, settings)
    return other, survey(store, manifest, build_backend("single"), num_items=ITEMS, clicks_per_row=clicks, trained=trained)


def clicks_of(samples: Samples) -> list[tuple[int, ...]]:
    """(split, user_idx, position, item_idx, weight) of each click that a row stands for."""
    found = []
    for group in samples.groups:
        table = read_group(group, ("split", "sample_id", "item_idx", "hist", "hist_len", "hist_weight", "weight"))
        for row in table.to_pylist():
            user, position = divmod(row["sample_id"], 2**32)
            found.append((row["split"], user, position, row["item_idx"], row["weight"]))
            for place, (item, weight) in enumerate(zip(row["hist"], row["hist_weight"], strict=True)):
                if weight:
                    found.append((row["split"], user, position - row["hist_len"] + place, item, weight))
    return found


@pytest.mark.parametrize("clicks", [2, 3, 4])
def test_rows_of_several_clicks_hold_each_click_once(both: Callable[..., tuple[Settings, Samples, Samples]], clicks: int) -> None:
    settings, windows, sequences = both()
    _, samples = several(settings, clicks)
    got, want = clicks_of(samples), clicks_of(sequences)
    assert sorted(got) == sorted(want)
    assert samples.train_rows < windows.train_rows * 0.75
    assert torch.equal(samples.item_counts, windows.item_counts)
    assert sum(samples.valid) == sum(windows.valid)  # validation rows stay rows of one click
    for group in samples.groups:
        table = read_group(group, ("split", "hist_weight")).to_pylist()
        assert max(sum(weight > 0 for weight in row["hist_weight"]) for row in table) < clicks
        assert not any(any(row["hist_weight"]) for row in table if row["split"] == VALID)


def test_trained_on_too_validation_clicks_of_a_user_share_a_row(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    settings, _, sequences = both()
    samples = several(settings, 4, trained=(TRAIN, VALID))[1]
    assert sorted(clicks_of(samples)) == sorted(clicks_of(sequences))
    apart = several(settings, 4)[1]
    assert samples.train_rows < apart.train_rows + apart.valid_rows
    assert samples.valid_rows == 0
    rows = [row for group in samples.groups for row in read_group(group, ("split", "hist_weight")).to_pylist()]
    assert any(any(row["hist_weight"]) for row in rows if row["split"] == VALID)


def test_a_row_of_several_clicks_is_that_of_its_last_one(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    settings, _, sequences = both()
    columns = ("sample_id", "user_idx", "item_idx", "ts", "split", "hist", "hist_len", "weight", "user_id", "gender")
    rows = {row["sample_id"]: row for group in sequences.groups for row in read_group(group, columns).to_pylist()}
    for group in several(settings, 3)[1].groups:
        for row in read_group(group, columns).to_pylist():
            assert row == rows[row["sample_id"]]


def test_batches_of_several_clicks_are_the_same_for_any_number_of_workers(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    settings, samples = several(both()[0], 4)
    whole = batches_of(samples, settings, epoch=1)
    parts = [batches_of(samples, settings, epoch=1, rank=rank, size=2) for rank in (0, 1)]
    assert_equal(whole, [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(*parts, strict=True)])
    assert any(batch["hist_weight"].count_nonzero() for batch in whole)
    assert batches_of(samples, settings, epoch=1, start=2)[0]["sample_id"].equal(whole[2]["sample_id"])
    ids = torch.cat([batch["sample_id"] for batch in whole])
    assert len(ids) == len(ids.unique()) > samples.train_rows - settings.trainer.batch - settings.trainer.streams


def test_validation_knows_nothing_of_rows_of_several_clicks(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    given, windows, _ = both()
    settings, samples = several(given, 4)
    stored, cut = read_queries(windows, given, None, [], alone()), read_queries(samples, settings, None, [], alone())
    assert stored is not None and cut is not None  # noqa: PT018
    assert_equal([stored.batch], [cut.batch])
    assert torch.equal(stored.truth, cut.truth)


def test_windows_have_no_rows_of_several_clicks(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    published(settings, "windows", "r1")
    with pytest.raises(UsageError, match=r"set samples\.layout: sequences and run: trichannel samples"):
        several(settings, 3)


def test_validation_is_the_same(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    settings, windows, sequences = both()
    stored, cut = (read_queries(samples, settings, None, [], alone()) for samples in (windows, sequences))
    assert stored is not None and cut is not None and stored.users > 5  # noqa: PT018
    assert_equal([stored.batch], [cut.batch])
    assert torch.equal(stored.truth, cut.truth)


def test_the_order_is_that_of_the_compiled_kernel() -> None:
    for num, seed in ((1, 5), (2, 1), (1000, 7), (1000, 2**31 - 1)):
        assert shuffle(num, seed).tolist() == permutation(num, seed).tolist()


def test_another_history_than_that_of_the_table_is_refused(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    settings, _, sequences = both()
    other = Settings.model_validate(settings.model_dump() | {"model": {**settings.model.model_dump(), "history": 5}})
    with pytest.raises(BadDataError, match="want 5"):
        batches_of(sequences, other)


def test_petastorm_is_told_what_it_cannot_read(both: Callable[..., tuple[Settings, Samples, Samples]]) -> None:
    _, _, sequences = both()
    with pytest.raises(UsageError, match=r"set trainer\.batches: arrow"):
        next(read_petastorm(sequences.groups, ("sample_id", "hist"), 4))


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.ParquetFile(path).read()), path)


def shorter(table: pa.Table) -> pa.Table:
    lists = pa.array([values[:3] for values in table["items"].to_pylist()], pa.list_(pa.int32()))
    return table.set_column(table.column_names.index("items"), "items", lists)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read"),
        (Path.unlink, "cannot be read"),
        (rewritten(lambda table: table.slice(1)), "its manifest says"),
        (rewritten(lambda table: table.drop_columns(["num_targets"])), "missing"),
        (rewritten(lambda table: table.drop_columns(["items"])), "missing"),
        (rewritten(shorter), "lists that its blocks do not fit"),
    ],
    ids=["cut off", "gone", "fewer blocks", "no counts", "no items", "short lists"],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    settings = settings_of(tmp_path)
    manifest = published(settings, "sequences", "r1")
    file = Path(Store.of(settings).files_of(manifest)[1])
    change(file)
    with pytest.raises(BadDataError, match=words) as caught:
        opened(settings, manifest)
    assert caught.value.where == str(file)
