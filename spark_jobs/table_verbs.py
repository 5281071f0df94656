"""Verbs about what is published: where it is, what is in it, which run is current, what may go, and who."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pyarrow.parquet as pq

from conf import jobs
from conf.command import request
from conf.errors import Fault, UsageError
from conf.files import open_root
from conf.names import check_ds
from conf.retention import Rule
from conf.storage import MAIN, Store
from spark_jobs.collection import collect
from spark_jobs.one_user import show_user
from spark_jobs.verbs import Arguments, Verb, verb


def known_table(name: str) -> str:
    """The name; raises UsageError where no job publishes such a table."""
    try:
        jobs.producer(name)
    except KeyError:
        known = [table for spec in jobs.JOBS.values() for table in spec.outputs]
        raise UsageError("trichannel", [Fault(f"unknown table {name!r}", f"known: {', '.join(known)}")]) from None
    return name


# ---- path, show ------------------------------------------------------------------------------------------------------


def _path_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="a table or artefact, for instance candidates")


def _path(arguments: Arguments) -> int:
    asked = request(arguments)
    print(asked.store.uri(asked.store.folder_of(asked.store.manifest(known_table(arguments.table), asked.ds, asked.settings))))
    return 0


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="a table or artefact")
    parser.add_argument("--rows", type=int, default=5, help="rows shown (default: 5)")
    parser.add_argument("--user", metavar="KEY", help="of candidates: this user's history and candidates, by title")


def _show(arguments: Arguments) -> int:
    asked = request(arguments)
    if arguments.user is not None:
        if arguments.table != "candidates":
            fault = Fault("shows candidates only", f"the table is {arguments.table}", "trichannel show candidates --user KEY")
            raise UsageError("--user", [fault])
        print("\n".join(show_user(asked, arguments.user, num=arguments.rows)))
        return 0
    manifest = asked.store.manifest(known_table(arguments.table), asked.ds, asked.settings)
    shown = {key: value for key, value in asdict(manifest).items() if key != "files"}
    print(json.dumps(shown | {"files": len(manifest.files), "bytes": sum(f.bytes for f in manifest.files)}, indent=1))
    for row in first_rows(asked.store.files_of(manifest), arguments.rows):
        print(json.dumps(row, default=str, ensure_ascii=False))
    return 0


def first_rows(files: Sequence[str], num: int) -> list[dict[str, object]]:
    """The first rows of a table's Parquet files; [] for artefacts."""
    rows: list[dict[str, object]] = []
    for file in files:
        if len(rows) >= num or not file.endswith(".parquet"):
            break
        filesystem, path = open_root(file)
        with filesystem.open_input_file(path) as handle:
            batch = next(pq.ParquetFile(handle).iter_batches(batch_size=max(1, num - len(rows))), None)
            rows += batch.to_pylist() if batch is not None else []
    return rows[:num]


# ---- diff ------------------------------------------------------------------------------------------------------------


def _diff_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="a table or artefact, for instance candidates")
    days = "the day compared (default: source.default_ds); given twice, the second is --to-ds"
    parser.add_argument("--ds", action="append", default=[], metavar="YYYY-MM-DD", help=days)
    parser.add_argument("--to-ds", metavar="YYYY-MM-DD", help="the day it is compared with (default: the same)")
    parser.add_argument("--run", metavar="RUN", help="a run of the first day (default: the current one)")
    parser.add_argument("--to-run", metavar="RUN", help="a run of the other day (default: the current one)")


def _diff(arguments: Arguments) -> int:
    from spark_jobs.diff import diff  # loads Spark

    given, to_ds = arguments.ds, arguments.to_ds
    first, others = (given[0] if given else None), [*given[1:], *([] if to_ds is None else [to_ds])]
    if len(others) > 1 or not (others or arguments.run or arguments.to_run):
        fix = "give --ds and --to-ds, or one day and --run, --to-run or both"
        raise UsageError("trichannel diff", [Fault("two versions are compared", fix=fix)])
    arguments.ds = first
    asked = request(arguments)
    to_ds = check_ds(others[0], "--to-ds") if others else asked.ds
    return diff(asked, known_table(arguments.table), to_ds, run_id=arguments.run, to_run_id=arguments.to_run)


