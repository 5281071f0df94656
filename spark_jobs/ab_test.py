"""An A/B test from its exposure log: arms compared by user, with a verdict in words, as a page and as JSON.

Metrics: Xie et al. 2022 (MicRec), section 5.4 (ACC, ADT, ALR, AFR); Lu et al. 2022 (MIC), section 4.9 (play time and the like).
"""

import json
import sys
from collections.abc import Mapping
from datetime import date
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, GateError, SettingsError
from conf.files import storage_faults
from conf.manifest import Record
from conf.sections.experiment import Ab
from conf.storage import Store
from spark_jobs.ab.analysis import METRICS, curves_of, left_out, lines_of, split_of
from spark_jobs.ab.conclusion import conclude
from spark_jobs.ab.exposures import EARLIER, NOT_SHOWN, OUTSIDE, USED, Window, judge, open_exposures
from spark_jobs.ab.page import render
from spark_jobs.ab.users import caps_of, count_users, moments_of, users_of
from spark_jobs.job import Artefact, Context, Job, main

REPORT = "ab_report"


class BrokenSplitError(GateError):
    """Nobody may decide by this test."""

    closing = "the report is published, and says so"


def transform(context: Context, _: Mapping[str, DataFrame]) -> Mapping[str, Artefact]:
    """Read the log, compare the arms, write ab_test.html and ab_test.json.

    Raises:
        SettingsError: there is no test, or it starts after ds. SchemaError: columns are missing. GateError: too many rows are refused.
        BadDataError: no user was exposed in the test.
    """
    chosen, counters = context.settings.ab, context.counters
    if chosen.path is None:
        raise SettingsError("job ab_test", [Fault("ab.path names no exposure log", fix="set ab.path, or leave the job out")])
    rows = open_exposures(context.spark, chosen)
    window = window_of(rows, chosen, date.fromisoformat(context.ds))
    judged = judge(rows, window, chosen.arms).persist()
    counters["rows"] = {row["fate"]: row["count"] for row in judged.groupBy("fate").count().orderBy("fate").collect()}
    in_test = judged.where((F.col("fate") == USED) & (F.col("at") >= 0)).limit(1).count() == 1
    check_rows(counters["rows"], chosen, max_reject_share=context.settings.gates.max_reject_share, in_test=in_test)
    told = judged.where(F.col("fate").isin(USED, EARLIER))
    # a log that begins with the test would make everybody one who never clicked
    knows_clicks = chosen.columns.click is not None and told.where(F.col("at") < 0).limit(1).count() == 1
    users = users_of(told, chosen, window, knows_clicks=knows_clicks).persist()
    counters |= count_users(users)
    content = analyse(users.where(~F.col("in_several")), chosen, window, counters)
    counters["valid"], counters["winner"] = content["verdict"]["valid"], content["verdict"]["winner"]
    return {REPORT: write(context.store, context.folder(REPORT), content)}


def window_of(rows: DataFrame, chosen: Ab, end: date) -> Window:
    """The days of the test; its start is the settings', else the first day of the log."""
    start = chosen.first_day
    if start is None:
        first = rows.agg(F.min("day")).first()
        start = (first and first[0]) or end
        return Window(min(start, end), end, 0)
    if start > end:
        raise SettingsError("ab.start", [Fault(f"{start} is after the last day {end}", fix="give --ds a day of the test")])
    return Window(start, end, chosen.pre_days)


def check_rows(fates: Mapping[str, int], chosen: Ab, *, max_reject_share: float, in_test: bool) -> None:
    """Refuse a log of which too much cannot be used, or that has nothing on the days of the test (in_test: it has)."""
    total = sum(fates.values())
    refused = {fate: count for fate, count in fates.items() if fate not in (USED, EARLIER, OUTSIDE, NOT_SHOWN)}
    if sum(refused.values()) > max_reject_share * total:
        share = sum(refused.values()) / total
        head = Fault(f"{sum(refused.values())} of {total} rows refused ({share:.1%})", f"gates.max_reject_share is {max_reject_share:.1%}")
        raise GateError(f"ab.path={chosen.path}", [head, *(Fault(f"{count} rows: {fate}") for fate, count in refused.items())])
    if not in_test:
        found = "; ".join(f"{count} rows: {fate}" for fate, count in fates.items())
        raise BadDataError(f"ab.path={chosen.path}", [Fault("no exposure of the test", found, "check ab.start, --ds and ab.arms")])


def analyse(users: DataFrame, chosen: Ab, window: Window, counters: Mapping[str, Any]) -> dict[str, Any]:
    """The document: what the page shows and ab_test.json holds."""
    caps = caps_of(users, chosen.winsorise)
    arms, order = moments_of(users, window.num_days, caps=caps), list(chosen.arms)
    missing = left_out(chosen, knows_cold=counters["knows_cold"])
    metrics = [name for name in METRICS if name not in missing]
    content: dict[str, Any] = {
        "start": str(window.start), "end": str(window.end), "num_days": window.num_days, "pre_days": window.pre_days, "arms": order,
        "split": split_of({arm: counters.get(f"users_{arm}", 0) for arm in order}, chosen.arms),
        "effects": lines_of(arms, order, window.num_days, metrics),
        "curves": curves_of(arms, order, window.num_days, metrics),
        "metrics": {name: {"label": METRICS[name].label, "about": METRICS[name].about} for name in METRICS},
        "left_out": missing, "caps": caps, "winsorise": chosen.winsorise, "counters": dict(counters),
    }  # fmt: skip
    return content | {"verdict": conclude(content)}


def write(store: Store, folder: str, content: Mapping[str, Any]) -> Artefact:
    """Write ab_test.html and ab_test.json into the run folder."""
    with storage_faults(folder):
        for name, text in (("ab_test.html", render(content)), ("ab_test.json", json.dumps(content, indent=1, ensure_ascii=False))):
            with store.fs.open_output_stream(f"{folder}/{name}") as stream:
                stream.write(text.encode())
    return Artefact(names=("ab_test.html", "ab_test.json"), rows=len(content["effects"]))


def tell(store: Store, record: Record) -> None:
    """Print the verdict of a run and where its page is. Raises BrokenSplitError where the split is broken."""
    manifest = store.load_manifest(REPORT, record)
    folder = store.folder_of(manifest)
    with store.fs.open_input_stream(f"{folder}/ab_test.json") as stream:
        said = json.loads(stream.read())["verdict"]
    print("\n".join([said["headline"], *said["reasons"], *said["doubts"], f"report: {store.uri(folder)}/ab_test.html"]), flush=True)
    if not said["valid"]:
        raise BrokenSplitError(f"job ab_test, ds={record.ds}", [Fault(said["headline"], said["reasons"][0])])


JOB = Job("ab_test", transform, "Compare the arms of an A/B test by its exposure log.", tell=tell)

if __name__ == "__main__":
    sys.exit(main(JOB))
