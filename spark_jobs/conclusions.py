"""What was concluded under a root: comparisons, A/B tests and grids, each in its own first words, with a link to the whole."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pyarrow import fs as pafs

from conf.errors import BadDataError
from conf.names import is_day
from conf.storage import Store
from spark_jobs.significance import ALPHA

Found = dict[str, Any]  # {kind, ds, title, said: sentences, link: a path from the root; of a grid: table}

COMPARISONS: Final = "_comparisons"
GRIDS: Final = "_grids"
TESTS: Final = ("ab_test", "ab_report")  # the job, and the folder it publishes


def comparison_path(store: Store, ds: str, a: str, b: str) -> str:
    """Where a comparison of these two sides leaves what it found, a path on `fs`; the same comparison again takes its place."""
    name = hashlib.sha256(f"{a} {b}".encode()).hexdigest()[:12]
    return f"{store.base}/{COMPARISONS}/{ds}/{name}.json"


def grid_folder(store: Store, ds: str, config: str, name: str) -> str:
    """Where a grid leaves grid.json and grid.md, a path on `fs`: of one day and configuration each, for a root may hold several."""
    return f"{store.base}/{GRIDS}/{ds}/{config}/{name}"


def conclusions(store: Store, *, ds: str | None = None) -> list[Found]:
    """All there are, or those of a day, the newest day first; of A/B tests those of the store's variant.

    One that cannot be read says so in place of its words.
    """
    found = [*_comparisons(store), *_tests(store), *_grids(store)]
    return sorted((one for one in found if ds in (None, one["ds"])), key=lambda one: one["ds"], reverse=True)


def _comparisons(store: Store) -> Iterator[Found]:
    for day in _names(store, f"{store.base}/{COMPARISONS}"):
        for name in _names(store, f"{store.base}/{COMPARISONS}/{day}"):
            path = f"{store.base}/{COMPARISONS}/{day}/{name}"
            yield _told(store, path, "comparison", day, _of_comparison)


def _tests(store: Store) -> Iterator[Found]:
    job, report = TESTS
    for day in store.days(job):
        record = store.current(job, day)
        if record is not None:
            folder = store.run_folder(report, day, record.run_id, record.variant)
            yield _told(store, f"{folder}/ab_test.json", "A/B test", day, _of_test) | {"link": _link(store, f"{folder}/ab_test.html")}


def _grids(store: Store) -> Iterator[Found]:
    for ds in filter(is_day, _names(store, f"{store.base}/{GRIDS}")):  # grids of older versions lie there without a day
        for config in _names(store, f"{store.base}/{GRIDS}/{ds}"):
            for name in _names(store, f"{store.base}/{GRIDS}/{ds}/{config}"):
                folder = grid_folder(store, ds, config, name)
                yield _told(store, f"{folder}/grid.json", "grid", ds, _of_grid) | {"link": _link(store, f"{folder}/grid.md")}


def _of_comparison(content: Mapping[str, Any]) -> Found:
    return {"title": f"A {content['a']['name']}, B {content['b']['name']}", "said": content["verdict"]}


def _of_test(content: Mapping[str, Any]) -> Found:
    verdict = content["verdict"]
    arms = " against ".join([", ".join(content["arms"][1:]), content["arms"][0]])
    return {"title": f"{arms}, {content['start']} to {content['end']}", "said": [verdict["headline"], *verdict["reasons"]]}


def _of_grid(content: Mapping[str, Any]) -> Found:
    states = [cell["state"] for cell in content["cells"]]
    done = f"{states.count('finished')} of {len(states)} runs finished."
    title = f"{content['title']}, on {content['config']}"
    return {"title": title, "said": [done, *content["words"][:1]], "table": _table_of(content)}


def _table_of(content: Mapping[str, Any]) -> Found:
    """{grid, scale, digits, columns: labels, rows}: the lines of grid.json that have numbers, a cell a column.

    A cell: value (share), spread, gain, low, high (percent), told: whether the gain is told from 0; None where there is none.
    """
    rows = [
        {
            "channel": content["channels"][line["channel"]],
            "label": line["label"],
            "cells": [
                {**_number(one), **_gain(line["gains"][n] if line["gains"] else None)} for n, one in enumerate(line["numbers"]) if one
            ],
        }
        for line in content["lines"]
        if line["seeds"]
    ]
    columns = [column["label"] for column in content["columns"]]
    return {"grid": content["grid"], "scale": content["scale"], "digits": content["digits"], "columns": columns, "rows": rows}


def _number(one: Mapping[str, Any]) -> Found:
    return {"value": one["mean"], "spread": one["spread"]}


def _gain(one: Mapping[str, Any] | None) -> Found:
    if one is None:
        return {"gain": None, "low": None, "high": None, "told": False}
    told = one["p_holm"] is not None and one["p_holm"] < ALPHA
    return {"gain": one["percent"], "low": one["low"], "high": one["high"], "told": told}


def _told(store: Store, path: str, kind: str, ds: str, of: Callable[[Mapping[str, Any]], Found]) -> Found:
    """What the JSON file says, by `of`; why not, where it cannot be read: one damaged file hides no other."""
    base = {"kind": kind, "ds": ds, "title": "", "link": _link(store, path)}
    try:
        content = store.read_json(path)
        return {**base, **of(content)} if content is not None else {**base, "said": [f"{path} is missing"]}
    except BadDataError as error:
        return {**base, "said": [str(error.faults[0])]}


def _link(store: Store, path: str) -> str:
    return path.removeprefix(f"{store.base}/")


def _names(store: Store, folder: str) -> list[str]:
    return sorted(info.base_name for info in store.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)))
