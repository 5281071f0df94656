"""Settings of the raw data: what it is, where it lies, how to read it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from conf import fields as f
from conf.names import is_day
from conf.sections.section import Positive, Section, Share


class Synthetic(Section):
    """The embedded generator: users with planted tastes over topics (kind: synthetic)."""

    users: Positive = Field(12_000, description="number of users")
    items: Positive = Field(6_000, description="number of items in the catalogue")
    clicks: Positive = Field(600_000, description="number of clicks, about")
    topics: Positive = Field(24, description="number of planted topics; a user likes a few of them")
    days: Positive = Field(28, description="days of log, ending on source.default_ds")
    popularity_exponent: float = Field(0.9, ge=0, description="Zipf exponent of item popularity inside a topic")
    activity_sigma: float = Field(0.8, ge=0, description="log-normal sigma of clicks per user")
    off_taste: Share = Field(0.1, description="share of clicks that follow popularity only, not taste")
    seed: int = Field(7, description="seed of the generator")


class Columns(Section):
    """Where our columns stand in the user's files (kind: generic)."""

    user_key: str = Field("user_key", description="column of the user's id")
    item_key: str = Field("item_key", description="column of the item's id")
    ts: str = Field("ts", description="column of the time")
    event_type: str | None = Field(None, description="column of the kind of event; null = one kind")
    weight: str | None = Field(None, description="column of a weight; null = from event_types, else 1")
    session_key: str | None = Field(None, description="column of a session or basket id; null = none")
    event_id: str | None = Field(None, description="column of a unique event id, used in de-duplication; null = none")


class FieldSpec(Section):
    """One feature field of the source."""

    role: f.Role = Field("single", description="single | multi | text")
    column: str | None = Field(None, description="column in the source file; null = the field's own name")
    min_count: Positive = Field(1, description="train events a value needs to get an id of its own; below it is OOV")
    max_len: Positive = Field(10, description="values kept of a multi field, in their order; decision")


class Fields(Section):
    """Feature fields of users and items. Short form: `name: single`."""

    user: dict[str, FieldSpec] = Field({}, description="user fields")
    item: dict[str, FieldSpec] = Field({}, description="item fields")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {
            side: {k: {"role": v} if isinstance(v, str) else v for k, v in group.items()} if isinstance(group, Mapping) else group
            for side, group in data.items()
        }


class EntityFile(Section):
    """A table of users or items beside the click log (kind: generic; of amazon_reviews, items.path is the metadata)."""

    path: str | None = Field(None, description="file or folder; null = there is none")
    format: Literal["csv", "json", "parquet"] = Field("csv", description="csv | json | parquet")
    key: str = Field("key", description="column of the business key")
    publish_ts: str | None = Field(None, description="column of the publication time, in source.ts_format (items); null = none")
    eligible: str | None = Field(None, description="boolean column: may be recommended (items); null = all are")
    vector: str | None = Field(None, description="column of a content vector, an array of numbers (items; kind: generic); null = none")
    separator: str = Field(",", min_length=1, description="csv separator")


class Pseudonyms(Section):
    """Keyed pseudonyms (HMAC-SHA256, hex) in place of business keys, in all tables."""

    users: bool = Field(False, description="user keys become pseudonyms")
    items: bool = Field(False, description="item keys become pseudonyms")
    key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="name of the environment variable that holds the key, where the driver runs"
    )
    since: str | None = Field(None, description="the first day of this key or choice; days before it may have others; null = none may")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.users or self.items) and self.key_env is None:
            raise ValueError("source.pseudonyms.key_env is needed: the name of the environment variable that holds the key")
        if self.since is not None and not is_day(self.since):
            raise ValueError("source.pseudonyms.since must be a day, YYYY-MM-DD")
        return self


# What the known formats hold; a configuration may narrow or replace it under source.fields.
KNOWN_FIELDS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "synthetic": {
        "user": {"gender": "single", "age_band": "single", "city": "single"},
        "item": {"category": "single", "tags": "multi", "title": "text"},
    },
    "movielens": {
        "user": {"age": "single", "gender": "single", "occupation": "single"},
        "item": {"genres": "multi", "year": "single", "title": "text"},
    },
    "amazon_reviews": {
        "user": {},
        "item": {
            "main_category": "single",
            "category": "single",
            "brand": "single",
            "price_band": "single",
            "categories": "multi",
            "title": "text",
        },
    },
    "taobao": {"user": {}, "item": {"category": "single"}},
    "sequences": {"user": {}, "item": {"attributes": "multi"}},
    "generic": {"user": {}, "item": {}},
}

