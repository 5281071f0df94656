"""Lists compared with those of the last days: measured by hand, refused with range and setting named, nothing published."""

import numpy as np
import pytest

from conf.errors import GateError
from conf.sections.evaluation import Lists
from retrieval import candidates
from retrieval.candidate_rows import Tally
from retrieval.gates import _WORDS, COUNTER, measure, strayed
from retrieval.merge import Merged
from retrieval.ragged import Ragged
from spark_jobs.job import run_job
from tests.retrieval.conftest import ask
from tests.retrieval.day import manifest, table

WEEK = {f"2026-01-0{n}": {"users": 100 + n, "coverage": 0.5, "fallback": 0.1, "valid_recall": 0.1 * n} for n in (1, 2, 3)}


def test_measures_by_hand():
    """Four users in two tasks, two channels; the merged lists hold items 1 and 2, 2, none, and 3, 1 and 4."""
    tasks = []
    for channels, lists, fallback in [
        ({"u2i": [[1], [1]], "i2i": [[2, 3], []]}, [[1, 2], [2]], [False, True]),
        ({"u2i": [[], [1]], "i2i": [[], [2, 3]]}, [[], [3, 1, 4]], [False, False]),
    ]:
        merged = Ragged.of(lists)
        none = Ragged.empty(len(merged.values))
        tally = Tally()
        tally.add(
            {name: Ragged.of(one) for name, one in channels.items()},
            Merged((), merged, none, none.values, np.empty(0, np.float32), np.array(fallback)),
        )
        tally.mark(np.isin(np.arange(1 + max(merged.values)), merged.values))
        tasks.append(tally)
    total = Tally()
    for task in tasks:
        total.update(task)
    wanted = {"users": 4.0, "items_per_user": 1.5, "channels_per_user": 1.25, "fallback": 0.25, "coverage": 0.5}
    assert measure(total, indexed=8) == wanted
    assert (total.lengths, total.empty) == ({"u2i": 3, "i2i": 4}, {"u2i": 1, "i2i": 2})


@pytest.mark.parametrize(
    ("today", "said"),
    [
        ({"users": 70.8, "coverage": 0.36, "fallback": 0.29}, []),  # 101 * 0.7 = 70.7
        ({"users": 70.6}, ["users: 70.6"]),
        ({"users": 1000, "coverage": 0.99, "fallback": 0.0}, []),  # only worse is refused
        (
            {"coverage": 0.34, "fallback": 0.31},
            ["share of the recommendable items that stand in any list: 0.34", "share of users without history: 0.31"],
        ),
        ({"index_recall": 0.0001}, []),  # no earlier day has it
        ({"valid_recall": 0.079}, ["recall of the model on valid clicks: 0.079"]),  # 0.1 * 0.8 = 0.08
    ],
)
def test_what_falls_behind_is_named(today, said):
    assert [fault.what for fault in strayed(today, WEEK, Lists())] == said


def test_a_fault_names_range_days_and_setting():
    (fault,) = strayed({"users": 10}, WEEK, Lists())
    assert fault.found == "3 days from 2026-01-01 to 2026-01-03: 101 to 103"
    assert "--set gates.lists.users=null (it is 0.3)" in fault.fix


def test_too_few_days_or_no_limit_give_no_verdict():
    assert not list(strayed({"users": 1}, dict(list(WEEK.items())[:2]), Lists()))
    assert not list(strayed({"users": 1}, WEEK, Lists(users=None)))


def test_the_measures_of_a_day_are_its_lists(day):
    found, rows = manifest(day, "candidates").counters[COUNTER], table(day, "candidates")
    indexed = manifest(day, "index").counters["index_items"]["indexed"]
    assert found["compared_days"] == []
    assert found["measures"]["users"] == len({row["user_key"] for row in rows})
    assert found["measures"]["items_per_user"] == pytest.approx(len(rows) / found["measures"]["users"], abs=1e-6)
    assert found["measures"]["coverage"] == pytest.approx(len({row["item_key"] for row in rows}) / indexed, abs=1e-6)


def test_a_day_that_fell_behind_is_not_published(variant, spark):
    """The days before had twice of everything: each measure is refused with its range, and the day before stays the latest."""
    made = variant("fallen", gates={"lists": {"min_days": 2}})
    run_job(candidates.JOB, spark, ask(made))
    gate = manifest(made, "candidates").counters[COUNTER]
    assert gate["compared_days"] == []
    assert set(gate["measures"]) == {"users", "items_per_user", "channels_per_user", "coverage", "fallback", "index_recall"}
    twice = {name: 2 * value for name, value in gate["measures"].items()} | {"fallback": gate["measures"]["fallback"] - 0.3}
    doubled = {**gate, "measures": twice}
    for ds in ("2020-01-01", "2020-01-02"):
        with made.store.publication("candidates", ds, "earlier", made.settings) as publication:
            for name in ("candidates", "channel_candidates"):
                publication.seal(name, (), rows=0, content_hash="0:0", counters={COUNTER: doubled})
            publication.commit()
    wanted = r"(?s)unlike those of the last days.*users: 40 .*2 days from 2020-01-01 to 2020-01-02: 80 to 80"
    with pytest.raises(GateError, match=wanted) as refused:
        run_job(candidates.JOB, spark, ask(made, "r2"))
    assert refused.value.exit_code == 4
    assert [fault.what.split(":")[0] for fault in refused.value.faults] == [_WORDS[name] for name in twice]
    assert manifest(made, "candidates").run_id == "r1"
