"""The experiment grids: each cell of a paper's table trained, searched and scored in a variant of its own, and the table that comes of it.

A cell that is done is known by its tables, as any stage is: the same command does only what is missing. Production's tables stay as they
are; what all cells share (all before the training) is made in `main` once, where it is not there yet.
"""

import re
import shlex
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conf import jobs
from conf.command import Log, Request, RunStatus, Timer, exit_code
from conf.errors import BadDataError, Fault, SettingsError, TrichannelError, UsageError
from conf.names import check_name
from conf.settings import Settings, load
from conf.storage import MAIN
from spark_jobs.backfill import BY_WEIGHT, OneSession
from spark_jobs.grid_files import Key, Result, check_out, write
from spark_jobs.grid_scores import scores_of
from spark_jobs.grids import GRIDS, Cell, Grid
from spark_jobs.launcher import TRAIN
from spark_jobs.pipeline import describe, plan, run_stages
from spark_jobs.sweep import overrides_of

SECONDS = {"s": 1, "m": 60, "h": 3600}


class GridError(TrichannelError):
    """Cells that failed, one fault each."""

    code, closing = "T802", "all other cells are done or stand in the table as unfinished; the same command tries again"

    def __init__(self, where: str, faults: Sequence[Fault | str], *, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(where, faults)


@dataclass(frozen=True)
class Options:
    """seeds: trainings of a cell. budget_s: seconds after which no further cell starts. out: a Markdown file that takes the table, too."""

    seeds: int = 3
    budget_s: float = 3600.0
    out: Path | None = None


def seconds_of(text: str) -> float:
    """90s, 60m or 1.5h as seconds; raises UsageError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise UsageError("--budget", [Fault(f"{text!r} is no time", fix="give 90s, 60m or 1.5h; 0s runs no cell and shows what is there")])
    return float(found[1]) * SECONDS[found[2]]


def grid_of(name: str) -> Grid:
    """The grid of that name; raises UsageError that lists those there are."""
    if name not in GRIDS:
        raise UsageError("trichannel grid", [Fault(f"unknown grid {name!r}", f"known: {', '.join(GRIDS)}")])
    return GRIDS[name]


def grid(asked: Request, name: str, options: Options) -> int:
    """Run what is missing of the grid while the budget lasts; print its table and write it.

    Raises:
        UsageError: no such grid; a variant other than main; --set names what the cells differ in; main has other tables of the day; --out.
        SettingsError: a cell's settings do not go together. GridError: cells failed; the table was written all the same.
    """
    chosen = grid_of(name)
    if asked.variant != MAIN:
        raise UsageError("trichannel grid", [Fault(f"--variant {asked.variant}", fix="leave it out: every cell has variants of its own")])
    if options.seeds < 1:
        raise UsageError("--seeds", [Fault(f"{options.seeds} is no number of trainings", fix="give 1 or more")])
    if options.out is not None:
        check_out(asked, name, options.out)
    cells = requests_of(asked, chosen, options.seeds)
    if asked.dry_run:
        print("\n".join(_shown(key, own) for key, own in cells.items()))
        return 0
    with RunStatus(asked, "grid") as status:
        failed = run_missing(asked, cells, status, options.budget_s)
        found = {key: scores_of(own) for key, own in cells.items() if is_finished(replace(own, force=False))}
        why = {key: fault.found for key, (_, fault) in failed.items()}
        seconds = {key: seconds_taken(cells[key]) for key in found}
        print(write(asked, Result(name, chosen, cells, found, why, seconds, options.budget_s), options.out), flush=True)
        if failed:
            codes = [code for code, _ in failed.values()]
            worst = max(codes, key=lambda code: BY_WEIGHT.index(code) if code in BY_WEIGHT else len(BY_WEIGHT))
            raise GridError(f"grid {name}", [fault for _, fault in failed.values()], exit_code=worst)
    return 0


# ---- the cells -------------------------------------------------------------------------------------------------------


def requests_of(asked: Request, chosen: Grid, seeds: int) -> dict[Key, Request]:
    """The run of each cell and seed, in the order they are run: a whole table of the first seed before anything of the second.

    Raises:
        UsageError: --set names what makes a cell what it is, or nobody asks for HIT as of the click, which the table shows.
        SettingsError: with the faults of every cell, each once.
    """
    _refuse_fixed(asked, chosen)
    made: dict[Key, Request] = {}
    faults: dict[str, Fault] = {}
    for seed in range(asked.settings.trainer.seed, asked.settings.trainer.seed + seeds):
        for cell in chosen.in_order():
            try:
                made[cell.name, seed] = request_of(asked, chosen, cell, seed)
            except SettingsError as error:
                faults |= {
                    str(fault): replace(fault, what=f"{cell.label}: {fault.what}") for fault in error.faults if str(fault) not in faults
                }
    if faults:
        raise SettingsError(f"{chosen.title}, on {asked.config}", list(faults.values()))
    as_of_click = any(column.metric == "hit_click" for column in chosen.columns)
    if as_of_click and not all(own.settings.evaluation.max_clicks for own in made.values()):
        found = "the table shows HIT as of the click"
        raise UsageError("trichannel grid", [Fault("evaluation.max_clicks: 0 asks for no list as of a click", found, "leave it out")])
    return made


def request_of(asked: Request, chosen: Grid, cell: Cell, seed: int) -> Request:
    """The run of one cell: the configuration, then the grid's defaults, then --set, then what makes the cell."""
    defaults, fixed = overrides_of({**chosen.defaults, **cell.defaults}), overrides_of({**cell.fixed, "trainer.seed": seed})
    overrides = (*defaults, *asked.overrides, *fixed)
    own = f"{cell.name}-s{seed}"
    run_id = check_name("--run-id", f"{asked.run_id}-{own}")
    settings, variant = load(asked.config, overrides), check_name("grid", f"grid-{chosen.family}-{own}")
    return replace(asked, settings=settings, overrides=overrides, variant=variant, run_id=run_id, log=Log(asked.log.format, run_id=run_id))


def _refuse_fixed(asked: Request, chosen: Grid) -> None:
    """Raises UsageError where --set names a setting that a cell would overrule without a word."""
    faults = []
    for override in asked.overrides:
        name = override.partition("=")[0].strip()
        overruled = [
            key
            for key in {key for cell in chosen.cells for key in cell.fixed}
            if (name == key and any(cell.fixed.get(key) is not None for cell in chosen.cells))
            or (f"{name}.".startswith(f"{key}.") and all(key in cell.fixed and cell.fixed[key] is None for cell in chosen.cells))
        ]
        if overruled:
            faults.append(Fault(f"{name}: every cell of the grid has its own", fix="leave it out"))
    if faults:
        raise UsageError("--set", faults)


def stages_of(settings: Settings) -> tuple[str, ...]:
    """The stages of a cell: all of a day but its report, and what the day before found."""
    return tuple(stage for stage in jobs.stages(settings) if stage not in ("yesterday", "report"))


def shared_stages(settings: Settings) -> tuple[str, ...]:
    """Those before the training."""
    stages = stages_of(settings)
    return stages[: stages.index(TRAIN)]


def own_stages(settings: Settings) -> tuple[str, ...]:
    """The training and what follows: those that a cell runs in its own variant."""
    return stages_of(settings)[len(shared_stages(settings)) :]


def is_finished(own: Request, stages: Sequence[str] | None = None) -> bool:
    """Whether every stage of a cell, or of those named, is up to date."""
    wanted = stages or stages_of(own.settings)
    try:
        return not any(stage.reason for stage in plan(own) if stage.name in wanted)
    except BadDataError as error:  # a stage that runs makes the damaged file anew
        own.log("damaged", variant=own.variant, error=str(error))
        return False


def _shown(key: Key, own: Request) -> str:
    """A cell under --dry-run: up to date, or the command that it stands for and its stages."""
    if is_finished(own):
        return f"cell={key[0]} seed={key[1]} variant={own.variant} up to date"
    words = ["trichannel", "run", *own.arguments(), "--until", "offline_metrics"]
    planned = [stage for stage in plan(own) if stage.name in own_stages(own.settings)]
    return f"cell={key[0]} seed={key[1]} {shlex.join(words)}\n{describe(planned, own)}"


# ---- running them ----------------------------------------------------------------------------------------------------


def run_missing(asked: Request, cells: Mapping[Key, Request], status: RunStatus, budget_s: float) -> dict[Key, tuple[int, Fault]]:
    """Run every cell that is not finished, until the time is used up; returns exit code and fault of those that failed."""
    failed: dict[Key, tuple[int, Fault]] = {}
    missing = {key: own for key, own in cells.items() if not is_finished(own)}
    for key in cells.keys() - missing.keys():
        status.stage(cells[key].variant, "skipped", 0.0)
    timer = Timer()
    with OneSession() as spark:
        for key, own in missing.items():
            if timer.seconds >= budget_s:
                asked.log("budget", used_s=round(timer.seconds), budget_s=budget_s, left=len(missing) - list(missing).index(key))
                break
            make_shared(asked, own, status, spark)
            one = Timer()
            try:
                with RunStatus(own, "run") as own_status:
                    run_stages(own_stages(own.settings), spark.get(), own, own_status, resume=True)
            except Exception as error:
                code = exit_code(error)
                why = "; ".join(fault.what for fault in error.faults) if isinstance(error, TrichannelError) else repr(error)[:300]
                failed[key] = code, Fault(f"{key[0]}, seed {key[1]}: exit {code}", why, f"status file: _runs/{own.run_id}.json")
                if not isinstance(error, TrichannelError):  # Spark itself may be what died
                    traceback.print_exc()
                    spark.restart()
            state = "failed" if key in failed else "ok"
            status.stage(own.variant, state, one.seconds, run_id=own.run_id)
            asked.log("cell", cell=key[0], seed=key[1], variant=own.variant, status=state, seconds=round(one.seconds, 1))
    return failed


def make_shared(asked: Request, own: Request, status: RunStatus, spark: OneSession) -> None:
    """Bring the tables that every cell reads up to date in main.

    Raises:
        UsageError: main has some of the day that other settings made; they are not ours to replace.
    """
    stages = shared_stages(own.settings)
    main = replace(own, variant=MAIN, run_id=asked.run_id, force=False, log=asked.log)
    if is_finished(main, stages):
        return
    records = {job: main.store.current(job, main.ds) for job in stages}
    others = [job for job, record in records.items() if record and record.config_hash != jobs.config_hash(job, own.settings)]
    if others:
        found = f"{', '.join(others)} of {main.store.base}/{MAIN}, ds={main.ds}"
        fix = "give the settings that made them, or a root of its own: --set storage.root=FOLDER"
        raise UsageError("trichannel grid", [Fault("tables that all cells share are there by other settings", found, fix)])
    run_stages(stages, spark.get(), main, status)


def seconds_taken(own: Request, stages: Sequence[str] | None = None) -> float:
    """What a cell's own stages, or those named, took, from the status files of the runs that made them; 0 where these are gone."""
    total = 0.0
    for stage in stages or own_stages(own.settings):
        record = own.store.current(stage, own.ds)
        told = (own.store.read_status(record.run_id) or {}) if record else {}
        total += sum(float(entry["seconds"]) for entry in told.get("stages", []) if entry["stage"] == stage and entry["status"] == "ok")
    return total
