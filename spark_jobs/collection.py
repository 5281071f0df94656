"""The verb gc: removes the runs that nobody needs, or says which those are."""

from conf.command import Request, RunStatus, Timer
from conf.removal import Removed, planned, remove
from conf.retention import Doomed, Rule


def collect(asked: Request, rule: Rule) -> int:
    """Remove what may go by the rule and print one line of what went; with --dry-run one line a run instead, and the same sum.

    Raises:
        RetentionError: a damaged file might name what was to go; nothing is removed.
    """
    if asked.dry_run:
        _, plan = planned(asked.settings, rule)
        would = Removed(kept=plan.kept, young=plan.young, locked=plan.locked)
        for one in plan.doomed:
            print(f"would remove {one}")
            would = would.plus(one)
        print(f"would remove {would}", flush=True)
        return 0

    def told(one: Doomed) -> None:
        asked.log("removed", variant=one.day.variant, job=one.day.job, ds=one.day.ds, removed_run=one.run_id, bytes=one.bytes)

    with RunStatus(asked, "gc") as status:
        timer = Timer()
        removed = remove(asked.settings, rule, asked.run_id, told)
        status.stage("gc", "ok", timer.seconds, runs=removed.runs, files=removed.files, bytes=removed.bytes)
    print(f"removed {removed}", flush=True)
    return 0
