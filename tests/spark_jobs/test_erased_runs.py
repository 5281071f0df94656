"""By which vocabulary a run's users are numbered, where runs name others of earlier days."""

from conf.inventory import Day, Inventory, Run
from conf.manifest import Record
from spark_jobs.erased_runs import vocabularies

DAYS = ("2026-01-30", "2026-01-31")


def test_counts_that_go_on_from_an_earlier_day_are_not_numbered_by_it():
    """Each day numbers anew: taken by the other day's numbers, rows of users who are not erased would go."""
    stock, runs = Inventory({}), {}

    def commit(job, ds, **inputs):
        run = runs[job, ds] = Run(Day("main", job, ds), "r1")
        named = {table: f"main/{runs[key].day.ds}/r1 1:0" for table, key in inputs.items()}
        stock.records[run] = Record(job, "main", ds, "r1", "", {}, named, "")

    for ds in DAYS:
        commit("vocabulary", ds)
        earlier = {"cooc_pairs": ("cooccurrence", DAYS[0])} if ds == DAYS[1] else {}
        commit("cooccurrence", ds, item_feat=("vocabulary", ds), **earlier)
        commit("candidates", ds, cooc=("cooccurrence", ds))
    for ds in DAYS:
        run = runs["candidates", ds]
        assert vocabularies(stock, {run}) == {run: frozenset({runs["vocabulary", ds]})}
