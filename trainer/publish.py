"""The artefact `model`: model.pt and metrics.jsonl, written and committed under the publish protocol."""

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from conf.files import hash_file, storage_faults, write_atomic
from conf.settings import Settings
from conf.storage import FileEntry, Manifest, Publication, Record
from trainer.batches import Samples
from trainer.batches.balance import balance
from trainer.diagnostics import collapsed
from trainer.encoders import Encoder
from trainer.export import model_content
from trainer.fit import Fitted
from trainer.tables import vocab_sizes
from trainer.torch_files import write_torch


def publish_model(
    publication: Publication,
    manifests: Mapping[str, Manifest],
    encoder: Encoder,
    fitted: Fitted,
    settings: Settings,
    counters: Mapping[str, Any],
) -> tuple[Record, str]:
    """Write, seal and commit; return the committed record and the model id.

    The content hash is that of the weights, as in the model id (see export.weights_hash); the facts of the inputs travel on.

    Raises:
        StorageError: the disk is full or not writable. LockedError: the lock was lost; nothing is published.
    """
    filesystem, folder = publication.store.fs, publication.folder("model")
    vocabularies = {name: manifest.identity for name, manifest in manifests.items() if name.startswith("vocab_")}
    sizes = vocab_sizes(manifests, settings)
    content = model_content(fitted.weights, encoder, settings, vocab_sizes=sizes, vocabularies=vocabularies)
    model_id = str(content["model_id"])
    with storage_faults(folder):
        model = write_torch(filesystem, f"{folder}/model.pt", content)
        write_atomic(filesystem, f"{folder}/metrics.jsonl", "".join(f"{line}\n" for line in fitted.progress.lines))
        num_bytes, sha256 = hash_file(filesystem, f"{folder}/metrics.jsonl")
    facts: dict[str, Any] = {name: value for manifest in manifests.values() for name, value in manifest.facts.items()}
    publication.seal(
        "model",
        [FileEntry("model.pt", 0, model.bytes, model.sha256), FileEntry("metrics.jsonl", 0, num_bytes, sha256)],
        rows=0,
        content_hash=f"0:{model_id.rsplit('-', 1)[1]}",
        facts=facts | {"model_id": model_id, "valid_recall": fitted.progress.best_recall},
        counters=counters,
        versions=versions(),
    )
    return publication.commit(), model_id


def counters_of(samples: Samples, fitted: Fitted, settings: Settings, *, workers: int) -> dict[str, Any]:
    """What was read, left out and reached, for the manifest and the report."""
    progress = fitted.progress
    return {
        "train_rows": samples.train_rows,
        "valid_rows": samples.valid_rows,
        "dropped_rows_per_epoch": fitted.dropped,
        "steps_per_epoch": fitted.steps,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        f"recall@{settings.trainer.valid_at}": progress.best_recall,
        "workers": workers,
        "balance": balance(samples.groups, settings.trainer, workers=workers),
        "refit_rows": fitted.refit_rows,
        "collapsed_epochs": sum(bool(line["kind"].endswith("epoch") and collapsed(line)) for line in map(json.loads, progress.lines)),
    }


def versions() -> dict[str, str]:
    """Versions that shaped the model, for its manifest."""
    found = {"python": platform.python_version()}
    for name in ("trichannel", "torch", "petastorm", "horovod", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # horovod is an extra; trichannel may come as a zip
            continue
    return found
