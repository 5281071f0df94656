"""The grids' cells: pairs that differ in the objective alone, in variants of their own; stopped by a budget, and gone on with."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import yaml

from conf import jobs
from conf.command import Log, Request
from conf.errors import SettingsError, UsageError
from conf.settings import load
from conf.storage import MAIN, Store
from spark_jobs import cli
from spark_jobs.grid import Options, grid, own_stages, requests_of, seconds_of, shared_stages
from spark_jobs.grids import GRIDS, published_data
from tests.tiny_day import TinyDay

DS = "2026-01-31"


# of two users: one that has tuned nothing, and one whose own base loss and contrasts a grid must not trip over
CONFIGS = {
    "bare": {"semantics": {"kind": "taxonomy"}, "source": {"fields": {"item": {"category": "single"}}}},
    "tuned": {
        "source": {"fields": {"item": {"category": "single"}}},
        "semantics": {"kind": "taxonomy"},
        "base": {"loss": "sampled_softmax", "negatives": "mixed", "temperature": 0.1},
        "objectives": {"mic": {"weight": 0.5, "uu": 0, "temperature": 0.2}, "micrec": {"weight": 2}, "masked_views": {"weight": 0.2}},
        "mining": {"warmup_epochs": 0},
        "trainer": {"batch": 512},
    },
}


def asked(folder: Path, *overrides: str, config: str = "bare", **changed: object) -> Request:
    """A request for a configuration in the folder, whose root is the folder root."""
    file = folder / f"{config}.yaml"
    file.write_text(yaml.safe_dump({**CONFIGS[config], "storage": {"root": str(folder / "root")}}))
    settings = load(str(file), overrides)
    day = Request(str(file), settings, overrides, DS, MAIN, "r1", force=False, break_lock=False, dry_run=False, log=Log("json"))
    return replace(day, **changed)


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Settings by dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return dict(chain.from_iterable(flat(inner, f"{prefix}.{name}".lstrip(".")).items() for name, inner in value.items()))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", GRIDS)
def test_a_pair_of_cells_differs_in_the_objective_alone(name, config, tmp_path):
    chosen = GRIDS[name]
    made = requests_of(asked(tmp_path, config=config), chosen, 2)
    pairs = [(own.base, own.name, seed) for own in chosen.cells for seed in (1, 2) if own.base]
    assert pairs
    for one, other, seed in pairs:
        base, cell = made[one, seed].settings, made[other, seed].settings
        before, after = flat(base.model_dump(mode="json")), flat(cell.model_dump(mode="json"))
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed
        assert [key for key in changed if key != "base.weight" and key.split(".")[0] not in ("objectives", "mining")] == []
        assert base.objectives.mic is base.objectives.micrec is base.objectives.masked_views is base.mining is None
        assert base.base.weight == 1
        assert (base.trainer.seed, cell.trainer.seed) == (seed, seed)


@pytest.mark.parametrize("name", GRIDS)
def test_all_cells_read_the_same_tables_until_the_training(name, tmp_path):
    made = requests_of(asked(tmp_path), GRIDS[name], 2)
    sections = sorted({section for job in shared_stages(asked(tmp_path).settings) for section in jobs.JOBS[job].settings})
    assert len({own.settings.section_hash(sections) for own in made.values()}) == 1
    trained = {own.settings.section_hash(jobs.JOBS["train"].settings) for own in made.values()}
    assert len(trained) == len(made) == len({own.variant for own in made.values()})
    assert len({repr(own.settings.trainer.model_copy(update={"seed": 0})) for own in made.values()}) == 1  # batch, epochs, optimiser
    assert own_stages(asked(tmp_path).settings) == ("train", "embed", "index", "neighbours", "candidates", "offline_metrics")


def test_a_cell_of_two_tables_is_one_run(tmp_path):
    """What table 2 has trained, table 3 or 4 finds done: the same variant by the same settings."""
    for first, second, num in (("mic_table2", "mic_table3", 2), ("micrec_table2", "micrec_table4", 3), ("micrec_table2", "micrec_fig3", 2)):
        one, two = (requests_of(asked(tmp_path), GRIDS[name], 1) for name in (first, second))
        shared = one.keys() & two.keys()
        assert len(shared) == num
        for key in shared:
            assert (one[key].variant, one[key].settings) == (two[key].variant, two[key].settings)


def test_a_whole_table_of_one_seed_comes_before_the_next_and_bases_first(tmp_path):
    keys = list(requests_of(asked(tmp_path), GRIDS["micrec_table4"], 2))
    assert [seed for _, seed in keys] == [1] * 5 + [2] * 5
    assert keys[0] == ("ican", 1)
    assert [cell for cell, _ in requests_of(asked(tmp_path), GRIDS["mic_table2"], 1)] == [
        *("dnn", "dnn-mic", "comirec", "comirec-mic", "dssm", "dssm-mic")
    ]


def test_the_contrasts_of_each_cell(tmp_path):
    made = {cell: own.settings.objectives.mic for (cell, _), own in requests_of(asked(tmp_path), GRIDS["mic_table3"], 1).items()}
    on = {cell: None if mic is None else (mic.uv, mic.uu, mic.vv) for cell, mic in made.items()}
    assert on == {
        **{"dssm": None, "dssm-ui": (1, 0, 0), "dssm-uu": (0, 1, 0), "dssm-ii": (0, 0, 1), "dssm-ui-uu": (1, 1, 0)},
        **{"dssm-ui-ii": (1, 0, 1), "dssm-uu-ii": (0, 1, 1), "dssm-mic": (1, 1, 1)},
    }
    made = {cell: own.settings.objectives.micrec for (cell, _), own in requests_of(asked(tmp_path), GRIDS["micrec_table4"], 1).items()}
    on = {cell: None if micrec is None else (micrec.fea, micrec.sem, micrec.sess) for cell, micrec in made.items()}
    assert on == {
        **{"ican": None, "ican-all": (1, 0.3, 0.1), "ican-sem-sess": (0, 0.3, 0.1)},
        **{"ican-fea-sess": (1, 0, 0.1), "ican-fea-sem": (1, 0.3, 0)},
    }


def test_settings_of_the_user_win_over_defaults_and_never_over_what_makes_a_cell(tmp_path):
    own = requests_of(asked(tmp_path, "base.num_negatives=7", "objectives.mic.temperature=0.2", "trainer.seed=5"), GRIDS["mic_table2"], 1)
    assert {one.settings.base.num_negatives for one in own.values()} == {7}
    mic = own["dssm-mic", 5].settings.objectives.mic
    assert mic is not None
    assert mic.temperature == 0.2
    assert own["dssm", 5].settings.objectives.mic is None
    for wrong in ("model.encoder=ican", "base.weight=0.5", "objectives.mic.uv=0", "objectives.masked_views.weight=0.3"):
        with pytest.raises(UsageError, match=rf"{wrong.partition('=')[0]}: every cell of the grid has its own"):
            requests_of(asked(tmp_path, wrong), GRIDS["mic_table2"], 1)


def test_faults_of_the_cells_come_once_each(tmp_path):
    with pytest.raises(SettingsError, match=r"set semantics\.kind") as refused:
        requests_of(asked(tmp_path, "semantics.kind=null"), GRIDS["micrec_table2"], 3)
    assert len(refused.value.faults) == 1


@pytest.mark.parametrize("name", ["micrec_table2", "micrec_table4", "micrec_fig3"])
def test_micrec_is_measured_as_of_the_click(name, tmp_path):
    """Algorithms.md 8.3: HIT by the clicks before each, unless somebody asks for the cut."""
    own = next(iter(requests_of(asked(tmp_path, "split.kind=last_k"), GRIDS[name], 1).values()))
    assert "click_ranks" in own_stages(own.settings)
    assert {column.metric for column in GRIDS[name].columns} <= {"hit_click", "coverage"}
    with pytest.raises(UsageError, match="max_clicks: 0 asks for no list as of a click"):
        requests_of(asked(tmp_path, "evaluation.max_clicks=0"), GRIDS[name], 1)


def test_wrong_use_is_refused_before_anything_runs(tmp_path):
    out = tmp_path / "results.md"
    out.write_text("<!-- grid mic_table2 bare -->\n")
    for name, options, changed, words in (
        ("mic_table9", Options(), {}, "known: mic_table2, mic_table3"),
        ("mic_table2", Options(), {"variant": "other"}, "every cell has variants of its own"),
        ("mic_table2", Options(seeds=0), {}, "is no number of trainings"),
        ("mic_table2", Options(out=out), {}, "are not one pair"),
    ):
        with pytest.raises(UsageError, match=words):
            grid(asked(tmp_path, **changed), name, options)
    assert not (tmp_path / "root").exists()


def test_budget():
    assert [seconds_of(text) for text in ("90s", "60m", "1.5h", "0s")] == [90, 3600, 5400, 0]
    for text in ("60", "h", "-3m", "1d"):
        with pytest.raises(UsageError, match="is no time"):
            seconds_of(text)


def test_data_of_the_papers():
    assert published_data(load("amazon_books")) == "Amazon Books"
    assert published_data(load("taobao")) == "Taobao"
    assert published_data(load("demo")) is published_data(load("movielens")) is None
    assert published_data(load("amazon_books", ["source.path=reviews_Beauty_5.json"])) is None


@pytest.mark.parametrize(
    ("name", "cells", "one"),
    [
        ("mic_table2", 6, "mic-comirec-mic"),
        ("mic_table3", 8, "mic-dssm-ui-ii"),
        ("micrec_table2", 8, "micrec-ican-fea-sess"),
        ("micrec_table4", 5, "micrec-ican-sem-sess"),
        ("micrec_fig3", 8, "micrec-autoint-all"),
    ],
)
def test_dry_run_starts_nothing(name, cells, one, tmp_path, capsys):
    assert cli.main(["grid", name, "--config", asked(tmp_path).config, "--seeds", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count("cell=") == cells
    assert f"--variant grid-{one}-s1" in out
    assert "nothing is committed for the day" in out
    assert not (tmp_path / "root").exists()


# ---- the whole way ---------------------------------------------------------------------------------------------------


def states(root: Path) -> dict[str, str]:
    told = json.loads((root / "_grids" / DS / "demo" / "mic_table2" / "grid.json").read_text())
    return {f"{cell['cell']}-s{cell['seed']}": cell["state"] for cell in told["cells"]}


def run_grid(day: TinyDay, *words: str) -> str:
    """What the command printed."""
    command = [sys.executable, "-m", "spark_jobs.cli", "grid", "mic_table2", *day.arguments, "--seeds", "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow  # six trainings
@pytest.mark.timeout(1800)
def test_a_grid_stops_by_its_budget_and_goes_on(tiny_day: TinyDay, tmp_path: Path):
    """On a day that production has run: its tables stay as they are, and a cell that is done is not done again."""
    root, out = tmp_path / "root", tmp_path / "results.md"
    out.write_text("# Results\n")
    shutil.copytree(tiny_day.root, root)
    day = TinyDay(root)
    single = ("trainer.launcher=single", "trainer.workers=1", "trainer.epochs=1", "trainer.batches=arrow")
    words = ["--out", str(out), *chain.from_iterable(("--set", word) for word in single)]
    before = {job: day.store.current(job, DS) for job in jobs.stages(day.settings)}

    run_grid(day, *words, "--budget", "0s")
    assert set(states(root).values()) == {"unfinished"}

    first = run_grid(day, *words, "--budget", "1s")
    assert [cell for cell, state in states(root).items() if state == "finished"] == ["dnn-s1"]
    assert "Unfinished: DNN + MIC (seeds 1); ComiRec (seeds 1)" in first
    assert "Unfinished: " in out.read_text()
    kept = Store(str(root), "grid-mic-dnn-s1").current("train", DS)

    second = run_grid(day, *words)
    assert set(states(root).values()) == {"finished"}
    assert Store(str(root), "grid-mic-dnn-s1").current("train", DS) == kept
    assert "Unfinished" not in second
    assert second.count("| gain ") == 9
    assert out.read_text().startswith("# Results\n\n<!-- grid mic_table2 demo -->\n### MIC, table 2: demo\n")
    assert out.read_text().count("### MIC") == 1
    assert (root / "_grids" / DS / "demo" / "mic_table2" / "grid.md").read_text() in second
    assert {job: day.store.current(job, DS) for job in before} == before
    assert not (root / "grid-mic-dnn-s1" / "samples").exists()

    told = json.loads((root / "_grids" / DS / "demo" / "mic_table2" / "grid.json").read_text())
    cells = {cell["cell"]: cell for cell in told["cells"]}
    assert all(cell["seconds"] > 0 for cell in cells.values())
    line = next(line for line in told["lines"] if line["cell"] == "dssm-mic" and line["channel"] == "u2i")
    own, base = (cells[name]["values"]["u2i"]["Recall@20"] for name in ("dssm-mic", "dssm"))
    assert line["gains"][0]["percent"] == pytest.approx(100 * (own / base - 1))
    assert line["gains"][0]["low"] <= line["gains"][0]["percent"] <= line["gains"][0]["high"]
