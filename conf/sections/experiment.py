"""Settings of an A/B test: where its exposure log is, and what was planned."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from conf.names import is_day
from conf.sections.section import Count, Positive, Section


class ExposureColumns(Section):
    """Where our columns stand in the exposure log; null = it has none, and what needs them is left out."""

    user: str = Field("user_id", description="column of the user's id, the unit of the test")
    day: str = Field("day", description="column of the day, YYYY-MM-DD")
    arm: str = Field("arm", description="column of the arm that the user was given")
    exposed: str | None = Field("exposed", description="column: 0 where nothing was shown; null = every row is an exposure")
    click: str | None = Field("click", description="column of clicks")
    like: str | None = Field("like", description="column of likes")
    follow: str | None = Field("follow", description="column of follows")
    dwell_s: str | None = Field(None, description="column of seconds spent on the item; null = play_s")
    play_s: str | None = Field("play_s", description="column of seconds played; above 0 = one play")
    duration_s: str | None = Field("duration_s", description="column of the seconds that the item lasts")
    stay_s: str | None = Field("stay_s", description="column of seconds in the app that this row adds")
    registered: str | None = Field(None, description="column of the day on which the user registered")


class Ab(Section):
    """One A/B test (job ab_test), up to and including --ds."""

    path: str | None = Field(None, min_length=1, description="file or folder of the exposure log; null = there is no test")
    format: Literal["csv", "json", "parquet"] = Field("csv", description="csv | json | parquet")
    separator: str = Field(",", min_length=1, description="csv separator")
    columns: ExposureColumns = ExposureColumns()
    arms: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {"control": 0.5, "treatment": 0.5}, min_length=2, description="{arm: planned share of users}, the control first; shares in any unit"
    )
    start: str | None = Field(None, description="first day of the test; null = of the log, and there is nothing before it")
    pre_days: Count = Field(14, description="days before the start that CUPED takes users' own numbers from; 0 = no CUPED")
    cold_days: Positive = Field(7, description="cold: registered less than this many days before the start, or few clicks")
    cold_clicks: Positive = Field(5, description="cold, too: fewer clicks than this in all days of the log before the start; decision")
    winsorise: float = Field(0.999, gt=0, le=1, description="quantile of users above which seconds count as that much; 1 = none; decision")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start is not None and not is_day(self.start):
            raise ValueError("ab.start must be a day, YYYY-MM-DD")
        return self

    @property
    def first_day(self) -> date | None:
        """The start as a day."""
        return None if self.start is None else date.fromisoformat(self.start)
