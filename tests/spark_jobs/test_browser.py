"""The eye of the browser tests: it sees what is wrong."""

from pathlib import Path

from tests.spark_jobs.browser import faults_of, needs_browser


@needs_browser
def test_each_fault_is_seen(tmp_path: Path) -> None:
    wide = '<!doctype html><body style="margin: 0"><div style="width: 450px">wide</div><svg width="10" height="10"></svg>'
    small = '<svg viewBox="0 0 200 100" style="width: 100px"><text y="20" style="font-size: 18px">small</text><text y="90">over</text>'
    more = '<text y="90" x="4" style="font-size: 18px">other</text></svg><script>nosuch()</script>'
    *errors, needs, one, two, three, four, five, six = faults_of(
        wide + small + more, tmp_path, dark=True, widths=(400, 500), smallest_px=8.5
    )
    assert len(errors) == 2
    assert all("nosuch is not defined" in error for error in errors)
    assert needs == "400 px: needs 450"
    assert [one, four] == [f"{width} px: 1 of 2 pictures drawn" for width in (400, 500)]
    assert [two, five] == [f"{width} px: over | other meet" for width in (400, 500)]
    assert [three, six] == [f"{width} px: letters of 8.0 px: over" for width in (400, 500)]
