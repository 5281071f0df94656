"""Our candidates beside strong simple baselines on public data, several trainings each: the first tables of docs/results.md.

    make results DATA=path/to/data [SETS=ml-100k,ml-1m,beauty,few] [SEEDS=3]

DATA holds the folders as published: ml-100k, ml-1m, completejourney, and amazon-beauty with Beauty.txt, one user a line. Each training is
a whole day by `trichannel run` under data/results, with all but the held-out clicks learned from (split.refit); a day that is up to date
is not run again. The baselines of bench/strong_baselines.py read the rows of the first of these days. In the set "shuffled" lines of the
log stand in a random order, and with them ratings of one second, which in the log may tell in which order the site listed films. The sets
"few" (2,100 users of Amazon Beauty) and "journey" show what holds where items have few clicks: by the settings that `trichannel init`
drafts for them.
"""

import argparse
import json
import random
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from implicit.utils import ParameterWarning
from strong_baselines import METHODS, SHOWN, measure, published, read_day

from conf.command import Request, add_arguments, request
from spark_jobs.grid import seconds_taken
from spark_jobs.grid_files import between
from spark_jobs.init import init

ROOT = Path("data/results")
AT = 50
RECIPE = ("split.refit=true", "evaluation.baselines=[most_pop]", "evaluation.max_clicks=0")
SEARCH = ("embed", "index", "neighbours", "candidates")
CHANNELS = {"u2i": "U2I", "merged": "merged, all channels", "u2u2i": "U2U2I", "i2i": "I2I", "itemcf": "ItemCF, sessions"}
NUMBERS = (*SHOWN, "coverage")
SKETCH = {"ml-100k": 0.458, "ml-1m": 0.476, "beauty": 0.194}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """title: for people. path: of its files under DATA. given: settings of the log beyond the recipe's own. made: what is read in place
    of these files, from them and a folder for it. drafted: by settings of `trichannel init`, else by sequential.yaml."""

    title: str
    path: str
    given: tuple[str, ...] = ()
    made: Callable[[Path, Path], Path] | None = None
    drafted: bool = False


def shuffled(folder: Path, target: Path) -> Path:
    """A copy of MovieLens 100k whose ratings stand in a random order, always the same one."""
    for name in ("u.item", "u.user"):
        _write(target / name, (folder / name).read_bytes())
    _write(target / "u.data", b"".join(_drawn(folder / "u.data")))
    return target


def few_users(file: Path, target: Path) -> Path:
    """2,100 users of a log of one user a line, always the same ones."""
    made = target / "sequences.txt"
    _write(made, b"".join(_drawn(file)[:2100]))
    return made


def _write(file: Path, data: bytes) -> None:
    """Not where it is there already: a day is up to date while its files stay as they are."""
    if not file.exists() or file.read_bytes() != data:
        file.write_bytes(data)


def _drawn(file: Path) -> list[bytes]:
    lines = file.read_bytes().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    return lines


SETS = {
    "ml-100k": DataSet("MovieLens 100k", "ml-100k"),
    "shuffled": DataSet("MovieLens 100k, ratings of one second shuffled", "ml-100k", made=shuffled),
    "ml-1m": DataSet("MovieLens 1M", "ml-1m", ("trainer.epochs=12",)),
    "beauty": DataSet(
        "Amazon Beauty",
        "amazon-beauty/Beauty.txt",
        ("source.kind=sequences", "split.k=1", "cooc.category_field=null", "evaluation.max_users=30000"),
    ),
    "few": DataSet("Amazon Beauty, 2,100 users", "amazon-beauty/Beauty.txt", made=few_users, drafted=True),
    "journey": DataSet("Complete Journey", "completejourney", drafted=True),
}


# ---- the days --------------------------------------------------------------------------------------------------------


def options_of(name: str, data: Path, seed: int) -> list[str]:
    """The options that a day of one training is run and read with."""
    chosen, folder = SETS[name], ROOT / name
    path = data / chosen.path
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.made:
        path = chosen.made(path, folder)
    config, source = "sequential", (f"source.path={path}",)
    if chosen.drafted:
        config, source = f"{folder}.yaml", ()
        Path(config).unlink(missing_ok=True)
        init(str(path), config)
    settings = (*RECIPE, *chosen.given, *source, f"storage.root={ROOT}/{name}-{seed}", f"trainer.seed={seed}")
    return ["--config", config, *(word for one in settings for word in ("--set", one))]


def day_of(options: Sequence[str]) -> Request:
    """The day, run where it is not up to date."""
    print(f"\ntrichannel run {shlex.join(options)}", flush=True)
    subprocess.run([sys.executable, "-m", "spark_jobs.cli", "run", *options], check=True)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return request(parser.parse_args(options))


# ---- the numbers -----------------------------------------------------------------------------------------------------


