"""The encoders by name. A new one is a file here and a line in ENCODERS; the suite in tests/contracts then tests it."""

from collections.abc import Callable, Mapping

from conf.fields import Registry
from conf.settings import Settings
from trainer.backends.backend import Backend
from trainer.catalogue import Catalogue
from trainer.deferred import deferred_init, materialize_module
from trainer.encoders.autoint import AutoInt
from trainer.encoders.comirec import ComiRecDR, ComiRecSA
from trainer.encoders.deepfm import DeepFM
from trainer.encoders.dssm import DSSM
from trainer.encoders.encoder import Batch, Encoder
from trainer.encoders.fm import FM
from trainer.encoders.ican import ICAN
from trainer.encoders.sasrec import SASRec
from trainer.encoders.sharded import shard_tables
from trainer.encoders.youtube_dnn import YoutubeDNN

ENCODERS: dict[str, Callable[[Settings, Registry, Catalogue, Mapping[str, int]], Encoder]] = {
    "dssm": DSSM,
    "youtube_dnn": YoutubeDNN,
    "comirec_sa": ComiRecSA,
    "comirec_dr": ComiRecDR,
    "ican": ICAN,
    "autoint": AutoInt,
    "deepfm": DeepFM,
    "fm": FM,
    "sasrec": SASRec,
}


def build_encoder(
    settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int], backend: Backend | None = None
) -> Encoder:
    """The encoder of settings.model.encoder with fresh weights, the same for the same settings.trainer.seed.

    Args:
        vocab_sizes: field -> rows of its embedding table, 4 + rows of vocab_<field>.
        backend: of the workers that the tables of settings.trainer.sharded_tables are divided over; None = none is divided.

    Raises:
        ValueError: unknown encoder.
    """
    name = settings.model.encoder
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(sorted(ENCODERS))}")
    encoder = deferred_init(ENCODERS[name], settings, registry, catalogue, vocab_sizes)
    if backend is not None:
        shard_tables(encoder, settings.trainer.sharded_tables, backend)
    materialize_module(encoder, seed=settings.trainer.seed)
    return encoder


__all__ = ["ENCODERS", "Batch", "Encoder", "build_encoder"]
