"""What a grid leaves behind: grid.json and grid.md under the root, and its part of a Markdown file, between marks."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pyarrow import fs as pafs

from conf.command import Request
from conf.errors import Fault, UsageError
from conf.files import storage_faults, write_atomic
from conf.manifest import now
from spark_jobs.conclusions import grid_folder
from spark_jobs.grid_gates import gates_of
from spark_jobs.grid_scores import Scores
from spark_jobs.grid_table import lines_of, markdown, words_of
from spark_jobs.grids import Grid, published_data

Key = tuple[str, int]  # (cell, seed)


@dataclass(frozen=True)
class Result:
    """A grid after a command. cells: every run of it, found: what the finished ones reached, failed: why others ended. seconds: of each."""

    name: str
    grid: Grid
    cells: Mapping[Key, Request]
    found: Mapping[Key, Scores]
    failed: Mapping[Key, str]
    seconds: Mapping[Key, float]
    budget_s: float


def write(asked: Request, made: Result, out: Path | None) -> str:
    """Write grid.json and grid.md where the report finds them, and the Markdown between its marks in `out`; returns the Markdown."""
    seeds = sorted({seed for _, seed in made.cells})
    data = published_data(asked.settings)
    lines = lines_of(made.grid, made.found, seeds, made.failed, data)
    words = [*words_of(made.grid, lines, made.found, seeds, data), *gates_of(made.grid, lines, made.found)]
    text = markdown(made.grid, lines, words, heading=f"{made.grid.title}: {data_name(asked)}", facts=facts_of(asked, made))
    content = {
        **{"grid": made.name, "title": made.grid.title, "source": made.grid.source, "config": asked.config, "ds": asked.ds},
        **{"run_id": asked.run_id, "written_at": now(), "seeds": seeds, "budget_s": made.budget_s, "published_data": data},
        **{"scale": made.grid.scale, "digits": made.grid.digits, "channels": dict(made.grid.channels)},
        **{"columns": [asdict(column) for column in made.grid.columns]},
        **{"cells": [state_of(made, key) for key in made.cells], "lines": [asdict(line) for line in lines], "words": words},
    }
    store = asked.store
    with storage_faults(store.base):
        for file, body in (("grid.json", json.dumps(content, indent=1, ensure_ascii=False)), ("grid.md", text)):
            write_atomic(store.fs, f"{grid_folder(store, asked.ds, data_name(asked), made.name)}/{file}", body)
    if out is not None:
        whole = between(text_of(out), text, mark=f"grid {made.name} {data_name(asked)}", where=str(out))
        with storage_faults(str(out)):
            write_atomic(pafs.LocalFileSystem(), str(out.resolve()), whole)
    return text


def state_of(made: Result, key: Key) -> dict[str, object]:
    """One run of a cell in grid.json: its settings, whether it is finished, and every number of the table."""
    own, scores = made.cells[key], made.found.get(key)
    state = "finished" if scores else "failed" if key in made.failed else "unfinished"
    channels = made.grid.channels if scores else ()
    values = {channel: {column.label: scores.of(channel, column) for column in made.grid.columns} for channel in channels if scores}
    return {
        **{"cell": key[0], "seed": key[1], "variant": own.variant, "set": list(own.overrides), "state": state},
        **{"why": made.failed.get(key, ""), "seconds": made.seconds.get(key), "values": values},
    }


def facts_of(asked: Request, made: Result) -> str:
    """One line: how much data, what every cell has in common, how long it took."""
    settings = next(iter(made.cells.values())).settings
    model, trainer, scored = settings.model, settings.trainer, max((scores.num_users for scores in made.found.values()), default=0)
    return (
        f"{len(made.found)} of {len(made.cells)} runs finished, {sum(made.seconds.values()) / 60:.0f} minutes of work in all; "
        f"ds {asked.ds}, split {settings.split.kind}, {scored:,} users scored. All cells alike: dim {model.dim}, history {model.history}, "
        f"batch {trainer.batch}, at most {trainer.epochs} epochs (patience {trainer.patience}), lr {trainer.optimizer.lr:g}."
    )


def data_name(asked: Request) -> str:
    """The configuration's name, without its folder."""
    return Path(asked.config).stem


def check_out(asked: Request, name: str, out: Path) -> None:
    """Raises UsageError where the file cannot take the grid: known before the first training, not after the last."""
    between(text_of(out), "", mark=f"grid {name} {data_name(asked)}", where=str(out))


def text_of(file: Path) -> str:
    """The file's text, "" where it is not there yet; raises UsageError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--out {file}", [Fault("cannot be read", str(error))]) from None


def between(text: str, body: str, *, mark: str, where: str) -> str:
    """The text with `body` in place of what stands between the marks of that name, or at its end with marks of its own.

    Raises:
        UsageError: the marks are not a pair.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    if (text.count(begin), text.count(end)) not in ((0, 0), (1, 1)) or text.find(begin) > text.find(end):
        raise UsageError(f"--out {where}", [Fault(f"{begin} and {end} are not one pair in that order", fix="mend or remove them")])
    block = f"{begin}\n{body.rstrip()}\n{end}"
    if begin not in text:
        return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"{block}\n"
    head, _, rest = text.partition(begin)
    return head + block + rest.partition(end)[2]
