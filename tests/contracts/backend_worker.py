"""What one worker does in the tests, whatever the backend: every case below on its rows of the same global batches.

python backend_worker.py BACKEND OUT.pt     rank 0 writes {case: result}; checkpoints lie beside it

`run` is also called in the test's own process, with the single backend.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf.errors import TrainingError
from tests.contracts.mined_worker import mined
from tests.contracts.sharded_worker import sharded
from tests.trainer import tiny
from trainer.backends import Backend, SparseTable, build_backend
from trainer.diagnostics import gradient_norms, watched
from trainer.optimizers import Optimizers

STEPS = 20


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32


MIC = {"objectives.mic": {"weight": 0.3}}
AUGMENTED = {"views": "augmented", "include_pos": False, "perturb_sides": "item", "logq": True}
BOTH = {"views": "both", "uv": "learned", "vv": "learned", "same_side_projection": "mlp"}
PRINTED = {"views": "literal", "same_side": "literal", "set_similarity": "slots"}
SOFTMAX = {"base.loss": "sampled_softmax", "base.temperature": 0.2}
ROWWISE = {"trainer.optimizer": {"tables": "rowwise_adagrad"}}
SPARSE_ADAM = {"trainer.optimizer": {"tables": "sparse_adam"}}
CLIPPED = {"trainer.optimizer": {"tables": "rowwise_adagrad", "clip": 0.1}}
EVERY = {
    **SOFTMAX,
    "objectives.mic": None,
    "model.encoder": "sasrec",
    "samples.layout": "sequences",
    "trainer.batches": "arrow",
    "trainer.clicks_per_row": 4,
}
CASES: dict[str, Case] = {
    "mic": Case(MIC),
    "mic float64": Case(MIC, torch.float64),
    "mic with dropout": Case({**MIC, "model.dropout": 0.3}, torch.float64),
    "mic, rowwise tables": Case({**MIC, **ROWWISE}, torch.float64),
    "mic, sparse adam": Case({**MIC, **SPARSE_ADAM}, torch.float64),
    "mic, clipped": Case({**MIC, **CLIPPED}, torch.float64),
    "logistic": Case({"objectives.mic": None}, torch.float64),
    "softmax uniform": Case({**SOFTMAX, "objectives.mic": None}, torch.float64),
    "softmax shared": Case({**SOFTMAX, "base.negatives": "shared", "objectives.mic": None, "model.dropout": 0.3}, torch.float64),
    "softmax in_batch": Case({**SOFTMAX, "base.negatives": "in_batch", "objectives.mic": None}, torch.float64),
    "softmax mixed": Case({**SOFTMAX, "base.negatives": "mixed", **MIC}, torch.float64),
    "every position": Case({**EVERY, "base.negatives": "mixed", "model.dropout": 0.3}, torch.float64),
    "every position, uniform": Case({**EVERY, **MIC}, torch.float64),
    "mic augmented": Case({"objectives.mic": AUGMENTED, "model.dropout": 0.3}, torch.float64),
    "mic both, learned": Case({"objectives.mic": BOTH}, torch.float64),
    "mic as printed": Case({"objectives.mic": PRINTED, "model.encoder": "comirec_sa"}, torch.float64),
    "logistic in_batch": Case({"base.negatives": "in_batch", "objectives.mic": None}, torch.float64),
    "micrec": Case({"objectives": {"micrec": {}}, "model.dropout": 0.3}, torch.float64),
    "micrec, few negatives": Case(
        {"objectives": {"micrec": {"items": "unique", "num_negatives": 2, "pool": 5, "field_p": 0.4}}}, torch.float64
    ),
    "micrec of drawn items": Case({"objectives": {"micrec": {"items": "uniform", "fea_input": "tower", "value_p": 0.4}}}, torch.float64),
    "mic and micrec": Case({"objectives": {"mic": {"weight": 0.3}, "micrec": {}}}, torch.float64),
    "masked_views": Case({"objectives": {"masked_views": {"symmetric": True}}, "samples.masks": {"strategy": "rfm"}}, torch.float64),
    "masked_views of the batch": Case({"objectives": {"masked_views": {"items": "unique"}}}, torch.float64),
    "fm, rowwise tables": Case({"model.encoder": "fm", "objectives.mic": None, **SOFTMAX, **ROWWISE}, torch.float64),
    "uu only": Case({"base.weight": 0, "objectives.mic": {"uv": 0, "vv": 0}}, torch.float64),
}
OF_LOSSES = ("mic", "logistic", "softmax mixed", "micrec", "mic and micrec", "masked_views")
CURVES = (*OF_LOSSES, "mic, rowwise tables", "mic, sparse adam", "mic, clipped", "mic, clipped, sharded")
# The same with tables divided over the workers.
DIVIDED = {
    f"{name}, sharded": name
    for name in ("mic float64", "mic, rowwise tables", "mic, clipped", "every position", "micrec", "fm, rowwise tables")
}
FIELDS = ["user_id", "item_id", "category", "tags"]
CASES |= {name: Case({**CASES[whole].settings, "trainer.sharded_tables": FIELDS}, CASES[whole].dtype) for name, whole in DIVIDED.items()}

# Rows of each rank: unequal numbers, not in order; the last of three holds only users and items that earlier rows hold, too, so that
# it has no anchor of its own in uu and vv.
SHARDS = {
    1: [list(range(13))],
    2: [[12, 0, 2, 4, 6, 8, 10, 1], [3, 5, 7, 9, 11]],
    3: [[0, 3, 6, 1, 4, 7, 2, 5, 8, 9], [10, 12], [11]],
}


def first_step(case: Case, backend: Backend) -> dict[str, Any]:
    """Loss, parts and synchronised gradients of one step."""
    given = tiny.settings(case.settings)
    encoder, criterion = tiny.model(given, case.dtype, backend)
    optimizers = Optimizers(given, encoder, criterion)
    whole = tiny.every_position(global_batch()) if given.trainer.clicks_per_row > 1 else global_batch()
    rows = tiny.rows_of(whole, SHARDS[backend.size][backend.rank])
    step = tiny.step(given, encoder, rows, backend)
    total, parts = criterion(step)
    total.backward()
    seen = watched(step)
    backend.sync_gradients(optimizers.parameters)
    named = [*encoder.named_parameters(), *criterion.named_parameters()]
    return {
        "loss": mean(total, backend),
        "parts": {name: mean(value, backend) for name, value in parts.items()},
        "watched": {name: mean(torch.tensor(value, dtype=torch.float64), backend) for name, value in seen.items()},
        "gradients": {name: tiny.whole(parameter, parameter.grad, backend) for name, parameter in named},
    }


def curve(case: Case, backend: Backend) -> Tensor:
    """The loss of 20 steps with the optimiser, 12 rows each, the same number on every rank."""
    given = tiny.settings(case.settings)
    encoder, criterion = tiny.model(given, case.dtype, backend)
    optimizers = Optimizers(given, encoder, criterion)
    losses = []
    for number in range(STEPS):
        mine = list(range(backend.rank, 12, backend.size))
        optimizers.zero_grad()
        total, _ = criterion(tiny.step(given, encoder, tiny.rows_of(tiny.batch(12, seed=number), mine), backend, number))
        total.backward()
        backend.sync_gradients(optimizers.parameters)
        optimizers.clip(gradient_norms(optimizers.parameters, encoder.tables(), backend)["grad_norm"])
        optimizers.step()
        losses.append(mean(total, backend))
    return torch.stack(losses)


def interface(backend: Backend) -> dict[str, Any]:
    """Each method of the backend once, with ranks that differ."""
    rank = backend.rank
    x = torch.full((rank, 2), float(rank + 1), dtype=torch.float64, requires_grad=True)  # rank 0 has no row
    gathered = backend.gather(x)
    weights = torch.arange(1.0, len(gathered) + 1, dtype=torch.float64)[:, None] * (rank + 1)
    (gathered * weights).sum().backward()
    assert x.grad is not None
    module = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(module.weight, float(rank + 5))
    backend.broadcast_(module)
    backend.barrier(timeout_s=30)
    return {
        "gathered": gathered.detach(),
        "gradients": backend.gather_ids(x.grad),
        "sum": backend.sum(torch.tensor(rank + 1.0)),
        "min": backend.agree_min(7 - rank),
        "any": (backend.agree_any(rank == backend.size - 1), backend.agree_any(False)),
        "broadcast": backend.sum(module.weight) / backend.size,
        "none": backend.gather(torch.empty(0, 3)).shape,
        "ids": backend.gather_ids(torch.full((rank, 2), rank)),
        "exchanged": exchanged(backend),
        "lopsided": lopsided(backend),
        "detached": detached(backend),
        "late": late(backend),
    }


def exchanged(backend: Backend) -> list[Any]:
    """What the last rank gets where rank r sends r rows to each rank, whose value is 10 r + the rank they are for; and the numbers."""
    rank, size = backend.rank, backend.size
    mine = torch.arange(size).repeat_interleave(rank)[:, None].expand(-1, 2) + 10 * rank
    rows, counts = backend.exchange(mine, [rank] * size)
    again, _ = backend.exchange(mine.double(), [rank] * size, counts)
    return [backend.gather_ids(rows)[-len(rows) :].tolist(), counts, torch.equal(again, rows.double())]


def detached(backend: Backend) -> Tensor:
    """What each row of each rank gets of a sum over all rows, weighted by rank + 1, when only a rank's own rows have a gradient."""
    rows = tiny.rows_of(global_batch(), SHARDS[backend.size][backend.rank])
    x = torch.ones(len(rows["row"]), 1, requires_grad=True)
    (gathered,) = tiny.step(tiny.settings(), tiny.FreeVectors(), rows, backend).gather([x], exact=False)
    (gathered * (backend.rank + 1)).sum().backward()
    assert x.grad is not None
    return backend.gather_ids(x.grad)


