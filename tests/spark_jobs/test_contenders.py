"""Names of sides as published runs, and every way in which a name can be wrong."""

from dataclasses import replace

import pytest

from conf.errors import BadDataError, NotReadyError, UsageError
from spark_jobs.contenders import contenders
from tests.spark_jobs.published_scores import publish_scores

BOTH = {("u2i", 5): {"ada": 0.5}, ("merged", 5): {"ada": 0.5}, ("merged", 2): {"ada": 0.25}}


@pytest.fixture
def asked(make_request):
    """Three seeds of `mic` (the third at one cut-off only), `main` with a second day, and a variant that was never scored."""
    asked = make_request()
    for variant in ("main", "mic-s1", "mic-s2"):
        publish_scores(asked, variant, BOTH)
    publish_scores(asked, "mic-s3", {("merged", 5): {"ada": 0.5}})
    publish_scores(asked, "main", BOTH, ds="2026-02-01", run_id="r2")
    asked.store.fs.create_dir(f"{asked.store.base}/idle")
    return asked


def test_a_side_is_its_runs_and_what_is_left_out_is_asked_for(asked):
    one, other = contenders(asked, ("main/u2i@2026-02-01", "mic-s1"))
    assert one.told() == {"name": "main/u2i@2026-02-01", "channel": "u2i", "runs": {"main": "r2"}}
    assert (one.at, one.runs[0].ds, one.runs[0].table) == ((5,), "2026-02-01", "metrics_user")
    assert other.told() == {"name": "mic-s1/merged@2026-01-31", "channel": "merged", "runs": {"mic-s1": "r1"}}
    assert other.at == (2, 5)
    (variants_own, _) = contenders(replace(asked, variant="mic-s2"), ("/u2i", "main"))
    assert variants_own.name == "mic-s2/u2i@2026-01-31"


def test_several_trainings_are_named_one_by_one_or_by_a_pattern(asked):
    (listed, _) = contenders(asked, ("mic-s2,mic-s1", "main"))
    assert list(listed.told()["runs"]) == ["mic-s2", "mic-s1"]
    (matched, _) = contenders(asked, ("mic-s*,mic-s1", "main"))
    assert list(matched.told()["runs"]) == ["mic-s1", "mic-s2", "mic-s3"]
    assert matched.at == (5,)  # the third knows no other


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (("main", "mic"), UsageError, "no variant 'mic' under"),
        (("main", "mic"), UsageError, "known: idle, main, mic-s1, mic-s2, mic-s3"),
        (("main", "x-*"), UsageError, "no variant 'x-*'"),
        (("main", "main/u2u"), UsageError, "main of 2026-01-31 has no channel 'u2u'   known: merged, u2i"),
        (("main", "main@2026-02-03"), NotReadyError, "main has no metrics_user of 2026-02-03   committed days: 2026-01-31, 2026-02-01"),
        (("main", "idle"), NotReadyError, "committed days: none   run: trichannel offline_metrics --ds 2026-01-31 --variant idle"),
        (("main", "main"), UsageError, "A and B share a training   main/2026-01-31/r1, channel merged   name another"),
        (("mic-s*", "main,mic-s2"), UsageError, "A and B share a training   mic-s2/2026-01-31/r1"),
        (("main", "main/u2i/x"), UsageError, "'main/u2i/x' names no side   give variant[/channel][@YYYY-MM-DD]"),
        (("main", "main@today"), UsageError, "'main@today' names no side"),
        (("main", "../main"), UsageError, "no variant '..'"),
    ],
)
def test_wrong_names_say_what_there_is(asked, texts, error, words):
    with pytest.raises(error) as raised:
        contenders(asked, texts)
    assert words in str(raised.value)


def test_all_faults_of_both_sides_are_told_at_once(asked):
    with pytest.raises(UsageError) as raised:
        contenders(asked, ("main/u2u,mic", "idle@2026-02-02"))
    assert len(raised.value.faults) == 2
    with pytest.raises(UsageError) as raised:
        contenders(asked, ("main/u2u", "mic,mic-s1/x"))
    assert [fault.what.split(" under")[0] for fault in raised.value.faults] == [
        "main of 2026-01-31 has no channel 'u2u'",
        "no variant 'mic'",
        "mic-s1 of 2026-01-31 has no channel 'x'",
    ]


def test_a_day_that_held_nothing_out_has_nothing_to_compare(asked):
    publish_scores(asked, "production", {})
    with pytest.raises(UsageError, match="production of 2026-01-31 has no user with anything to find   hold clicks out"):
        contenders(asked, ("main", "production"))


def test_damaged_files_are_refused(asked):
    (run,) = contenders(asked, ("main", "mic-s1"))[1].runs
    asked.store.fs.delete_file(f"{asked.store.folder_of(run)}/a.parquet")
    with pytest.raises(BadDataError, match=r"file a\.parquet is damaged"):
        contenders(asked, ("main", "mic-s1"))
