"""Settings of what is refused, measured and shown."""

from typing import Annotated, Literal

from pydantic import Field

from conf.sections.section import Positive, Section, Share


class Drift(Section):
    """How far the input of a day may stray from the last days; null = as far as it likes."""

    days: int = Field(7, ge=0, description="committed days of ingest, before ds and in this variant, to compare with; 0 = measure nothing")
    min_days: Positive = Field(3, description="a measure that fewer of those days have gets no verdict; decision")
    clicks_per_user: Annotated[float, Field(gt=0)] | None = Field(
        0.5, description="relative: by this share below the least or above the most of those days; decision"
    )
    new_items: Share | None = Field(
        0.2, description="absolute: share of clicked items that the day before did not know, above the most of those days; decision"
    )
    nulls: Share | None = Field(
        0.2, description="absolute: share of users or items without a value of a field, above the most of those days; decision"
    )


class Lists(Section):
    """How far the candidates of a day may fall behind those of the last days; null = as far as they like."""

    days: int = Field(7, ge=0, description="committed days of candidates before ds, in this variant, to compare with; 0 = measure nothing")
    min_days: Positive = Field(3, description="a measure that fewer of those days have gets no verdict; decision")
    users: Share | None = Field(0.3, description="relative: users, by this share below the least of those days; decision")
    items_per_user: Share | None = Field(0.2, description="relative: items of a list, on average; decision")
    coverage: Share | None = Field(0.3, description="relative: share of the recommendable items that stand in any list; decision")
    fallback: Share | None = Field(0.2, description="absolute: share of users without history, above the most of those days; decision")
    channels_per_user: Share | None = Field(0.1, description="relative: channels that have a list for a user, on average; decision")
    index_recall: Share | None = Field(0.1, description="relative: the worst index's measured recall; min_recall holds besides; decision")
    valid_recall: Share | None = Field(0.2, description="relative: recall of the model on valid clicks, where there are any; decision")


class Gates(Section):
    """What refuses to publish (exit 4)."""

    max_reject_share: Share = Field(0.05, description="share of raw rows refused above which ingest stops; decision")
    min_rows: Positive = Field(1, description="rows that every table not marked as possibly empty needs")
    unique_keys: bool = Field(True, description="check that the key columns of each table are unique")
    drift: Drift = Drift()
    lists: Lists = Lists()


class Als(Section):
    """Grid of the ALS baseline, chosen on valid."""

    rank: list[Positive] = Field([32, 64], min_length=1, description="ranks tried on valid")
    reg: list[float] = Field([0.01, 0.1], min_length=1, description="regularisations tried on valid")
    alpha: list[float] = Field([1.0, 10.0], min_length=1, description="confidences tried on valid")
    iterations: Positive = Field(10, description="ALS sweeps")


class Slices(Section):
    """Groups of users and of items that are measured on their own."""

    activity: list[Positive] = Field([10, 50], description="train clicks at which the second and further groups of users begin; [] = none")
    cold_users: int = Field(5, ge=0, description="users with fewer train clicks are cold; 0 = no such slice; decision")
    cold_items: int = Field(1, ge=0, description="items with fewer train clicks are cold; 0 = no such slice; decision")
    head: Share = Field(0.95, description="quantile of the train clicks of clicked items from which on an item is of the head; decision")
    tail: Share = Field(0.8, description="the same quantile below which it is of the tail; decision")
    user_fields: list[str] = Field([], description="user fields of the source, seen by the model or not; a slice a value")
    values: Positive = Field(10, description="values of a user field that get a slice, those of most users; decision")


class Evaluation(Section):
    """Offline metrics and baselines."""

    at: list[Positive] = Field([20, 50], min_length=1, description="cut-offs N; MIC 4.2")
    baselines: list[Literal["most_pop", "itemcf", "als"]] = Field(["most_pop", "itemcf", "als"], description="baselines on the same split")
    max_users: Positive = Field(10_000, description="test users scored, by smallest hash; the same for all channels and baselines")
    max_clicks: int = Field(
        1_000_000,
        ge=0,
        description="held-out clicks of those users, about, that U2I is asked for as of just before each; 0 = none; decision",
    )
    als: Als = Als()
    slices: Slices = Slices()
    category_field: str | None = Field(None, description="item field of which diversity is measured; null = cooc.category_field")
    vectors: int = Field(8_192, ge=2, description="vectors a side, and clicked pairs, whose evenness and nearness are measured; decision")


class Report(Section):
    """The HTML report."""

    sample_users: int = Field(5, ge=0, description="users shown with history and candidates by title")
    title_field: str | None = Field(None, description="item text field shown; null = title if there is one, else the key")
