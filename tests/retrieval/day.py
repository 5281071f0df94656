"""The tables that retrieval reads, published as the jobs before it would, with a real model file of untrained towers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from conf.files import hash_file, open_root
from conf.settings import Settings
from conf.storage import FileEntry, Store
from conf.tables import CONTEXT, TEST, TRAIN, VALID, resolve
from tests.trainer.planted import DS, write
from trainer import export
from trainer.catalogue import Catalogue
from trainer.deferred import deferred_init, materialize_module
from trainer.encoders import build_encoder
from trainer.projection import JOINT, joint_space

FIELDS = {"user": {"gender": "single", "likes": "multi"}, "item": {"category": "single", "tags": "multi"}}
NUM_USERS, NUM_ITEMS = 40, 60
NOT_ELIGIBLE, NOTHING_KNOWN = 7, 9
NO_HISTORY, HELD_OUT = (3, 11), (5, 17, 29)


def day_settings(root, **sections):
    values = {
        "storage": {"root": str(root)},
        "source": {"fields": FIELDS},
        "split": {"kind": "last_k"},
        "model": {"dim": 16, "hidden": [32], "history": 5},
        "index": {"recall_queries": 30},
        "channels": {"top": 12, "u2u2i": {"neighbours": 6, "profile": 8}, "i2i": {"neighbours": 6, "history": 10}},
        "merge": {"top": 15},
        "evaluation": {"at": [5, 12]},
    }
    for section, given in sections.items():
        values[section] = values.get(section, {}) | given
    return Settings.model_validate(values)


@dataclass(frozen=True)
class Day:
    """What was published. histories: user_idx -> items, oldest first. facts: of the raw data."""

    settings: Settings
    store: Store
    histories: dict[int, list[int]]

    @property
    def train(self):
        return {user: items for user, items in self.histories.items() if items and user not in HELD_OUT}


def publish_day(root, *, facts=None, seed=0, **sections):
    """Publish everything up to the model. Users 3 and 11 have no history; 5, 17 and 29 are held out and have context only; item 7 is not
    eligible; of item 9 nothing is known; user keys are 1000 + idx, item keys 5000 + idx."""
    settings = day_settings(root, **sections)
    store, rng = Store.of(settings), np.random.default_rng(seed)
    users = range(1, NUM_USERS + 1)
    histories = {u: [] if u in NO_HISTORY else rng.integers(1, NUM_ITEMS + 1, rng.integers(1, 25)).tolist() for u in users}
    state = [
        {"user_idx": u, "items": items, "ts": list(range(len(items))), "num_train": 0 if u in HELD_OUT else len(items)}
        for u, items in histories.items()
    ]
    cooc = [
        {"item_i": i, "item_j": int(j), "count": 2, "same_category": False, "weight": float(rng.integers(1, 5))}
        for i in range(1, NUM_ITEMS + 1)
        for j in np.sort(rng.choice(NUM_ITEMS, 5, replace=False) + 1)
        if i != j
    ]
    user_feat = [{"idx": u, "user_id": 2 if u % 4 == 0 else 3 + u, "gender": 4 + u % 2, "likes": [4 + u % 3] * (u % 2)} for u in users]
    item_feat = [
        {"idx": i, "eligible": i != NOT_ELIGIBLE, "item_id": 3 + i, "category": 4 + i % 4, "tags": [4, 5][: i % 3]}
        for i in range(1, NUM_ITEMS + 1)
    ]
    item_feat[NOTHING_KNOWN - 1] |= {"item_id": 2, "category": 2, "tags": [2]}
    index = {"user": (1000, NUM_USERS), "item": (5000, NUM_ITEMS)}
    tables = {
        "vocabulary": {"user_feat": user_feat, "item_feat": item_feat}
        | {
            f"{side}_index": [{"key": str(base + i), "idx": i, "added_ds": DS} for i in range(1, num + 1)]
            for side, (base, num) in index.items()
        },
        "events": {"user_state": state, "events": events_of(histories)},
        "cooccurrence": {"cooc": cooc},
    }
    for job, by_name in tables.items():
        with store.publication(job, DS, "tables", settings) as publication:
            for name, rows in by_name.items():
                write(
                    publication, resolve(name, settings.registry(), settings.shape()), rows, ((len(rows) // 3,), (len(rows),)), facts or {}
                )
            publication.commit()
    publish_model(store, settings, facts or {})
    return Day(settings, store, histories)


def events_of(histories):
    """The histories as train (held-out users: context) events; after them one valid and one test event of most users."""
    rng, rows = np.random.default_rng(7), []
    for user, items in histories.items():
        splits = [CONTEXT if user in HELD_OUT else TRAIN] * len(items)
        if user % 5:
            items, splits = [*items, *rng.integers(1, NUM_ITEMS + 1, 2).tolist()], [*splits, VALID, TEST]
        rows += [
            {"user_idx": user, "item_idx": item, "ts": ts, "seq": ts, "split": split, "weight": 1.0}
            for ts, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    return rows


def publish_model(store, settings, facts, run_id="model"):
    item_feat = pq.read_table(store.files_of(store.manifest("item_feat", DS, settings)))
    sizes = {"user_id": 4 + NUM_USERS, "gender": 6, "likes": 7, "item_id": 4 + NUM_ITEMS, "category": 8, "tags": 6}
    encoder = build_encoder(settings, settings.registry(), Catalogue.from_arrow(item_feat, settings.registry()), sizes)
    with store.publication("train", DS, run_id, settings) as publication:
        folder = publication.folder("model")
        content = export.model_content(
            encoder.state_dict() | joint_weights(settings), encoder, settings, vocab_sizes=sizes, vocabularies={}
        )
        torch.save(content, f"{folder}/model.pt")
        with open(f"{folder}/metrics.jsonl", "w", encoding="utf-8") as stream:
            stream.write("{}\n")
        files = []
        for name in ("model.pt", "metrics.jsonl"):
            size, sha256 = hash_file(store.fs, f"{folder}/{name}")
            files.append(FileEntry(name, 0, size, sha256))
        publication.seal("model", files, rows=0, content_hash=f"0:{content['model_id']}", facts=facts)
        publication.commit()


def joint_weights(settings):
    """Untrained ways into the joint space, where the settings have one."""
    if not settings.objectives.has_joint_space:
        return {}
    space = deferred_init(joint_space, settings.objectives.mic.projection, settings.model.dim)
    materialize_module(space, seed=6)
    return {f"{JOINT}{name}": weight for name, weight in space.state_dict().items()}


def table(day, name):
    """The published rows as dicts."""
    manifest = day.store.manifest(name, DS, day.settings)
    filesystem, _ = open_root(day.settings.storage.root)
    return [row for file in day.store.files_of(manifest) for row in pq.read_table(file, filesystem=filesystem).to_pylist()]


def manifest(day, name):
    return day.store.manifest(name, DS, day.settings)


def flip_a_bit(path):
    """Damage a file without changing its size: only a checksum can tell."""
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
