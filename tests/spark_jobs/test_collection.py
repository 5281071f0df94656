"""The verb gc: what it prints, its status file and its exit codes."""

import json
from pathlib import Path

import pytest

from conf.storage import Store
from spark_jobs import cli
from tests.faults.publishing import DS, everything_under, publish, settings_at


@pytest.fixture
def root(tmp_path) -> Path:
    """Four runs of a day in main, two in exp."""
    settings = settings_at(tmp_path / "root")
    for variant, count in (("main", 4), ("exp", 2)):
        for number in range(count):
            publish(Store.of(settings, variant), settings, f"r{number}", "12345678")
    return tmp_path / "root"


def collect(root: Path, *words: str) -> int:
    return cli.main(["gc", "--set", f"storage.root={root}", "--min-age-h", "0", *words])


def test_dry_run_says_what_would_go_and_touches_nothing(root, capsys):
    before = everything_under(root)
    assert collect(root, "--keep", "1", "--dry-run") == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" bytes=", 1)[0] for line in lines] == [
        f"would remove variant=main job=events ds={DS} run={run} files=6" for run in ("r0", "r1")
    ]
    size = sum(int(line.rsplit("=", 1)[1]) for line in lines)
    assert total == f"would remove runs=2 checkpoints=0 files=12 bytes={size} kept=4 younger=0 locked=0"
    assert everything_under(root) == before


def test_what_went_is_summed_logged_and_kept_in_the_status_file(root, capsys):
    assert collect(root, "--keep", "0", "--run-id", "g1") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("removed runs=4 checkpoints=0 files=24 bytes=")
    gone = [json.loads(line) for line in shown.err.splitlines()]
    assert [(line["variant"], line["removed_run"]) for line in gone] == [("exp", "r0"), ("main", "r0"), ("main", "r1"), ("main", "r2")]
    status = json.loads((root / "_runs" / "g1.json").read_text())
    assert (status["command"], status["status"], status["stages"][0]["runs"]) == ("gc", "ok", 4)


def test_a_variant_or_a_day_alone(root, capsys):
    assert collect(root, "--keep", "0", "--variant", "exp") == 0
    assert "removed runs=1 " in capsys.readouterr().out
    assert collect(root, "--keep", "0", "--ds", "2026-01-01") == 0
    assert "removed runs=0 " in capsys.readouterr().out
    assert collect(root, "--keep", "0", "--variant", "main", "--ds", DS) == 0
    assert "removed runs=3 " in capsys.readouterr().out


def test_the_newest_two_and_the_last_day_stay_unless_told_otherwise(root, capsys):
    assert cli.main(["gc", "--set", f"storage.root={root}"]) == 0
    assert "removed runs=0 checkpoints=0 files=0 bytes=0 kept=5 younger=1 locked=0" in capsys.readouterr().out


def test_damage_ends_with_exit_6_and_names_the_file(root, capsys):
    pointer = root / "exp" / "_current" / "events" / f"ds={DS}.json"
    pointer.write_text("{")
    before = {path for path in everything_under(root) if not path.startswith("_runs")}
    assert collect(root, "--keep", "0") == 6
    error = capsys.readouterr().err
    assert f"{pointer} is damaged" in error
    assert "nothing was removed; exit 6" in error
    assert before == {path for path in everything_under(root) if not path.startswith("_runs")}
