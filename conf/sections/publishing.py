"""Settings of what is done with candidates once they are published."""

from pydantic import Field

from conf.sections.section import Positive, Section


class Publish(Section):
    """What is made of the published candidates for those who load them."""

    delta: bool = Field(False, description="table candidates_delta: what changed since the last day before, for key-value stores")
    hive: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="database of Spark's Hive catalogue with a view of each published table; null = none",
    )
    hive_days: Positive = Field(31, description="days that such a view shows, the newest; decision")
