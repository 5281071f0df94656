"""Training steps of every encoder and objective beside torch-rechub's and RecBole's DSSM, on the same random clicks, in one run.

    make bench-train [REPEATS=5] [ROWS=1000000] [BATCH=1024,4096]

A step is ours as it ships: batch, encodings, losses, backward, gradients synchronised, optimiser; tables of ROWS users and items of width
64, histories of 20, row-wise Adagrad. Samples are drawn before, by Zipf's law. The peers are the DSSM of torch-rechub and of RecBole,
trained by their own recipe: pointwise, one positive and one negative a click, dense Adam (a step of theirs counts its clicks, not both
rows). RecBole has no history in a tower; here it is a field of the user with many values, with a table of its own. Every contender is a
process of its own, with one thread, the same allocator settings, and memory warm after three steps; repeats are interleaved. `limit` is
what the matrix products of a step would take at the speed of a large one on this machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
DIM, HISTORY, HIDDEN = 64, 20, [256, 128]
MIC = {"mic": {}}
ITEMS_ALONE = {"fea": 1.0, "sem": 0, "sess": 0}
RELATED = 10  # items that go with an item, of its sessions as well as by content
# name -> (encoder, base, objectives)
SOFTMAX = {"loss": "sampled_softmax", "negatives": "in_batch", "temperature": 0.1}
OTHERS = ("youtube_dnn", "comirec_sa", "comirec_dr", "ican", "autoint", "deepfm", "fm", "sasrec")
OURS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dssm": ("dssm", SOFTMAX, {}),
    "dssm logistic": ("dssm", {"loss": "logistic", "num_negatives": 4}, {}),
    "dssm + mic": ("dssm", SOFTMAX, MIC),
    "dssm + micrec fea": ("dssm", SOFTMAX, {"micrec": ITEMS_ALONE}),
    "dssm + micrec": ("dssm", SOFTMAX, {"micrec": {}}),
    "dssm + masked views": ("dssm", SOFTMAX, {"masked_views": {}}),
    **{name: (name, SOFTMAX, {}) for name in OTHERS},
    **{f"{name} + mic": (name, SOFTMAX, MIC) for name in OTHERS},
    "ican + micrec": ("ican", SOFTMAX, {"micrec": {}}),
}
PEER, RECBOLE = "torch-rechub dssm", "recbole dssm"
RECBOLE_AT = ROOT / ".venv" / "recbole"  # a folder of its own: it pins versions that ours exclude


# ---- one contender, in a process of its own ------------------------------------------------------------------------


def clicks(rows: int, batch: int, num: int = 8) -> list[dict[str, np.ndarray]]:
    """Batches of users, items, histories."""
    rng = np.random.default_rng(1)

    def zipf(shape: Sequence[int]) -> np.ndarray:
        return np.minimum((rows ** rng.random(shape)).astype(np.int64), rows)  # density 1 / x: Zipf's law with exponent 1

    return [{"user_idx": rng.integers(1, rows + 1, batch), "item_idx": zipf((batch,)), "hist": zipf((batch, HISTORY))} for _ in range(num)]


def ours(name: str, rows: int, batch: int) -> Callable[[], None]:
    """What one step of ours is."""
    import torch

    from conf.masks import masking_of
    from conf.settings import Settings
    from trainer.backends.single import SingleBackend
    from trainer.catalogue import Catalogue
    from trainer.encoders import build_encoder
    from trainer.objectives import Step, build_objectives
    from trainer.optimizers import Optimizers
    from trainer.related import Related

    encoder_name, base, objectives = OURS[name]
    given = Settings.model_validate(
        {
            "source": {
                "kind": "generic",
                "path": "clicks.csv",
                "items": {"path": "items.parquet", "format": "parquet", "key": "item", "vector": "v"},
            },
            "model": {"encoder": encoder_name, "dim": DIM, "hidden": HIDDEN, "history": HISTORY, "fm": {"sum_only": bool(objectives)}},
            "semantics": {"kind": "vectors"},
            "base": base,
            "objectives": objectives,
            "trainer": {"optimizer": {"tables": "rowwise_adagrad"}},
        }
    )
    ids = torch.arange(rows + 1, dtype=torch.int32)
    first = torch.clamp(torch.arange(-1, rows + 1), min=0) * RELATED
    others = torch.randint(1, rows + 1, (rows, RELATED), generator=torch.Generator().manual_seed(3)).sort(dim=1).values
    related = Related(first, others.flatten().to(torch.int32))
    weighted = replace(related, up_to=torch.arange(1, RELATED + 1).div(RELATED).repeat(rows))
    kinds = {"cooc": weighted, "sem_nn": related} if objectives.get("micrec") == {} else {}
    catalogue = Catalogue(num=rows, single={"item_id": torch.where(ids > 0, ids + 3, 0)}, multi={}, related=kinds)
    encoder = build_encoder(given, given.registry(), catalogue, {"user_id": rows + 4, "item_id": rows + 4})
    criterion = build_objectives(given, encoder)
    optimizers, backend, masking = Optimizers(given, encoder, criterion), SingleBackend(), masking_of(given, {})
    counts = torch.bincount(torch.from_numpy(np.concatenate([b["item_idx"] for b in clicks(rows, batch)])), minlength=rows + 1)
    row = torch.arange(batch)
    batches = []
    for drawn in clicks(rows, batch):
        made = {key: torch.from_numpy(values) for key, values in drawn.items()}
        made |= {"row": row, "sample_id": row, "hist_len": torch.full_like(row, HISTORY), "user.user_id": made["user_idx"] + 3}
        made |= {"weight": torch.ones(batch), "draw": torch.zeros_like(row)}
        batches.append(made | {"um_b": torch.zeros_like(row), "uh_b": row * 7919 % 2**HISTORY, "vm_b": torch.zeros_like(row)})
    numbers = iter(range(10**9))
    source = cycle(batches)

    def step() -> None:
        optimizers.zero_grad()
        rows_now = next(source)
        taken = Step(encoder, rows_now, backend, given, catalogue, 1, next(numbers), counts, masking)
        criterion(taken)[0].backward()
        backend.sync_gradients(optimizers.parameters)
        optimizers.step()

    encoder.train()
    return step


def pointwise(rows: int, batch: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Endless (columns, label): each click, then each again with an item drawn in place of the clicked one."""
    import torch

    rng, batches = np.random.default_rng(2), []
    for drawn in clicks(rows, batch):
        twice = {key: torch.from_numpy(np.concatenate([values, values])) for key, values in drawn.items()}
        twice["item_idx"][batch:] = torch.from_numpy(rng.integers(1, rows + 1, batch))
        batches.append((twice, torch.cat([torch.ones(batch), torch.zeros(batch)])))
    return cycle(batches)


