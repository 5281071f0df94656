"""The command: every verb answers, help texts are golden, wrong use says what to do and exits with the documented code."""

import json
from pathlib import Path

import pytest

from conf import jobs
from conf.settings import load
from spark_jobs import cli

GOLDEN = Path(__file__).parents[1] / "golden"


def test_overview_is_the_golden_text(capsys):
    assert cli.main([]) == 0
    assert capsys.readouterr().out == (GOLDEN / "overview.txt").read_text()


@pytest.mark.parametrize("verb", ["run", "plan", "backfill", "rollback", "gc", "erase", "diff", "compare", "path", "init"])
def test_help_of_a_verb_is_the_golden_text(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == (GOLDEN / f"{verb}.txt").read_text()


def test_every_job_is_a_verb():
    assert set(jobs.JOBS) <= set(cli.VERBS)
    assert all(verb.doc for verb in cli.VERBS.values())


def test_unknown_verb_lists_the_known_ones(capsys):
    assert cli.main(["trane"]) == 2
    assert "unknown verb 'trane'; known: run, plan" in capsys.readouterr().err


def test_config_prints_settings_that_load_again(tmp_path, capsys):
    assert cli.main(["config", "--config", "demo", "--set", "model.dim=32"]) == 0
    text = capsys.readouterr().out
    assert "  dim: 32" in text
    (tmp_path / "again.yaml").write_text(text)
    assert cli.main(["config", "--config", str(tmp_path / "again.yaml")]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["plan", "--config", "demmo"], 2, "no such configuration"),
        (["plan", "--ds", "2026-02-30"], 2, "'2026-02-30' is not a day"),
        (["plan", "--ds", "../../x"], 2, "is not a day"),
        (["plan", "--variant", "a/../b"], 2, "cannot be a name"),
        (["plan", "--run-id", "x; rm -rf ~"], 2, "cannot be a name"),
        (["plan", "--set", "trainer.btch=3"], 2, "did you mean: batch ?"),
        (["path", "candidate"], 2, "unknown table 'candidate'"),
        (["runs", "sesions"], 2, "unknown job 'sesions'"),
        (["path", "candidates"], 3, "is not there yet"),
        (["run", "--until", "smaples"], 2, "unknown stage 'smaples'"),
        (["offline_metrics", "--candidates-ds", "2026-01-31", "--truth-ds", "2026-01-30"], 2, "2026-01-30 is not after ds 2026-01-31"),
        (["offline_metrics", "--ds", "2026-01-31", "--truth-ds", "2026-02-07"], 3, "run: trichannel ingest --ds 2026-02-07"),
        (["gc", "--keep", "-1", "--min-age-h", "-2"], 2, "--min-age-h -2.0   give 0 or more"),
        (["gc", "--ds", "yesterday"], 2, "'yesterday' is not a day"),
        (["erase", "--ds", "2026-01-31"], 2, "--ds and --variant name a part"),
        (["erase"], 2, "source.erasure names no list of users"),
    ],
)
def test_wrong_use_says_what_to_do(argv, code, words, tmp_path, capsys):
    assert cli.main([*argv, "--set", f"storage.root={tmp_path}/root"]) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.parquet"))


def test_plan_names_every_stage_with_its_command(tmp_path, capsys):
    assert cli.main(["plan", "--config", "demo", "--set", f"storage.root={tmp_path}/root"]) == 0
    out = capsys.readouterr().out
    for job in jobs.stages(load("demo")):
        assert f"{job:16} run: nothing is committed for the day" in out
    assert "spark-submit --py-files dist/trichannel.zip spark_jobs/sessions.py --config demo --ds 2026-01-31" in out
    assert "-np 2 --gloo" in out
    assert not (tmp_path / "root").exists()


def test_production_settings_are_planned_away_from_their_cluster(capsys):
    assert cli.main(["plan", "--config", "production", "--set", "storage.root=nosuch://warehouse"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("run: not known, nosuch://warehouse cannot be reached") == len(jobs.stages(load("production")))
    assert "retrieval/candidates.py --config production" in shown


def test_production_settings_are_planned(capsys, tmp_path):
    assert cli.main(["plan", "--config", "production", "--set", f"storage.root={tmp_path}/root"]) == 0
    assert "retrieval/candidates.py --config production" in capsys.readouterr().out


def test_show_path_runs_rollback_on_a_published_table(tmp_path, capsys):
    """Two committed runs of one job, made through the publication protocol itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from conf.files import hash_file
    from conf.storage import FileEntry, Store

    root = ["--set", f"storage.root={tmp_path}/root"]
    settings = load("demo", [root[1]])
    store = Store.of(settings)
    for run_id in ("r1", "r2"):
        with store.publication("sessions", "2026-01-31", run_id, settings) as publication:
            folder = publication.folder("sessions")
            pq.write_table(pa.table({"user_idx": [1, 2], "run": [run_id] * 2}), f"{folder}/a.parquet")
            size, sha256 = hash_file(store.fs, f"{folder}/a.parquet")
            publication.seal("sessions", [FileEntry("a.parquet", 2, size, sha256, (2,))], rows=2, content_hash=f"2:{run_id}")
            publication.commit()
    assert cli.main(["path", "sessions", *root]) == 0
    assert capsys.readouterr().out.strip().endswith("main/sessions/ds=2026-01-31/run=r2")
    assert cli.main(["show", "sessions", "--rows", "1", *root]) == 0
    manifest, row = capsys.readouterr().out.rsplit("}\n{", 1)
    assert json.loads(manifest + "}")["run_id"] == "r2"
    assert json.loads("{" + row) == {"user_idx": 1, "run": "r2"}
    assert cli.main(["rollback", "sessions", "--to", "r1", *root]) == 0
    assert "current sessions ds=2026-01-31 run=r1" in capsys.readouterr().out
    assert cli.main(["runs", "sessions", *root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == ["*", " "]
    assert cli.main(["rollback", "sessions", "--to", "r9", *root]) == 2
    assert "known: r1, r2" in capsys.readouterr().err


def test_doctor_finds_nothing_wrong_in_a_set_up_environment(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("Python", "Java", "Spark", "torch", "Horovod", "FAISS", "Petastorm", "conf package", "machine"):
        assert name in out
    assert "gloo" in out


def test_doctor_says_what_to_type(capsys, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    assert cli.main(["doctor"]) == 2
    assert "type: apt-get install -y openjdk-17-jre-headless" in capsys.readouterr().out
