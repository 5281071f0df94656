"""Names from outside: days, variants, run ids, tables, keys. Each is refused with exit 2, and nothing is written anywhere."""

import json

import pytest

from conf.settings import load
from conf.storage import Store
from spark_jobs import cli
from spark_jobs.job import Job, main
from tests.faults.publishing import everything_under, publish, settings_at

HOSTILE = ("../../x", "a/../b", "/etc/passwd", "x; rm -rf ~", "'; DROP TABLE clicks; --", '"', "$(touch pwned)", "a\nb", "..", "_current")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder with settings, a root with one published day, and a neighbour that must stay as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("storage: {root: root}\n")
    (tmp_path / "neighbour").mkdir()
    settings = settings_at(tmp_path / "root")
    publish(Store.of(settings), settings, "r1", "one")
    return tmp_path


def _job(*_):
    pytest.fail("the job ran")


def refused(argv, capsys) -> str:
    """Run as a verb; exit 2 and no trace; the message."""
    try:
        code = cli.main(argv)
    except SystemExit as usage:  # argparse
        code = usage.code
    captured = capsys.readouterr()
    assert code == 2, captured
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("option", ["--ds", "--variant", "--run-id"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_days_variants_and_run_ids(inside, option, name, capsys):
    before = everything_under(inside)
    assert main(Job("sessions", _job), ["--config", "my.yaml", f"{option}={name}"]) == 2
    assert option in capsys.readouterr().err
    assert f"{option}" in refused(["plan", "--config", "my.yaml", f"{option}={name}"], capsys)
    assert everything_under(inside) == before


@pytest.mark.parametrize("verb", ["path", "show", "runs", "rollback"])
@pytest.mark.parametrize("name", [*HOSTILE, "vocab", "Events"])
def test_hostile_table_and_job_names(inside, verb, name, capsys):
    before = everything_under(inside)
    words = [verb, "--config", "my.yaml", "--ds", "2026-01-31", *(["--to", "r1"] if verb == "rollback" else []), "--", name]
    assert "unknown" in refused(words, capsys)
    assert everything_under(inside) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_rollback_targets(inside, name, capsys):
    before = everything_under(inside)
    assert "no committed run" in refused(["rollback", "events", "--config", "my.yaml", "--ds", "2026-01-31", f"--to={name}"], capsys)
    assert not everything_under(inside) - before - {"root/main/_locks/events/ds=2026-01-31.json.guard"}


@pytest.mark.parametrize("name", ["vocab_../../x", "vocab_'", "vocab_city; --"])
def test_vocabularies_of_no_field_are_not_there_and_touch_nothing(inside, name, capsys):
    before = everything_under(inside)
    assert cli.main(["path", "--config", "my.yaml", "--ds", "2026-01-31", "--", name]) == 3
    assert "is not there yet" in capsys.readouterr().err
    assert everything_under(inside) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_keys_and_overrides(inside, name, capsys):
    (inside / "bad.yaml").write_text(f"storage: {{root: root}}\n{json.dumps(name)}: {{a: 1}}\n")
    before = everything_under(inside)
    assert "unknown key" in refused(["plan", "--config", "bad.yaml"], capsys)
    refused(["plan", "--config", "my.yaml", "--set", f"{name}=1"], capsys)
    refused(["plan", "--config", "my.yaml", "--set", f"source.fields={{user: {{'{name}': single}}}}"], capsys)
    refused(["plan", "--config", name], capsys)
    assert everything_under(inside) == before


def test_wrong_settings_name_key_line_and_neighbour(inside, capsys):
    (inside / "bad.yaml").write_text("storage: {root: root}\ntrainer:\n  btch: 3\n")
    text = refused(["plan", "--config", "bad.yaml"], capsys)
    assert "unknown key trainer.btch (line 3)" in text
    assert "did you mean: batch ?" in text
    assert "no such configuration" in refused(["plan", "--config", "dmeo"], capsys)
    assert "'2026-02-30' is not a day" in refused(["plan", "--config", "my.yaml", "--ds", "2026-02-30"], capsys)


def test_an_odd_root_holds_everything_written(inside):
    """Quotes, blanks and semicolons in the root are only a folder name."""
    odd = 'it\'s; "odd" $(x)'
    (inside / "odd.yaml").write_text(f"storage: {{root: {json.dumps(odd)}}}\n")
    settings = load("odd.yaml")
    before = everything_under(inside)
    publish(Store.of(settings), settings, "r1", "one")
    assert {path.split("/")[0] for path in everything_under(inside) - before} == {odd}
