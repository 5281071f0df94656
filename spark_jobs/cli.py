"""The `trichannel` command: one verb a job, and verbs around them. Verbs import what they need only when they run."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module

from conf import jobs
from conf.command import add_arguments, guarded, request
from conf.errors import EXIT_CODES, Fault, UsageError
from conf.names import check_ds
from conf.settings import load, packaged_names, to_yaml
from conf.storage import MAIN, Record, Store

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Verb:
    """doc: one line for the list. run: argv after the verb -> exit code."""

    doc: str
    run: Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        print(f"error[T102] trichannel: unknown verb {name!r}; known: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return VERBS[name].run(rest)


def overview() -> str:
    """The list of verbs and exit codes."""
    lines = ["usage: trichannel VERB [options]      (trichannel VERB --help lists the options)", "", "the day:"]
    lines += [f"  {name:16} {VERBS[name].doc}" for name in VERBS if name not in jobs.JOBS]
    lines += ["", "its jobs, one by one:"]
    lines += [f"  {name:16} {VERBS[name].doc}" for name in jobs.JOBS]
    lines += ["", "exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())]
    lines += ["", f"packaged settings for --config: {', '.join(packaged_names())}; or give a YAML file"]
    return "\n".join(lines)


def _parser(verb: str, *, common: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"trichannel {verb}", description=VERBS[verb].doc)
    if common:
        add_arguments(parser)
    return parser


# ---- verbs ----------------------------------------------------------------------------------------------------------


def _run(argv: Sequence[str]) -> int:
    parser = _parser("run")
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run (default: all)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from spark_jobs import pipeline

        return pipeline.run(request(arguments), until=arguments.until)

    return guarded(body)


def _backfill(argv: Sequence[str]) -> int:
    parser = _parser("backfill")
    parser.add_argument("--start", required=True, metavar="YYYY-MM-DD", help="the oldest day")
    parser.add_argument("--end", required=True, metavar="YYYY-MM-DD", help="the newest day, included")
    parser.add_argument("--only-missing", action="store_true", help="leave days whose stages are all committed, by whatever settings")
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run (default: all)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from spark_jobs.backfill import backfill

        if arguments.ds is not None:
            raise UsageError("trichannel backfill", [Fault("--ds names one day", fix="give --start and --end")])
        only_missing, until = arguments.only_missing, arguments.until
        return backfill(request(arguments), arguments.start, arguments.end, only_missing=only_missing, until=until)

    return guarded(body)


def _plan(argv: Sequence[str]) -> int:
    arguments = _parser("plan").parse_args(argv)

    def body() -> int:
        from spark_jobs import pipeline

        asked = request(arguments)
        print(pipeline.describe(pipeline.plan(asked), asked))
        return 0

    return guarded(body)


def _job(name: str) -> Callable[[Sequence[str]], int]:
    def run(argv: Sequence[str]) -> int:
        if name == "train":
            return _train(argv)
        from spark_jobs.job import main as job_main

        return job_main(import_module(jobs.module_of(name)).JOB, argv)

    return run


def _train(argv: Sequence[str]) -> int:
    parser = _parser("train")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this day")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from spark_jobs.launcher import train_alone

        return train_alone(request(arguments), resume=arguments.resume)

    return guarded(body)


def _config(argv: Sequence[str]) -> int:
    arguments = _parser("config").parse_args(argv)

    def body() -> int:
        print(to_yaml(load(arguments.config, arguments.set)), end="")
        return 0

    return guarded(body)


def _doctor(argv: Sequence[str]) -> int:
    _parser("doctor", common=False).parse_args(argv)
    from spark_jobs.doctor import main as doctor_main

    return guarded(doctor_main)


def _init(argv: Sequence[str]) -> int:
    parser = _parser("init", common=False)
    parser.add_argument("--from", dest="source", required=True, metavar="PATH", help="a file or folder of raw clicks")
    parser.add_argument("--out", default="trichannel.yaml", metavar="FILE", help="where the settings go (default: trichannel.yaml)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from spark_jobs.init import init

        init(arguments.source, arguments.out)
        print(f"wrote {arguments.out}; read it, then: trichannel run --config {arguments.out}")
        return 0

    return guarded(body)


def _path(argv: Sequence[str]) -> int:
    parser = _parser("path")
    parser.add_argument("table", help="a table or artefact, for instance candidates")
    arguments = parser.parse_args(argv)

    def body() -> int:
        asked = request(arguments)
        print(asked.store.uri(asked.store.folder_of(asked.store.manifest(_known_table(arguments.table), asked.ds, asked.settings))))
        return 0

    return guarded(body)


def _show(argv: Sequence[str]) -> int:
    parser = _parser("show")
    parser.add_argument("table", help="a table or artefact")
    parser.add_argument("--rows", type=int, default=5, help="rows shown (default: 5)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        asked = request(arguments)
        manifest = asked.store.manifest(_known_table(arguments.table), asked.ds, asked.settings)
        shown = {key: value for key, value in asdict(manifest).items() if key != "files"}
        print(json.dumps(shown | {"files": len(manifest.files), "bytes": sum(f.bytes for f in manifest.files)}, indent=1))
        for row in first_rows(asked.store.files_of(manifest), arguments.rows):
            print(json.dumps(row, default=str, ensure_ascii=False))
        return 0

    return guarded(body)


def first_rows(files: Sequence[str], num: int) -> list[dict[str, object]]:
    """The first rows of a table's Parquet files; [] for artefacts."""
    import pyarrow.parquet as pq

    from conf.files import open_root

    rows: list[dict[str, object]] = []
    for file in files:
        if len(rows) >= num or not file.endswith(".parquet"):
            break
        filesystem, path = open_root(file)
        with filesystem.open_input_file(path) as handle:
            batch = next(pq.ParquetFile(handle).iter_batches(batch_size=max(1, num - len(rows))), None)
            rows += batch.to_pylist() if batch is not None else []
    return rows[:num]


