"""What the readable engine promises about itself: Spark SQL alone, and nothing of the compiled engine."""

from conf.masks import Masking
from conf.tables import TRAIN
from spark_jobs.session_cuts import Rule
from spark_jobs.sql.cooccurrence import count_close_pairs, count_pairs
from spark_jobs.sql.masks import with_masks
from spark_jobs.sql.samples import cut_windows
from spark_jobs.sql.sessions import sessionise
from spark_jobs.sql.user_blocks import cut_blocks
from tests.spark_jobs.sql.many_logs import Event, events_of
from tests.test_architecture import ROOT, imports


def test_no_plan_leaves_the_virtual_machine(spark):
    events, cuts = events_of(spark, [Event(1, 2, 3, 0, TRAIN)]), Rule("gap", 60, max_span_s=90)
    rule = {"counting": "window", "window": 3, "max_session_items": 9}
    masking = Masking(history=3, user_fields=3, item_fields=2, p_field=0.3, p_hist=0.2, draws=1, seed=17)
    samples = cut_windows(events, split=TRAIN, history=3, first_target=0, user_columns=(), item_users=2)
    made = [
        sessionise(events, cuts),
        count_pairs(sessionise(events, cuts), **rule),
        count_close_pairs(events, cuts, max_dt_s=9, **rule),
        cut_blocks(events, split=TRAIN, history=3, size=2, first_target=0, user_columns=()),
        with_masks(samples, masking),
    ]
    for df in made:
        plan = df._jdf.queryExecution().executedPlan().toString()
        assert "Window" in plan
        assert not any(sign in plan for sign in ("Python", "Pandas", "InArrow")), plan


def test_imports_neither_numpy_nor_the_compiled_engine():
    for path in (ROOT / "spark_jobs" / "sql").glob("*.py"):
        for name, _ in imports(path):
            ours = name.startswith(("conf.", "spark_jobs.sql.")) or name == "spark_jobs.session_cuts"
            assert ours or name.split(".")[0] in ("pyspark", "typing", "collections", "math"), f"{path.name} imports {name}"