def rechub(rows: int, batch: int) -> Callable[[], None]:
    """What one step of torch-rechub's DSSM is: its own model and loss, as its MatchTrainer steps."""
    import torch
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.matching import DSSM

    users = [
        SparseFeature("user_idx", vocab_size=rows + 1, embed_dim=DIM),
        SequenceFeature("hist", vocab_size=rows + 1, embed_dim=DIM, pooling="mean", shared_with="item_idx"),
    ]
    items = [SparseFeature("item_idx", vocab_size=rows + 1, embed_dim=DIM)]
    tower = {"dims": [*HIDDEN, DIM], "activation": "prelu"}
    model = DSSM(users, items, user_params=tower, item_params=tower)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    source, loss = pointwise(rows, batch), torch.nn.BCELoss()

    def step() -> None:
        given, label = next(source)
        model.zero_grad()
        loss(model(given), label).backward()
        optimizer.step()

    return step


def recbole(rows: int, batch: int) -> Callable[[], None]:
    """What one step of RecBole's DSSM is: its own model and loss, as its Trainer steps."""
    import torch

    np.long = np.int64  # RecBole 1.2.1 takes it from numpy, which had none from 1.24 to 1.26
    sys.path.append(str(RECBOLE_AT))
    from recbole.data.interaction import Interaction
    from recbole.model.context_aware_recommender.dssm import DSSM
    from recbole.utils import FeatureSource, FeatureType

    users, items = ["user_idx", "hist"], ["item_idx"]

    kinds = {"user_idx": FeatureType.TOKEN, "hist": FeatureType.TOKEN_SEQ, "item_idx": FeatureType.TOKEN}

    class Fields:
        """What the model asks a data set."""

        field2type = kinds

        def fields(self, source: Sequence[Any]) -> list[str]:
            """Names of the fields of users, of items, or of both."""
            return (users if FeatureSource.USER in source else []) + (items if FeatureSource.ITEM in source else [])

        def num(self, field: str) -> int:
            """Rows of a field's table."""
            return rows + 1

    given = {"LABEL_FIELD": "label", "embedding_size": DIM, "device": torch.device("cpu"), "double_tower": True, "numerical_features": []}
    model = DSSM(given | {"mlp_hidden_size": [*HIDDEN, DIM], "dropout_prob": 0.0}, Fields())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    source = (Interaction(columns | {"label": label}) for columns, label in pointwise(rows, batch))

    def step() -> None:
        optimizer.zero_grad()
        model.calculate_loss(next(source)).backward()
        optimizer.step()

    return step