def _diff(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="trichannel diff", description=VERBS["diff"].doc, conflict_handler="resolve")
    add_arguments(parser)
    parser.add_argument("table", help="a table or artefact, for instance candidates")
    days = "the day compared (default: source.default_ds); given twice, the second is --to-ds"
    parser.add_argument("--ds", action="append", default=[], metavar="YYYY-MM-DD", help=days)
    parser.add_argument("--to-ds", metavar="YYYY-MM-DD", help="the day it is compared with (default: the same)")
    parser.add_argument("--run", metavar="RUN", help="a run of the first day (default: the current one)")
    parser.add_argument("--to-run", metavar="RUN", help="a run of the other day (default: the current one)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from spark_jobs.diff import diff

        given, to_ds = arguments.ds, arguments.to_ds
        first, others = (given[0] if given else None), [*given[1:], *([] if to_ds is None else [to_ds])]
        if len(others) > 1 or not (others or arguments.run or arguments.to_run):
            fix = "give --ds and --to-ds, or one day and --run, --to-run or both"
            raise UsageError("trichannel diff", [Fault("two versions are compared", fix=fix)])
        arguments.ds = first
        asked = request(arguments)
        to_ds = check_ds(others[0], "--to-ds") if others else asked.ds
        return diff(asked, _known_table(arguments.table), to_ds, run_id=arguments.run, to_run_id=arguments.to_run)

    return guarded(body)


def _rollback(argv: Sequence[str]) -> int:
    parser = _parser("rollback")
    parser.add_argument("table", help="a table (all tables its job published with it go back too) or a job")
    parser.add_argument("--to", required=True, metavar="RUN", help="the run to go back to")
    arguments = parser.parse_args(argv)

    def body() -> int:
        """0, and the run is current, or with --dry-run only named; raises UsageError where there is no such table, job or run."""
        asked = request(arguments)
        job = arguments.table if arguments.table in jobs.JOBS else jobs.producer(_known_table(arguments.table))
        if asked.dry_run:
            print(f"would make run {arguments.to} of {job} current for ds={asked.ds}; runs: {', '.join(asked.store.runs(job, asked.ds))}")
            return 0
        record = asked.store.rollback(job, asked.ds, arguments.to, asked.settings)
        print(f"current {job} ds={record.ds} run={record.run_id} tables={','.join(record.tables)}")
        return 0

    return guarded(body)


def _gc(argv: Sequence[str]) -> int:
    parser = _parser("gc")
    parser.epilog = "With --variant or --ds only runs of that variant or day are removed. Locks are never broken."
    parser.add_argument("--keep", type=int, default=2, metavar="N", help="runs of a job and day kept beside the current one (default: 2)")
    parser.add_argument("--min-age-h", type=float, default=24, metavar="H", help="hours that nothing younger goes (default: 24)")
    parser.set_defaults(variant=None)
    arguments = parser.parse_args(argv)

    def body() -> int:
        from conf.retention import Rule
        from spark_jobs.collection import collect

        rule = Rule(arguments.keep, arguments.min_age_h, arguments.variant, arguments.ds)
        if arguments.variant is None:
            arguments.variant = MAIN
        return collect(request(arguments), rule)

    return guarded(body)


def _runs(argv: Sequence[str]) -> int:
    parser = _parser("runs")
    parser.add_argument("job", nargs="?", help="a job (default: all)")
    arguments = parser.parse_args(argv)

    def body() -> int:
        asked = request(arguments)
        if arguments.job is not None and arguments.job not in jobs.JOBS:
            raise UsageError("trichannel runs", [Fault(f"unknown job {arguments.job!r}", f"known: {', '.join(jobs.JOBS)}")])
        for job in [arguments.job] if arguments.job else jobs.JOBS:
            print_runs(asked.store, job, asked.ds)
        return 0

    return guarded(body)


def print_runs(store: Store, job: str, ds: str) -> None:
    """The committed runs of a job, the current one marked."""
    current: Record | None = store.current(job, ds)
    for run_id in store.runs(job, ds):
        mark = "*" if current is not None and current.run_id == run_id else " "
        print(f"{mark} {job:16} ds={ds} run={run_id}")


def _known_table(name: str) -> str:
    try:
        jobs.producer(name)
    except KeyError:
        known = [table for spec in jobs.JOBS.values() for table in spec.outputs]
        raise UsageError("trichannel", [Fault(f"unknown table {name!r}", f"known: {', '.join(known)}")]) from None
    return name


_JOB_DOCS: Mapping[str, str] = {
    "ingest": "raw clicks -> clicks, users, items, rejects",
    "vocabulary": "-> vocab_<field>, user_index, item_index, user_feat, item_feat",
    "events": "clicks -> events, user_state",
    "sessions": "events -> sessions",
    "cooccurrence": "sessions -> cooc",
    "samples": "events -> samples, with masked views",
    "train": "samples -> model (starts horovodrun, or plain Python)",
    "embed": "model -> embeddings_user, embeddings_item",
    "index": "embeddings -> FAISS index, its recall measured",
    "neighbours": "index -> neighbours_user, neighbours_item",
    "candidates": "-> channel_candidates, candidates",
    "offline_metrics": "candidates + held-out clicks -> metrics_user, metrics",
    "report": "-> report.html, report.json",
}

VERBS: Mapping[str, Verb] = {
    "run": Verb("every job of a day, skipping what is up to date", _run),
    "plan": Verb("which jobs would run, why, and the command of each", _plan),
    "backfill": Verb("run many days, the oldest first; one that fails stops no other", _backfill),
    "init": Verb("look at raw data and write settings that run", _init),
    "config": Verb("print the resolved settings, each key with its meaning", _config),
    "doctor": Verb("check Python, Java, Spark, torch, Horovod, FAISS, Petastorm; say what to type for each fault", _doctor),
    "path": Verb("print where the current version of a table is", _path),
    "show": Verb("print a table's manifest and first rows", _show),
    "runs": Verb("list the committed runs of a day, the current one marked", _runs),
    "diff": Verb("what changed from one version of a table to another", _diff),
    "rollback": Verb("make an earlier run current again", _rollback),
    "gc": Verb("remove runs that nobody needs any more", _gc),
    **{name: Verb(_JOB_DOCS[name], _job(name)) for name in jobs.JOBS},
}

if __name__ == "__main__":
    sys.exit(main())
