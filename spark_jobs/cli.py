"""The `trichannel` command: one verb a job, and verbs around them. Verbs load Spark and the stages only when they run."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from conf import jobs
from conf.command import request
from conf.errors import EXIT_CODES, Fault, UsageError
from conf.settings import load, packaged_names, to_yaml
from spark_jobs.recipes import AUTO, RECIPES
from spark_jobs.table_verbs import TABLE_VERBS
from spark_jobs.verbs import Arguments, Verb, positive, verb


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
    return VERBS[name].run(name, rest)


def overview() -> str:
    """The list of verbs and exit codes."""
    lines = ["usage: trichannel VERB [options]      (trichannel VERB --help lists the options)", "", "the day:"]
    lines += [f"  {name:16} {VERBS[name].doc}" for name in VERBS if name not in jobs.JOBS]
    lines += ["", "its jobs, one by one:"]
    lines += [f"  {name:16} {VERBS[name].doc}" for name in jobs.JOBS]
    lines += ["", "exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())]
    lines += ["", f"packaged settings for --config: {', '.join(packaged_names())}; or give a YAML file"]
    return "\n".join(lines)


# ---- the day ---------------------------------------------------------------------------------------------------------


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run (default: all)")


def _run(arguments: Arguments) -> int:
    from spark_jobs import pipeline

    return pipeline.run(request(arguments), until=arguments.until)


def _plan(arguments: Arguments) -> int:
    from spark_jobs import pipeline

    asked = request(arguments)
    print(pipeline.describe(pipeline.plan(asked), asked))
    return 0


def _backfill_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", required=True, metavar="YYYY-MM-DD", help="the oldest day")
    parser.add_argument("--end", required=True, metavar="YYYY-MM-DD", help="the newest day, included")
    parser.add_argument("--only-missing", action="store_true", help="leave days whose stages are all committed, by whatever settings")
    stages = "days run at a time, as far as their stages read nothing of another day (default: 1)"
    parser.add_argument("--max-parallel", type=positive, default=1, metavar="N", help=stages)
    _run_options(parser)


def _backfill(arguments: Arguments) -> int:
    from spark_jobs.backfill import backfill

    if arguments.ds is not None:
        raise UsageError("trichannel backfill", [Fault("--ds names one day", fix="give --start and --end")])
    options = {name: getattr(arguments, name) for name in ("only_missing", "until", "max_parallel")}
    return backfill(request(arguments), arguments.start, arguments.end, **options)


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this day")


def _train(arguments: Arguments) -> int:
    from spark_jobs.launcher import train_alone

    return train_alone(request(arguments), resume=arguments.resume)


def _sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", required=True, metavar="FILE", help="YAML: settings of the training, and the values each may take")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="trainings of the study in all (default: 20)")
    parser.add_argument("--study", default="sweep", metavar="NAME", help="the study to begin or go on with (default: sweep)")
    parser.add_argument("--journal", metavar="FILE", help="where the study is kept (default: ROOT/_sweeps/NAME.journal)")


def _sweep(arguments: Arguments) -> int:
    from spark_jobs.sweep import read_space, sweep

    asked = request(arguments)
    space = read_space(arguments.space, asked)
    return sweep(asked, space, name=arguments.study, trials=arguments.trials, journal=arguments.journal)


def _grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="mic_table2, mic_table3, micrec_table2, micrec_table4, micrec_fig3 or parts")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each cell, from trainer.seed on (default: 3)")
    parser.add_argument("--budget", default="60m", metavar="TIME", help="no further cell starts after it: 90s, 60m, 1.5h (default: 60m)")
    parser.add_argument("--out", metavar="FILE", help="a Markdown file whose part between the grid's marks is replaced, or that gets it")


def _grid(arguments: Arguments) -> int:
    from spark_jobs.grid import Options, grid, seconds_of

    out = None if arguments.out is None else Path(arguments.out)
    return grid(request(arguments), arguments.name, Options(arguments.seeds, seconds_of(arguments.budget), out))


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A and B: variant[/channel][@ds]. Left out: the variant is that of --variant, the channel merged, the day that of --ds. "
        "Several trainings of a side: a,b,c or 'name-s*'."
    )
    parser.add_argument("a", metavar="A", help="the baseline, for instance main/u2i@2026-01-31")
    parser.add_argument("b", metavar="B", help="what is compared with it")
    parser.add_argument("--out", metavar="FILE", help="write all numbers as JSON there, too")


def _compare(arguments: Arguments) -> int:
    from spark_jobs.compare import compare

    return compare(request(arguments), arguments.a, arguments.b, out=arguments.out)


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="onnx", metavar="KIND", help="onnx or torchscript (default: onnx)")
    parser.add_argument("--out", default="towers", metavar="FOLDER", help="where user.* and item.* go (default: towers)")


def _export(arguments: Arguments) -> int:
    from trainer.portable import export_day

    for file in export_day(request(arguments), arguments.format, Path(arguments.out)):
        print(f"wrote {file}")
    return 0


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index", action="store_true", help="instead, list the reports of all days on one page, ROOT/_reports/VARIANT.html"
    )


def _report(arguments: Arguments) -> int:
    from spark_jobs.job import run_alone

    asked = request(arguments)
    if not arguments.index:
        return run_alone(import_module(jobs.module_of("report")).JOB, asked)
    from spark_jobs.report_index import write_index

    print(f"wrote {write_index(asked)}")
    return 0


def _job(name: str, argv: Sequence[str]) -> int:
    from spark_jobs.job import main as job_main

    return job_main(import_module(jobs.module_of(name)).JOB, argv)


# ---- before the first day --------------------------------------------------------------------------------------------


def _config(arguments: Arguments) -> int:
    print(to_yaml(load(arguments.config, arguments.set)), end="")
    return 0


def _doctor(_: Arguments) -> int:
    from spark_jobs.doctor import main as doctor_main

    return doctor_main()


def _init_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", required=True, metavar="PATH", help="a file or folder of raw clicks")
    parser.add_argument("--out", default="trichannel.yaml", metavar="FILE", help="where the settings go (default: trichannel.yaml)")
    parser.add_argument("--recipe", choices=(AUTO, *RECIPES), default=AUTO, help="how to train (default: by what the clicks tell)")


def _init(arguments: Arguments) -> int:
    from spark_jobs.init import init

    init(arguments.source, arguments.out, arguments.recipe)
    print(f"wrote {arguments.out}; read it, then: trichannel run --config {arguments.out}")
    return 0


_JOB_DOCS: Mapping[str, str] = {
    "ingest": "raw clicks -> clicks, users, items, rejects",
    "vocabulary": "-> vocab_<field>, user_index, item_index, user_feat, item_feat",
    "events": "clicks -> events, user_state",
    "sessions": "events -> sessions",
    "cooccurrence": "sessions -> cooc",
    "semantics": "items -> sem_nn, where settings choose a way",
    "samples": "events -> samples, with masked views",
    "train": "samples -> model (starts horovodrun, torchrun, Spark or plain Python)",
    "embed": "model -> embeddings_user, embeddings_item",
    "index": "embeddings -> FAISS index, its recall measured",
    "neighbours": "index -> neighbours_user, neighbours_item",
    "candidates": "-> channel_candidates, candidates",
    "similar": "index -> similar_users, similar_items, where settings ask for them",
    "delta": "candidates of the day and of one before -> candidates_delta, where settings ask for it",
    "click_ranks": "model + held-out clicks -> click_ranks: HIT as of each click, where clicks are held out",
    "offline_metrics": "candidates + held-out clicks -> metrics_user, metrics",
    "yesterday": "candidates of the day before + clicks since -> metrics_yesterday",
    "report": "-> report.html, report.json",
    "ab_test": "exposure log -> ab_test.html, ab_test.json: an A/B test and its verdict; part of no day",
}

_DOCTOR = "check Python, Java, Spark, torch, Horovod, FAISS, Petastorm; say what to type for each fault"

VERBS: Mapping[str, Verb] = {
    "run": verb("every job of a day, skipping what is up to date", _run, _run_options),
    "plan": verb("which jobs would run, why, and the command of each", _plan),
    "backfill": verb("run many days, the oldest first; one that fails stops no other", _backfill, _backfill_options),
    "sweep": verb("train a day's model many times with other settings, and compare", _sweep, _sweep_options),
    "grid": verb("fill a table of the MIC or MicRec paper on this data, cell by cell", _grid, _grid_options),
    "compare": verb("whether one variant, channel or day is better than another, user by user", _compare, _compare_options),
    "export": verb("write the two towers of a day's model as ONNX or TorchScript", _export, _export_options),
    "init": verb("look at raw data and write settings that run", _init, _init_options, common=False),
    "config": verb("print the resolved settings, each key with its meaning", _config),
    "doctor": verb(_DOCTOR, _doctor, common=False),
    **TABLE_VERBS,
    **{name: Verb(doc, _job) for name, doc in _JOB_DOCS.items()},
    "train": verb(_JOB_DOCS["train"], _train, _train_options),
    "report": verb(_JOB_DOCS["report"], _report, _report_options),
}

if __name__ == "__main__":
    sys.exit(main())
