"""Memory of a worker with an embedding table whole, and divided over the workers, on this machine.

    make bench-sharded [ROWS=50000000] [DIM=8] [WORKERS=2]

Each worker is a process of its own under torch.distributed (gloo). It makes one table as a training does, without storage first and then
its weights, and takes three steps of row-wise Adagrad on ids by Zipf's law. Read off the system: resident memory before, its peak while
the weights are made, after the steps. `held` is what the peak adds to what was there before.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH, STEPS = 4096, 3


# ---- one worker, in a process of its own ---------------------------------------------------------------------------


def resident(what: str = "VmRSS") -> float:
    """MB of this process now, or at its peak (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) / 1024


def work(rows: int, dim: int, *, divided: bool) -> None:
    """Make the table and train it; print what memory it took."""
    import torch
    from torch import nn

    from trainer.backends import build_backend
    from trainer.deferred import deferred_init, materialize_module
    from trainer.encoders.layers import Table
    from trainer.encoders.sharded import shard_tables
    from trainer.optimizers import RowwiseAdagrad

    torch.set_num_threads(1)
    backend = build_backend("ddp")
    module = deferred_init(lambda: nn.ModuleDict({"item_id": Table(rows, dim, init=0.05, sparse=True)}))
    if divided:
        shard_tables(module, ["item_id"], backend)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    materialize_module(module, seed=1)
    peak = resident("VmHWM")
    parameters = list(module.parameters())
    optimizer = RowwiseAdagrad(parameters, lr=0.05)
    generator = torch.Generator().manual_seed(backend.rank)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        ids = (float(rows) ** torch.rand(BATCH, generator=generator, dtype=torch.float64)).long().clamp(max=rows - 1)
        module["item_id"](ids).square().sum().backward()
        backend.sync_gradients(parameters)
        optimizer.step()
    found = {"rows": len(parameters[0]), "before": before, "init_peak": peak, "held": peak - before, "trained": resident()}
    told = backend.gather_ids(torch.tensor([list(found.values())]))
    if backend.rank == 0:
        print(json.dumps([{name: round(value) for name, value in zip(found, values, strict=True)} for values in told.tolist()]))


# ---- all of them -----------------------------------------------------------------------------------------------------


def measure(rows: int, dim: int, workers: int, kind: str) -> list[dict[str, Any]]:
    """What each worker took, in MB."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(workers), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--work", kind, "--rows", str(rows), "--dim", str(dim)]
    begun = [subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True) for rank in range(workers)]
    said = [process.communicate()[0] for process in begun]
    if any(process.returncode for process in begun):
        raise SystemExit(f"a worker of {kind} failed")
    found: list[dict[str, Any]] = json.loads(said[0])
    return found


def main() -> None:
    """Measure both kinds, print them, keep them in bench/results/sharded.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", choices=("whole", "divided"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.rows, given.dim, divided=given.work == "divided")
        return
    table = given.rows * given.dim * 4 / 2**20
    report: dict[str, Any] = {"rows": given.rows, "dim": given.dim, "workers": given.workers, "table_mb": round(table)}
    print(f"a table of {given.rows:,} x {given.dim}, {table:,.0f} MB, {given.workers} workers; MB of one worker")
    print(f"{'':8} {'before':>8} {'init peak':>10} {'held':>8} {'trained':>8}")
    for kind in ("whole", "divided"):
        report[kind] = measure(given.rows, given.dim, given.workers, kind)
        for values in report[kind]:
            print(f"{kind:8} {values['before']:>8,} {values['init_peak']:>10,} {values['held']:>8,} {values['trained']:>8,}")
    out = ROOT / "bench" / "results" / "sharded.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
