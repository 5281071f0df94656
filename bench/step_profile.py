"""Where the time of a training step goes: a picture, docs/step_profile.svg, and the numbers, bench/results/step_profile.json.

    make bench-profile [ROWS=1000000] [BATCH=4096]

The steps are those of train_steps.py, on one thread with a warm allocator, under torch's profiler: self time of each operator, put
together by kind. What the clock shows beyond the operators is Python.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, and started anew by itself

from bench.train_steps import ALLOCATOR, ours  # noqa: E402

NAMES = ("dssm", "dssm + mic", "dssm + micrec fea", "comirec_sa")
WARM, STEPS = 3, 10
# kind -> how the names of its operators begin, after "aten::"; the first that fits
KINDS = {
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "_scaled_dot", "matmul", "linear"),
    "rows of tables": ("index", "embedding", "_embedding", "gather", "scatter", "_index_put", "_sparse", "coalesce", "_coalesce"),
    "sort, unique, draws": ("sort", "unique", "_unique", "searchsorted", "topk", "isin", "bincount", "nonzero", "rand", "uniform"),
    "softmax, norms, sums": ("softmax", "_softmax", "_log_softmax", "log", "exp", "sum", "mean", "amax", "max", "linalg", "rsqrt"),
    "dense optimiser": ("_fused",),
    "copies": ("copy", "cat", "zero", "fill", "clone", "empty", "select", "slice", "_to_copy", "stack", "ones", "full"),
}
OTHERS, PYTHON = "other element-wise", "Python"
COLOURS = ("#0b7a75", "#3fb8b0", "#e0a030", "#7a6fb0", "#b04a5a", "#9aa7b3", "#c9d1d9", "#e6e9ed")


def kind_of(operator: str) -> str:
    """The kind of a profiler event by its name."""
    name = operator.removeprefix("aten::").lower()
    return next((kind for kind, begins in KINDS.items() if name.startswith(begins)), OTHERS)


def profile(name: str, rows: int, batch: int) -> dict[str, float]:
    """kind -> milliseconds of a step."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    torch.set_num_threads(1)
    step = ours(name, rows, batch)
    for _ in range(WARM):
        step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    wall = (time.perf_counter() - began) / STEPS * 1e3
    with profiled(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            step()
    found: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        if event.key.startswith("aten::"):
            found[kind_of(event.key)] += event.self_cpu_time_total / STEPS / 1e3
    # the profiler's own cost lies in Python, so the clock is that of the steps without it
    return dict(found) | {PYTHON: max(wall - sum(found.values()), 0.0)}


def draw(found: dict[str, dict[str, float]], batch: int, rows: int, path: Path) -> None:
    """One bar a contender, its parts by kind."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.2))
    left = dict.fromkeys(found, 0.0)
    for colour, kind in zip(COLOURS, [*KINDS, OTHERS, PYTHON], strict=True):
        values = [parts.get(kind, 0.0) for parts in found.values()]
        axes.barh(list(found), values, left=list(left.values()), label=kind, color=colour, height=0.62)
        left = {name: left[name] + value for name, value in zip(found, values, strict=True)}
    for name, total in left.items():
        axes.text(total, name, f"  {total:.0f} ms", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds of a step of {batch:,} clicks, {rows:,} users and items, one thread")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, max(left.values()) * 1.12)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="users, and items")
    parser.add_argument("--batch", type=int, default=4096)
    given = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):  # read by the allocator when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    found = {name: profile(name, given.rows, given.batch) for name in NAMES}
    report: dict[str, Any] = {"rows": given.rows, "batch": given.batch, "ms": found}
    (ROOT / "bench" / "results" / "step_profile.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(found, given.batch, given.rows, ROOT / "docs" / "step_profile.svg")
    for name, parts in found.items():
        listed = ", ".join(f"{kind} {ms:.1f}" for kind, ms in sorted(parts.items(), key=lambda part: -part[1]))
        print(f"{name:20} {sum(parts.values()):7.1f} ms: {listed}")


if __name__ == "__main__":
    main()