def late(backend: Backend) -> str:
    """What rank 0 hears of a barrier that the last rank comes to too late; afterwards all go on."""
    said = ""
    if backend.rank == backend.size - 1 > 0:
        time.sleep(0.5)
    try:
        backend.barrier(timeout_s=0.1 if backend.rank == 0 else 30)
    except TrainingError as error:
        said = str(error)
    backend.barrier(timeout_s=30)
    return said


def lopsided(backend: Backend) -> list[Tensor]:
    """Synchronised gradients of parameters: only rank 0 has used a dense one, a table and one of another dtype; nobody another table."""
    parameters = [kind(torch.ones(3, 2)) for kind in (torch.nn.Parameter, SparseTable, SparseTable)]
    parameters.append(torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64)))
    if backend.rank == 0:
        parameters[0].sum().backward()
        parameters[3].sum().backward()
        torch.nn.functional.embedding(torch.tensor([2, 2, 1]), parameters[1], sparse=True).sum().backward()
    backend.sync_gradients(parameters)
    return [dense(parameter.grad) for parameter in parameters]


def global_batch() -> dict[str, Tensor]:
    return tiny.batch(13)


def mean(value: Tensor, backend: Backend) -> Tensor:
    return backend.sum(value) / backend.size


def dense(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.to_dense() if gradient.is_sparse else gradient.clone()


def run(backend: Backend, folder: Path) -> dict[str, Any]:
    return {
        "first": {name: first_step(case, backend) for name, case in CASES.items()},
        "curves": {name: curve(CASES[name], backend) for name in CURVES},
        "mined": mined(backend, SHARDS),
        "sharded": sharded(backend, folder),
        "interface": interface(backend),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    backend = build_backend(sys.argv[1])
    result = run(backend, Path(sys.argv[2]).with_suffix(""))
    if backend.rank == 0:
        torch.save(result, sys.argv[2])