# ---- runs, rollback, gc, erase ---------------------------------------------------------------------------------------


def _runs_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", nargs="?", help="a job (default: all)")


def _runs(arguments: Arguments) -> int:
    asked = request(arguments)
    if arguments.job is not None and arguments.job not in jobs.JOBS:
        raise UsageError("trichannel runs", [Fault(f"unknown job {arguments.job!r}", f"known: {', '.join(jobs.JOBS)}")])
    for job in [arguments.job] if arguments.job else jobs.JOBS:
        print_runs(asked.store, job, asked.ds)
    return 0


def print_runs(store: Store, job: str, ds: str) -> None:
    """The committed runs of a job, the current one marked."""
    current = store.current(job, ds)
    for run_id in store.runs(job, ds):
        mark = "*" if current is not None and current.run_id == run_id else " "
        print(f"{mark} {job:16} ds={ds} run={run_id}")


def _rollback_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", help="a table (all tables its job published with it go back too) or a job")
    parser.add_argument("--to", required=True, metavar="RUN", help="the run to go back to")


def _rollback(arguments: Arguments) -> int:
    asked = request(arguments)
    job = arguments.table if arguments.table in jobs.JOBS else jobs.producer(known_table(arguments.table))
    if asked.dry_run:
        print(f"would make run {arguments.to} of {job} current for ds={asked.ds}; runs: {', '.join(asked.store.runs(job, asked.ds))}")
        return 0
    record = asked.store.rollback(job, asked.ds, arguments.to, asked.settings)
    print(f"current {job} ds={record.ds} run={record.run_id} tables={','.join(record.tables)}")
    from spark_jobs.hive_views import PUBLISHED, is_asked, register_alone  # loads Spark

    return register_alone(asked) if is_asked(asked) and set(record.tables) & set(PUBLISHED) else 0


def _register(arguments: Arguments) -> int:
    from spark_jobs.hive_views import register_alone  # loads Spark

    return register_alone(request(arguments))


def _gc_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "With --variant or --ds only runs of that variant or day are removed. Locks are never broken."
    parser.add_argument("--keep", type=int, default=2, metavar="N", help="runs of a job and day kept beside the current one (default: 2)")
    parser.add_argument("--min-age-h", type=float, default=24, metavar="H", help="hours that nothing younger goes (default: 24)")
    parser.set_defaults(variant=None)


def _gc(arguments: Arguments) -> int:
    rule = Rule(arguments.keep, arguments.min_age_h, arguments.variant, arguments.ds)
    if arguments.variant is None:
        arguments.variant = MAIN
    return collect(request(arguments), rule)


def _erase_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The list is source.erasure. Every run of every day and variant is looked at, so --ds and --variant are refused. "
        "Locks are never broken."
    )
    parser.set_defaults(variant=None)


def _erase(arguments: Arguments) -> int:
    from spark_jobs.erase import erase  # loads Spark

    if arguments.ds is not None or arguments.variant is not None:
        raise UsageError("trichannel erase", [Fault("--ds and --variant name a part", fix="give neither: users go from all that is kept")])
    arguments.variant = MAIN
    return erase(request(arguments))


TABLE_VERBS: Mapping[str, Verb] = {
    "path": verb("print where the current version of a table is", _path, _path_options),
    "show": verb("print a table's manifest and first rows", _show, _show_options),
    "runs": verb("list the committed runs of a day, the current one marked", _runs, _runs_options),
    "diff": verb("what changed from one version of a table to another", _diff, _diff_options),
    "rollback": verb("make an earlier run current again", _rollback, _rollback_options),
    "register": verb("make the views of published tables in the Hive catalogue anew", _register),
    "gc": verb("remove runs that nobody needs any more", _gc, _gc_options),
    "erase": verb("remove the users on the erasure list from all runs that are kept", _erase, _erase_options),
}