# Which of a format's events are clicks, where source.event_types is not given: ComiRec's and MIC's choice.
KNOWN_EVENTS: Mapping[str, Mapping[str, float]] = {"taobao": {"pv": 1}}


class Source(Section):
    """The raw data and how to read it."""

    kind: Literal["synthetic", "movielens", "amazon_reviews", "taobao", "sequences", "generic"] = Field(
        "synthetic", description="format of the raw data"
    )
    path: str | None = Field(None, description="file or folder of the raw click log; not used by synthetic")
    attributes: str | None = Field(None, description="JSON file {item: [attributes]} (sequences); null = none")
    format: Literal["csv", "json", "parquet"] = Field("csv", description="file format of the click log (generic)")
    separator: str = Field(",", min_length=1, description="csv separator (generic)")
    columns: Columns = Columns()
    users: EntityFile = EntityFile()
    items: EntityFile = EntityFile()
    fields: Fields | None = Field(None, description="feature fields {user: {name: single|multi|text}, item: ...}; null = all of the format")
    multi_separator: str = Field("|", min_length=1, description="separates the values of a multi field in csv")
    event_types: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, description="{type: weight}; other types are dropped and counted; null = all, weight 1; taobao: {pv: 1} if not given"
    )
    min_weight: float | None = Field(None, description="ratings or weights below this are dropped and counted; null = all kept")
    ts_format: str = Field("epoch_s", description="epoch_s | epoch_ms | iso8601 | order (no clock) | a Spark datetime pattern")
    timezone: str = Field("UTC", description="time zone of times that carry none")
    day_timezone: str = Field("UTC", description="time zone in which a day begins")
    default_ds: str = Field("2026-01-31", description="the day used where --ds is not given")
    train_days: Positive | None = Field(None, description="days of clicks read, up to and including ds; null = all")
    lookback_days: int = Field(0, ge=0, description="days before the window that late clicks are still taken from")
    min_user_events: Positive = Field(1, description="users with fewer clicks are dropped and counted")
    min_item_events: Positive = Field(1, description="items with fewer clicks are dropped from the log and counted")
    catalogue: Literal["all", "clicked"] = Field(
        "all",
        description="items: all of the source, for new ones can be found by their fields | those with a click left, as in ComiRec and MIC",
    )
    user_id_min_count: Positive = Field(5, description="train events a user needs for an embedding row of its own; decision")
    item_id_min_count: Positive = Field(1, description="train events an item needs for an embedding row of its own; decision")
    pseudonyms: Pseudonyms = Pseudonyms()
    erasure: str | None = Field(
        None, description="list of user keys, as in the raw data, whose rows are dropped: text, csv or parquet; null = none"
    )
    synthetic: Synthetic = Synthetic()

    @model_validator(mode="before")
    @classmethod
    def _events_of_the_format(cls, data: Any) -> Any:
        known = KNOWN_EVENTS.get(str(data.get("kind"))) if isinstance(data, Mapping) else None
        return {"event_types": dict(known), **data} if known else data

    @field_validator("event_types", mode="before")
    @classmethod
    def _numbered_types(cls, value: Any) -> Any:
        return {str(k) if type(k) is int else k: v for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("default_ds")
    @classmethod
    def _real_day(cls, value: str) -> str:
        if not is_day(value):
            raise ValueError("must be a day, YYYY-MM-DD")
        return value

    @field_validator("timezone", "day_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):
            raise ValueError("is no known time zone; give a name such as UTC or Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind != "synthetic" and not self.path:
            raise ValueError(f"source.path is needed for kind {self.kind}")
        if self.items.vector is not None and (self.kind != "generic" or self.items.path is None):
            raise ValueError("source.items.vector needs kind generic and a table of items at source.items.path")
        return self

    def resolved_fields(self) -> Fields:
        """The fields as given, else those of the format."""
        return self.fields if self.fields is not None else Fields.model_validate(KNOWN_FIELDS[self.kind])
