"""One page that lists the reports of all days of a variant, the newest first, with what each says first."""

from collections.abc import Mapping
from typing import Any

from conf.command import Request
from conf.errors import BadDataError, Fault, NotReadyError
from conf.files import storage_faults, write_atomic
from conf.storage import Store
from spark_jobs.conclusions import conclusions
from spark_jobs.report_page import filled, index_cells


def write_index(asked: Request) -> str:
    """Write ROOT/_reports/VARIANT.html, days and conclusions, and return where it is; it holds links, so it moves with the root only.

    Raises:
        NotReadyError: no day has a report. BadDataError: report.json of a day is no JSON.
    """
    store = asked.store
    days = [_line(store, ds) for ds in reversed(store.days("report"))]
    if not days:
        fault = Fault("no day has a report yet", fix="run: trichannel run")
        raise NotReadyError(f"{store.base}/{store.variant}", [fault])
    content = {"variant": store.variant, "days": days, "conclusions": conclusions(store)}
    path = f"{store.base}/_reports/{store.variant}.html"
    with storage_faults(path):
        write_atomic(store.fs, path, filled("report_index.html.j2", content))
    return store.uri(path)


def _line(store: Store, ds: str) -> dict[str, Any]:
    """What the index says of a day: {ds, link, users, n, cells of the merged list, made_at}; {ds, fault} where it cannot be read."""
    record = store.current("report", ds)
    if record is None:
        return {"ds": ds, "fault": "taken back"}
    folder = store.run_folder("report", ds, record.run_id, record.variant)
    try:
        content = store.read_json(f"{folder}/report.json")
    except BadDataError as error:  # one damaged day hides no other; the page names it
        return {"ds": ds, "fault": str(error.faults[0])}
    if content is None:
        return {"ds": ds, "fault": "report.json is missing"}
    return {"ds": ds, "link": f"..{folder.removeprefix(store.base)}/report.html", **_told(content)}


def _told(content: Mapping[str, Any]) -> dict[str, Any]:
    n = max(content["at"])
    cells = {metric: row for (channel, metric, at), row in index_cells(content["metrics"]).items() if (channel, at) == ("merged", n)}
    return {"users": content["users_served"], "n": n, "cells": cells, "made_at": content["run"]["made_at"]}
