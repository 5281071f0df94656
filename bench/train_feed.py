"""Training as a job runs it, fed by Arrow and by Petastorm, with one worker and with two: samples a second of an epoch.

    make bench-feed [REPEATS=3] [BATCH=1024]

The demo's data, of 4,000 users, up to its samples, made once; then `trichannel train` for two epochs in each way, ways interleaved
over repeats. The rate is what the trainer itself logs of its second epoch: reading, stepping and talking between workers, without start
and validation. One thread a worker, as the demo sets it: one worker leaves the other core to its reader.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# name -> settings
WAYS = {
    "arrow, one worker": {"trainer.batches": "arrow", "trainer.launcher": "single", "trainer.workers": "1"},
    "petastorm, one worker": {"trainer.batches": "petastorm", "trainer.launcher": "single", "trainer.workers": "1"},
    "arrow, two workers": {"trainer.batches": "arrow", "trainer.launcher": "horovod", "trainer.workers": "2"},
    "petastorm, two workers": {"trainer.batches": "petastorm", "trainer.launcher": "horovod", "trainer.workers": "2"},
}
MODELS = {"dssm": {"objectives.mic.weight": "0", "base.weight": "1"}, "dssm + mic": {"objectives.mic.weight": "0.3"}}

SMALL = ("--set", "source.synthetic.users=4000", "--set", "source.synthetic.clicks=204000")


def trichannel(*words: str) -> str:
    """What it logs; ends this program where it fails."""
    done = subprocess.run([sys.executable, "-m", "spark_jobs.cli", *words, "--config", "demo"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def rate(root: str, settings: dict[str, str]) -> float:
    """samples/s of the last epoch."""
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    said = trichannel("train", "--force", "--log-format", "json", *SMALL, "--set", f"storage.root={root}", *words)
    lines = [json.loads(line[line.index("{") :]) for line in said.splitlines() if '{"time"' in line]  # horovodrun writes the rank before
    return float([line for line in lines if line.get("event") == "epoch"][-1]["samples_per_s"])


def main() -> None:
    """Measure, print, keep in bench/results/feed.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--root", default="data/bench-feed", help="where its tables go")
    given = parser.parse_args()
    trichannel("run", "--until", "samples", *SMALL, "--set", f"storage.root={given.root}")
    common = {"trainer.epochs": "2", "trainer.patience": "2", "trainer.batch": str(given.batch)}
    rates: dict[str, dict[str, list[float]]] = {model: {way: [] for way in WAYS} for model in MODELS}
    for _ in range(given.repeats):
        for model, of_model in MODELS.items():
            for way, of_way in WAYS.items():
                rates[model][way].append(rate(given.root, common | of_model | of_way))
    report: dict[str, Any] = {"batch": given.batch, "repeats": given.repeats, "samples_per_s": rates}
    first = next(iter(WAYS))
    for model, found in rates.items():
        print(f"\n{f'{model}, batch {given.batch}':40} samples/s  to {first}")
        for way, values in found.items():
            ratio = median(value / other for value, other in zip(values, found[first], strict=True))
            print(f"{way:40} {median(values):>9,.0f} {ratio:>6.2f}")
    out = ROOT / "bench" / "results" / "feed.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
