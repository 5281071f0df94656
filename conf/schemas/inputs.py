"""Tables that others write and we read: how their rows look once they are read, in our names."""

from typing import Final

from conf.schemas.table import Column, Table

EXPOSURES: Final = Table(
    "exposures",
    "one exposure: an item that was shown to a user (input of job ab_test, section `ab`)",
    (
        Column("user", "string", "who; a row without is refused", nullable=True),
        Column("arm", "string", "the arm that the user was given; null before the test", nullable=True),
        Column("day", "date", "when; a row without is refused", nullable=True),
        Column("registered", "date", "when the user registered; null = not known", nullable=True),
        Column("exposed", "float64", "0 = nothing was shown after all; 1 where the log has no such column", nullable=True),
        Column("click", "float64", "how many; like all numbers 0 where nothing is written, null = cannot be read, refused", nullable=True),
        Column("like", "float64", "how many", nullable=True),
        Column("follow", "float64", "how many", nullable=True),
        Column("dwell_s", "float64", "seconds spent on the item; play_s where the log has no such column", nullable=True),
        Column("play_s", "float64", "seconds played; above 0 = one play", nullable=True),
        Column("duration_s", "float64", "seconds that the item lasts; 0 = not known", nullable=True),
        Column("stay_s", "float64", "seconds in the app that this row adds", nullable=True),
    ),
)
INPUTS: Final = (EXPOSURES,)