def reached(own: Request) -> dict[str, Row]:
    """Channel -> its numbers and the seconds of training and of retrieval, which is that of all channels; ItemCF is not trained."""
    train, search = seconds_taken(own, ["train"]), seconds_taken(own, SEARCH)
    rows = {str(row["method"]).removeprefix("day: "): row for row in published(own, AT)}
    seconds = {channel: {"fit_s": None if channel == "itemcf" else train, "lists_s": search} for channel in CHANNELS}
    return {channel: {**rows[channel], **seconds[channel]} for channel in CHANNELS if channel in rows}


def over_seeds(days: Sequence[Mapping[str, Row]], channel: str) -> Row:
    """Means over trainings, and their standard deviations as <name>_sd; of one training None."""
    row: dict[str, Any] = {"method": CHANNELS[channel], "seeds": len(days)}
    for name in (*NUMBERS, "fit_s", "lists_s"):
        values = [value for day in days if (value := day[channel][name]) is not None]
        row |= {name: fmean(values) if values else None, f"{name}_sd": stdev(values) if len(values) > 1 else None}
    return row


def table_of(name: str, data: Path, seeds: int) -> list[Row]:
    """The lines of one data set: the simple methods, then our channels."""
    days = [day_of(options_of(name, data, seed)) for seed in range(1, seeds + 1)]
    first = days[0]
    day = read_day(first, "test")
    rows: list[Row] = [measure(method, day, seen=True, num=AT, seed=1) for method in METHODS]
    numbers = [reached(own) for own in days]
    return rows + [over_seeds(numbers, channel) for channel in CHANNELS if channel in numbers[0]]


# ---- in words --------------------------------------------------------------------------------------------------------


def markdown(name: str, rows: Sequence[Row], seeds: int) -> str:
    """The table and whether the goals are met."""
    head = [f"Recall@{AT}", f"HR@{AT}", f"NDCG@{AT}", f"coverage@{AT}", "training s", "retrieval s"]
    lines = [f"### {SETS[name].title}", "", f"| | {' | '.join(head)} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        numbers = [_shown(row, column) for column in NUMBERS] + [_seconds(row[column]) for column in ("fit_s", "lists_s")]
        lines.append(f"| {row['method']} | {' | '.join(numbers)} |")
    own = f"Ours: means of {seeds} trainings, ± their standard deviation." if seeds > 1 else "Ours: one training."
    return "\n".join([*lines, "", own, "", *(f"- {goal}" for goal in goals(name, rows)), ""])


def _shown(row: Row, column: str) -> str:
    spread = row.get(f"{column}_sd")
    return f"{row[column]:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def goals(name: str, rows: Sequence[Row]) -> list[str]:
    """Whether our best beats the simple methods, in a sentence each; what lies within the standard deviation of trainings shows nothing."""
    of = {str(row["method"]): row for row in rows}
    als, merged, u2i = (of[label] for label in ("ALS (64)", CHANNELS["merged"], CHANNELS["u2i"]))
    best = max((row for row in rows if row["method"] in METHODS), key=lambda row: float(row["recall"]))["method"]
    asked = [
        (f"{ours['method']} above {peer}", "recall", ours, of[peer]["recall"])
        for ours, peers in ((merged, ("EASE", "ALS (64)")), (u2i, ("EASE",)))
        for peer in dict.fromkeys((best, *peers))
    ]
    if name in SKETCH:
        asked.append((f"merged above the plain sequence tower ({SKETCH[name]:.3f})", "recall", merged, SKETCH[name]))
    asked += [(f"{ours['method']}: coverage above ALS (64)", "coverage", ours, als["coverage"]) for ours in (u2i, merged)]
    return [f"{what}: {_outcome(ours, column, other)}" for what, column, ours, other in asked]


def _outcome(ours: Row, column: str, other: float) -> str:
    gain = ours[column] - other
    word = "no difference shown" if abs(gain) <= (ours.get(f"{column}_sd") or 0) else "yes" if gain > 0 else "no"
    return f"{word} ({100 * gain / other:+.0f} %)"


# ---- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"), help="Markdown file that takes the tables, between marks")
    parser.add_argument("--json", type=Path, default=Path("bench/results/real_data.json"), help="file that takes the numbers")
    a = parser.parse_args()
    names = a.sets.split(",")
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"--sets: unknown {', '.join(unknown)}; known: {', '.join(SETS)}")
    if missing := sorted({str(a.data / SETS[name].path) for name in names if not (a.data / SETS[name].path).exists()}):
        parser.error(f"--data: not there: {', '.join(missing)}")
    warnings.simplefilter("ignore", ParameterWarning)  # implicit's own weighting hands its fit another sparse format than it wants
    for name in names:
        rows = table_of(name, a.data, a.seeds)
        text = markdown(name, rows, a.seeds)
        print(f"\n{text}", flush=True)
        known = json.loads(a.json.read_text()) if a.json.exists() else {}
        a.json.write_text(json.dumps(known | {name: rows}, indent=1) + "\n")
        a.out.write_text(between(a.out.read_text(), text, mark=f"real data {name}", where=str(a.out)))


if __name__ == "__main__":
    main()
