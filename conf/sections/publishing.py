"""Settings of what is done with candidates once they are published."""

from pydantic import Field

from conf.sections.section import Section


class Publish(Section):
    """What is made of the published candidates for those who load them."""

    delta: bool = Field(False, description="table candidates_delta: what changed since the last day before, for key-value stores")