PEERS = {PEER: rechub, RECBOLE: recbole}


def serve(name: str, rows: int, batch: int) -> None:
    """Take as many steps as each line of stdin says; print the seconds they took."""
    import torch

    torch.set_num_threads(1)
    step = PEERS[name](rows, batch) if name in PEERS else ours(name, rows, batch)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - began, flush=True)


# ---- all of them -----------------------------------------------------------------------------------------------------


class Contender:
    """A process that steps when it is told to."""

    def __init__(self, name: str, rows: int, batch: int) -> None:
        self.name, self.batch = name, batch
        command = [sys.executable, __file__, "--serve", name, "--rows", str(rows), "--batch", str(batch)]
        environment = ALLOCATOR | os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.rates: list[float] = []

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # the peer may say something of its own before
            if line.startswith("ready") or line[:1].isdigit():
                return line
        raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}")

    def ready(self) -> None:
        """Wait until it can step."""
        self._answer()

    def go(self, steps: int) -> None:
        """One repeat."""
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        self.rates.append(steps * self.batch / float(self._answer()))

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def groups(names: Sequence[str]) -> Iterator[list[str]]:
    """As many at a time as memory holds, each with the peer and our plain DSSM, so that ratios are taken side by side."""
    first = [PEER, "dssm"]
    others = [name for name in names if name not in first]
    for start in range(0, max(len(others), 1), 5):
        yield [*first, *others[start : start + 5]]


def measure(names: Sequence[str], rows: int, batch: int, repeats: int, steps: int) -> dict[str, Any]:
    """name -> {samples_per_s, to_peer, to_dssm}, medians over repeats of ratios within a repeat."""
    found: dict[str, Any] = {}
    for group in groups(names):
        contenders = [Contender(name, rows, batch) for name in group]
        for contender in contenders:
            contender.ready()
        for _ in range(repeats):
            for contender in contenders:
                contender.go(steps)
        peer, dssm = contenders[0].rates, contenders[1].rates
        for contender in contenders:
            contender.end()
            of_peer = median(rate / other for rate, other in zip(contender.rates, peer, strict=True))
            of_dssm = median(rate / other for rate, other in zip(contender.rates, dssm, strict=True))
            values = {"samples_per_s": round(median(contender.rates)), "to_peer": round(of_peer, 2), "to_dssm": round(of_dssm, 2)}
            found.setdefault(contender.name, values)
    return found


def limit(batch: int) -> float:
    """samples/s of DSSM with in-batch softmax, if only its matrix products counted, at the speed of a large one."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    for _ in range(3):
        a @ b
    began = time.perf_counter()
    for _ in range(10):
        a @ b
    flops = 10 * 2 * 2048 * 1024 * 1024 / (time.perf_counter() - began)
    layers = [(2 * DIM, HIDDEN[0]), (DIM, HIDDEN[0]), *[(HIDDEN[0], HIDDEN[1]), (HIDDEN[1], DIM)] * 2]
    towers = 6 * sum(fan_in * fan_out for fan_in, fan_out in layers)  # forward, and backward by weights and by inputs
    return flops / (towers + 6 * batch * DIM)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=1_000_000, help="users, and items")
    parser.add_argument("--batch", default="1024,4096", help="rows of a batch; several with commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps of a repeat")
    parser.add_argument("--only", default="", metavar="NAMES", help="contenders, with commas (default: all)")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.rows, int(given.batch))
        return
    names = [name.strip() for name in given.only.split(",")] if given.only else [RECBOLE, *OURS]
    out = ROOT / "bench" / "results" / "train.json"
    before = json.loads(out.read_text()) if given.only and out.exists() else {}
    report: dict[str, Any] = {**before, "rows": given.rows, "steps": given.steps, "repeats": given.repeats}
    for batch in map(int, given.batch.split(",")):
        found = measure(names, given.rows, batch, given.repeats, given.steps)
        most = limit(batch)
        report[f"batch {batch}"] = {"limit": round(most), **found, **before.get(f"batch {batch}", {}), **{n: found[n] for n in names}}
        print(f"\nbatch {batch}: dssm could reach {most:,.0f} samples/s by its matrix products")
        print(f"{'':24} {'samples/s':>10} {'to peer':>8} {'to dssm':>8}")
        for name, values in found.items():
            print(f"{name:24} {values['samples_per_s']:>10,} {values['to_peer']:>8} {values['to_dssm']:>8}")
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
