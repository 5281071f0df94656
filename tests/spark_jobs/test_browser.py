"""The eye of the browser tests: it sees what is wrong."""

from pathlib import Path

from tests.spark_jobs.browser import faults_of, needs_browser


@needs_browser
def test_each_fault_is_seen(tmp_path: Path) -> None:
    wide = '<!doctype html><body style="margin: 0"><div style="width: 450px">wide</div><svg width="10" height="10"></svg>'
    more = '<svg width="10" height="10"><rect width="9" height="9"/></svg><script>nosuch()</script>'
    *errors, needs, one, two = faults_of(wide + more, tmp_path, dark=True, widths=(400, 500))
    assert len(errors) == 2
    assert all("nosuch is not defined" in error for error in errors)
    assert [needs, one, two] == ["400 px: needs 450", "400 px: 1 of 2 pictures drawn", "500 px: 1 of 2 pictures drawn"]
