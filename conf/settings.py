"""Every setting, as frozen and checked values. `load` reads a YAML file; an unknown key is an error that names the nearest one.

A description gives unit and origin: "MIC" is Lu et al. 2022, "MicRec" Xie et al. 2022, "decision" a choice of this project where
the papers are silent. `to_yaml` writes settings with these descriptions as comments.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from importlib import resources
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from conf import fields as f
from conf.errors import Fault, SettingsError
from conf.tables import TABLES, Shape

DS = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # variants, run ids: they become folder names
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MASK_COLUMN = re.compile(r"(um|uh|vm)_b\d+")
# A field becomes a column of these tables, and a user field stands beside a user's `items` when users are encoded.
RESERVED_COLUMNS = {column.name for table in TABLES.values() if table.extra for column in table.columns} | {
    "user_id",
    "item_id",
    "items",
    "key",
}
MAX_FIELDS = 63

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Storage(Section):
    """Where tables live and how runs are locked."""

    root: str = Field("data", min_length=1, description="folder of all tables: a local path, or a URI that pyarrow opens (hdfs://, s3://)")
    lock_expiry_s: float = Field(300, gt=0, description="seconds without a heartbeat after which a lock counts as stale; decision")
    heartbeat_s: float = Field(20, gt=0, description="seconds between heartbeats of a held lock; decision")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.root) & set("*?[]{}\\"):
            raise ValueError("storage.root cannot hold any of * ? [ ] { } \\: Spark would read it as a pattern")
        if self.lock_expiry_s < 2 * self.heartbeat_s:
            raise ValueError("storage.lock_expiry_s must be at least twice storage.heartbeat_s, or live locks look stale")
        return self


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
    """A table of users or items beside the click log (kind: generic)."""

    path: str | None = Field(None, description="file or folder; null = there is none")
    format: Literal["csv", "json", "parquet"] = Field("csv", description="csv | json | parquet")
    key: str = Field("key", description="column of the business key")
    publish_ts: str | None = Field(None, description="column of the publication time, in source.ts_format (items); null = none")
    eligible: str | None = Field(None, description="boolean column: may be recommended (items); null = all are")
    separator: str = Field(",", min_length=1, description="csv separator")


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
    "sequences": {"user": {}, "item": {"attributes": "multi"}},
    "generic": {"user": {}, "item": {}},
}


class Source(Section):
    """The raw data and how to read it."""

    kind: Literal["synthetic", "movielens", "sequences", "generic"] = Field("synthetic", description="format of the raw data")
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
        None, description="{type: weight}; other types are dropped and counted; null = all, weight 1"
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
    user_id_min_count: Positive = Field(5, description="train events a user needs for an embedding row of its own; decision")
    item_id_min_count: Positive = Field(1, description="train events an item needs for an embedding row of its own; decision")
    synthetic: Synthetic = Synthetic()

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
        return self

    def resolved_fields(self) -> Fields:
        """The fields as given, else those of the format."""
        return self.fields if self.fields is not None else Fields.model_validate(KNOWN_FIELDS[self.kind])


class Split(Section):
    """Which clicks are held out for validation and test."""

    kind: Literal["production", "temporal", "last_k", "user"] = Field("production", description="production holds nothing out")
    k: Positive = Field(5, description="events held out per user for test, and as many before them for valid (last_k; needs 2k+1 events)")
    test_days: Positive = Field(2, description="last days held out for test (temporal); the day before them is valid; MicRec 5.1")
    seed: int = Field(1230, description="seed of the 8:1:1 assignment (user); ComiRec's")


class Session(Section):
    """What makes a session."""

    kind: Literal["auto", "gap", "given", "user"] = Field(
        "auto", description="auto: given where ids are there, else gap, else (no clock) user"
    )
    gap_s: Positive = Field(3600, description="seconds of pause that end a session: longer than this; MicRec 4.1")
    max_span_s: Positive | None = Field(None, description="a session is also cut when it spans more seconds; null = never")
    max_user_clicks: Positive = Field(20_000, description="most recent clicks kept per user, against bots; decision")


class Cooc(Section):
    """Which items count as having met, and how strongly."""

    count: Literal["auto", "set", "multiset", "window"] = Field(
        "auto", description="auto: set, or window where the data has no clock; set: sessions that hold both; multiset: n_i*n_j"
    )
    window: Positive = Field(5, description="largest click distance that makes a pair (count: window)")
    max_session_items: int = Field(50, ge=2, description="distinct items per session; longer sessions are cut in chunks of this; decision")
    min_count: Positive = Field(1, description="pairs that met less often are dropped")
    top: Positive = Field(128, description="pairs kept per item, by weight; decision")
    category_field: str | None = Field(None, description="item field compared for same_category; null = none")
    beta: float = Field(1.0, ge=0, description="extra weight of pairs of one category; MicRec 4.1 gives none, decision")


class Masks(Section):
    """The perturbed view of each training sample; MIC 3.3.1."""

    strategy: Literal["random_p"] = Field("random_p", description="random_p: each field on its own; MIC 3.3.1")
    p_field: Share = Field(0.3, description="probability that a field is masked; decision, MIC gives none")
    p_hist: Share = Field(0.2, description="probability that a history position is dropped; decision")
    draws: Positive = Field(1, description="mask draws stored per sample; epoch e uses draw e mod draws")
    seed: int = Field(17, description="seed of the masks")


class Samples(Section):
    """The training samples."""

    masks: Masks = Masks()
    row_group_rows: Positive = Field(16_384, description="rows of a Parquet row group: what one Petastorm read decodes")


class Embedding(Section):
    """Embedding tables of the feature fields."""

    dim: Positive | None = Field(None, description="width of a field embedding; null = model.dim")
    init: float = Field(0.05, gt=0, description="tables start uniform in (-init, init); ICAN's")


class ModelFields(Section):
    """Which fields the towers see; null = all that are not text, the id first."""

    user: list[str] | None = Field(None, description="user fields in order; null = user_id (unless split.kind is user) and all others")
    item: list[str] | None = Field(None, description="item fields in order; null = item_id and all others")


class Model(Section):
    """The two towers."""

    encoder: Literal["dssm"] = Field("dssm", description="the two towers")
    dim: Positive = Field(64, description="width of the output vectors; MicRec 5.3")
    hidden: list[Positive] = Field([256, 128], description="widths of the hidden layers, tanh; decision, DSSM has 300-300")
    dropout: Share = Field(0.2, description="dropout on the concatenated embeddings; MIC 4.3")
    history: int = Field(20, ge=1, le=63, description="clicks of history, L; MicRec 5.3")
    embedding: Embedding = Embedding()
    fields: ModelFields = ModelFields()


class Base(Section):
    """The main loss of the towers."""

    loss: Literal["logistic", "sampled_softmax"] = Field("logistic", description="the encoder's own loss; MIC eq. 7 | MicRec eq. 1")
    weight: Weight = Field(0.7, description="its weight, lambda of MIC eq. 8")
    negatives: Literal["uniform", "shared", "in_batch", "mixed"] = Field(
        "uniform",
        description="sampled_softmax: uniform per row | one shared uniform set | the batch | batch and shared set; logistic: uniform",
    )
    num_negatives: Positive = Field(4, description="uniform negatives per positive, or the size of the shared set; 4 logistic, decision")
    scale: Literal["fixed", "learned"] = Field("learned", description="logistic: z = a*cos + b with a, b learned from 10, 0; decision")
    temperature: float = Field(
        1.0, ge=0.02, description="sampled_softmax: logits are divided by it; 1 with inner products, 0.1 with cosine"
    )
    logq: bool = Field(True, description="subtract ln q from in-batch columns; Yi et al. 2019")


class Mic(Section):
    """MIC's three contrastive losses."""

    weight: Weight = Field(0.3, description="weight of the whole objective, 1 - lambda of MIC eq. 8")
    uv: Weight = Field(1, description="weight of user-item contrast; MIC eq. 4")
    uu: Weight = Field(1, description="weight of user-user contrast; MIC eq. 5")
    vv: Weight = Field(1, description="weight of item-item contrast; MIC eq. 6")
    temperature: float = Field(0.1, ge=0.02, description="of all three; MIC 4.3")
    projection: Literal["mlp", "linear", "identity"] = Field("mlp", description="into the joint space of uv; MIC 3.4 non-linear")


class Objectives(Section):
    """Contrastive objectives added to the base loss; null = off."""

    mic: Mic | None = Field(None, description="cross-channel contrast; MIC 3.4")


class Mining(Section):
    """Mined positives and hard negatives: not there yet."""


class Optimizer(Section):
    """Optimisers and learning rates."""

    dense: Literal["adam"] = Field("adam", description="optimiser of the dense weights; MIC 4.3")
    tables: Literal["adam", "rowwise_adagrad"] = Field(
        "adam", description="optimiser of the embedding tables; rowwise touches only rows in use"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate; MIC 4.3")
    tables_lr: float | None = Field(None, gt=0, description="learning rate of the tables; null = lr, or 0.05 for rowwise_adagrad")


class Trainer(Section):
    """How training runs."""

    launcher: Literal["single", "horovod"] = Field("horovod", description="single: in one process; horovod: horovodrun over gloo")
    workers: Positive = Field(2, description="processes")
    streams: Positive = Field(
        4, description="ordered row streams; a multiple of workers: then any such number of workers sees the same batches"
    )
    threads: Positive = Field(1, description="torch threads per worker")
    batch: Positive = Field(1024, description="rows of a global batch, over all workers; MIC 4.3")
    batches: Literal["petastorm", "arrow"] = Field("petastorm", description="where batches come from; both give the same ones")
    epochs: Positive = Field(5, description="passes over the train rows, at most")
    patience: Positive = Field(2, description="epochs without a better validation recall before stopping")
    valid_users: Positive = Field(2_000, description="users of the validation recall, by smallest user_idx hash")
    valid_at: Positive = Field(50, description="N of the validation recall")
    optimizer: Optimizer = Optimizer()
    seed: int = Field(1, description="seed of weights, order and draws")
    checkpoint_steps: Positive = Field(500, description="steps between checkpoints, beside one an epoch")
    watchdog_s: float = Field(60, gt=0, description="seconds without a step after which a worker dumps its stack and ends all; decision")

    @model_validator(mode="after")
    def _check(self) -> Self:
        workers = self.workers if self.launcher != "single" else 1
        if self.streams % workers:
            raise ValueError(f"trainer.streams ({self.streams}) must be a multiple of trainer.workers ({workers})")
        if self.batch % self.streams:
            raise ValueError(f"trainer.batch ({self.batch}) must be a multiple of trainer.streams ({self.streams})")
        return self


class Index(Section):
    """The FAISS index of items and users."""

    factory: str = Field("Flat", description="faiss index_factory string")
    nprobe: Positive = Field(32, description="lists probed by IVF indexes")
    min_recall: Share = Field(0.95, description="recall@recall_at against exact search below which the index is refused")
    recall_at: Positive = Field(50, description="N of the measured recall")
    recall_queries: Positive = Field(1_000, description="queries of the measurement")


class U2I(Section):
    """Nearest items of the user's vector; MIC 3.7."""


class U2U2I(Section):
    """Items of similar users; MIC 3.7."""

    neighbours: Positive = Field(50, description="similar training users, N; decision, MIC says tuned")
    profile: Positive = Field(50, description="last distinct train items of a neighbour; decision")
    agg: Literal["sum", "max"] = Field("sum", description="how neighbours add up; decision")
    relevance: Literal["cosine", "none", "raw"] = Field("cosine", description="factor (1+cos(u,i))/2 | 1 | max(cos,0); MIC 3.7")
    power: float = Field(1.0, gt=0, description="exponent of the similarity; decision")


class I2I(Section):
    """Items similar to those of the history; MIC 3.7."""

    neighbours: Positive = Field(20, description="similar items of each history item, M, raised until history*M >= 2*top; decision")
    history: Positive = Field(20, description="last distinct history items used; ComiRec's Books setting")
    gamma: float = Field(1.0, gt=0, le=1, description="weight per step of age; decision")
    agg: Literal["sum", "max"] = Field("sum", description="how history items add up; decision")


class ItemCF(Section):
    """Items that met those of the history in a session."""

    history: Positive = Field(50, description="last distinct history items used; decision")


class Channels(Section):
    """The retrieval channels."""

    names: list[Literal["u2i", "u2u2i", "i2i", "itemcf", "popular"]] = Field(
        ["u2i", "u2u2i", "i2i", "itemcf", "popular"], min_length=1, description="channels run, in order of priority"
    )
    top: Positive = Field(200, description="candidates per user and channel, at most")
    seen: Literal["none", "history", "train_and_history"] = Field(
        "train_and_history", description="never recommend: nothing | the model's last L clicks | every train click"
    )
    u2i: U2I = U2I()
    u2u2i: U2U2I = U2U2I()
    i2i: I2I = I2I()
    itemcf: ItemCF = ItemCF()


class Merge(Section):
    """How channels become one list."""

    kind: Literal["rrf"] = Field("rrf", description="reciprocal rank fusion: sum of weight / (60 + rank); Cormack et al. 2009")
    weights: dict[str, Weight] = Field(
        {}, description="weight of a channel; 1 where not named, but popular 0: it then serves users without history only"
    )
    top: Positive = Field(200, description="published candidates per user, at most")
    layout: Literal["rows", "lists"] = Field("rows", description="one row a candidate, or one row a user with arrays")


class Gates(Section):
    """What refuses to publish (exit 4)."""

    max_reject_share: Share = Field(0.05, description="share of raw rows refused above which ingest stops; decision")
    min_rows: Positive = Field(1, description="rows that every table not marked as possibly empty needs")
    unique_keys: bool = Field(True, description="check that the key columns of each table are unique")


class Als(Section):
    """Grid of the ALS baseline, chosen on valid."""

    rank: list[Positive] = Field([32, 64], min_length=1, description="ranks tried on valid")
    reg: list[float] = Field([0.01, 0.1], min_length=1, description="regularisations tried on valid")
    alpha: list[float] = Field([1.0, 10.0], min_length=1, description="confidences tried on valid")
    iterations: Positive = Field(10, description="ALS sweeps")


class Evaluation(Section):
    """Offline metrics and baselines."""

    at: list[Positive] = Field([20, 50], min_length=1, description="cut-offs N; MIC 4.2")
    baselines: list[Literal["most_pop", "itemcf", "als"]] = Field(["most_pop", "itemcf", "als"], description="baselines on the same split")
    max_users: Positive = Field(10_000, description="test users scored, by smallest hash; the same for all channels and baselines")
    als: Als = Als()


class Report(Section):
    """The HTML report."""

    sample_users: int = Field(5, ge=0, description="users shown with history and candidates by title")
    title_field: str | None = Field(None, description="item text field shown; null = title if there is one, else the key")


class CrossFaultsError(ValueError):
    """Settings that are fine each and wrong together; one text a fault, which begins with "section.key: "."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(faults))


class Settings(Section):
    """Everything."""

    config_version: Literal[1] = Field(1, description="version of this file's format")
    storage: Storage = Storage()
    source: Source = Source()
    split: Split = Split()
    session: Session = Session()
    cooc: Cooc = Cooc()
    samples: Samples = Samples()
    model: Model = Model()
    base: Base = Base()
    objectives: Objectives = Objectives()
    mining: Mining = Mining()
    trainer: Trainer = Trainer()
    index: Index = Index()
    channels: Channels = Channels()
    merge: Merge = Merge()
    gates: Gates = Gates()
    evaluation: Evaluation = Evaluation()
    report: Report = Report()

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        faults = [*self._cross_faults(), *self._field_faults()]
        if faults:
            raise CrossFaultsError(faults)
        return self

    def _field_faults(self) -> Iterator[str]:
        fields = self.source.resolved_fields()
        for side, known in (("user", fields.user), ("item", fields.item)):
            for name in known:
                if not FIELD_NAME.fullmatch(name):
                    yield f"source.fields.{side}: {name!r} cannot be a field name (a-z, 0-9, _; a letter first; 40 at most)"
                elif name in RESERVED_COLUMNS or MASK_COLUMN.fullmatch(name):
                    yield f"source.fields.{side}: {name!r} is a column of our tables; call the field otherwise and give `column: {name}`"
                elif iskeyword(name):  # Petastorm makes a namedtuple of the columns
                    yield f"source.fields.{side}: {name!r} is a reserved word; call the field otherwise and give `column: {name}`"
        for name in sorted(set(fields.user) & set(fields.item)):
            yield f"source.fields: {name!r} is both a user and an item field; vocabularies are named by field, so rename one"

    def _cross_faults(self) -> Iterator[str]:
        fields = self.source.resolved_fields()
        for side, chosen in (("user", self.model.fields.user), ("item", self.model.fields.item)):
            known: dict[str, FieldSpec] = getattr(fields, side)
            usable = [f"{side}_id"] + [name for name, spec in known.items() if spec.role != "text"]
            for name in chosen or ():
                if name not in usable:
                    yield f"model.fields.{side}: unknown field {name!r}; known: {', '.join(usable)}"
            if len(set(chosen or ())) < len(chosen or ()):
                yield f"model.fields.{side}: a field is named twice"
            if len(chosen if chosen is not None else usable) > MAX_FIELDS:
                yield f"model.fields.{side}: at most {MAX_FIELDS} fields, the bits of a mask"
        if self.split.kind == "user" and "user_id" in (self.model.fields.user or ()):
            yield "model.fields.user: user_id cannot be used with split.kind user (held-out users are never trained)"
        if "item_id" not in (self.model.fields.item or ["item_id"]):
            yield "model.fields.item: item_id is needed (the history is embedded by it)"
        if self.cooc.category_field and self.cooc.category_field not in fields.item:
            yield f"cooc.category_field: {self.cooc.category_field!r} is no item field; known: {', '.join(fields.item) or 'none'}"
        if self.source.ts_format == "order" and self.session.kind == "gap":
            yield "session.kind: gap needs clock times, but source.ts_format is order; set session.kind: user"
        if self.source.ts_format == "order" and self.split.kind == "temporal":
            yield "split.kind: temporal needs clock times, but source.ts_format is order; set split.kind: last_k"
        if self.base.loss == "logistic" and self.base.negatives != "uniform":
            yield "base.negatives: the logistic loss takes uniform negatives only"
        for name, given in (("channels.names", self.channels.names), ("evaluation.at", self.evaluation.at)):
            if len(set(given)) < len(given):
                yield f"{name}: a value is named twice"
        known_channels = get_args(get_args(Channels.model_fields["names"].annotation)[0])
        for name in self.merge.weights:
            if name not in known_channels:
                yield f"merge.weights: unknown channel {name!r}; known: {', '.join(known_channels)}"
        title = self.report.title_field
        if title and title not in fields.item:
            yield f"report.title_field: {title!r} is no item field; known: {', '.join(fields.item) or 'none'}"

    def registry(self) -> f.Registry:
        """The feature fields the towers see, in mask-bit order, and the text fields."""
        given = self.source.resolved_fields()

        def embedded(side: f.Side, specs: Mapping[str, FieldSpec], chosen: Sequence[str] | None, id_min_count: int) -> tuple[f.Field, ...]:
            with_id = side == "item" or self.split.kind != "user"
            names = chosen if chosen is not None else [f"{side}_id"] * with_id + [n for n, s in specs.items() if s.role != "text"]
            id_field = f.Field(f"{side}_id", side, "single", id_min_count)
            return tuple(id_field if n == id_field.name else f.Field(n, side, specs[n].role, specs[n].min_count) for n in names)

        def text(side: f.Side, specs: Mapping[str, FieldSpec]) -> tuple[f.Field, ...]:
            return tuple(f.Field(n, side, "text") for n, s in specs.items() if s.role == "text")

        return f.Registry(
            user=embedded("user", given.user, self.model.fields.user, self.source.user_id_min_count),
            item=embedded("item", given.item, self.model.fields.item, self.source.item_id_min_count),
            user_text=text("user", given.user),
            item_text=text("item", given.item),
        )

    def shape(self) -> Shape:
        """What else decides table columns."""
        return Shape(history=self.model.history, mask_draws=self.samples.masks.draws, layout=self.merge.layout)

    def section_hash(self, sections: Sequence[str]) -> str:
        """16 hex digits over the named sections ("source" or "model.history"), so that other settings never rebuild a table."""
        return hashlib.sha256(json.dumps({name: self._value(name) for name in sorted(sections)}, sort_keys=True).encode()).hexdigest()[:16]

    def _value(self, dotted: str) -> Any:
        value: Any = self.model_dump(mode="json")
        for part in dotted.split("."):
            value = value[part]
        return value


class PlainLoader(yaml.SafeLoader):
    """Safe YAML in which a day stays text: an unquoted 2026-01-31 is no date object, and 2026-02-30 no error of the parser."""


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def packaged_names() -> list[str]:
    """Configurations that come with the package, by name."""
    return sorted(p.name.removesuffix(".yaml") for p in resources.files("conf").iterdir() if p.name.endswith(".yaml"))


def load(name_or_file: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a packaged name ("demo") or a YAML file, with `a.b=c` overrides applied (values are read as YAML).

    Raises:
        SettingsError: every fault at once, each with its line in the file and, for an unknown key, the nearest known one.
    """
    where, text = _read(name_or_file)
    try:
        node = yaml.compose(text, Loader=PlainLoader)
        data = yaml.load(text, Loader=PlainLoader) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(where, [Fault("not valid YAML", " ".join(str(error).split()))]) from None
    if not isinstance(data, dict):
        raise SettingsError(where, [Fault("the file must hold sections (key: value)", f"found: {type(data).__name__}")])
    twice = list(_twice(node))
    if twice:
        raise SettingsError(where, twice)
    lines = dict(_lines(node))
    for override in overrides:
        _apply(where, data, override)
        lines[tuple(override.split("=", 1)[0].strip().split("."))] = 0
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError(where, [fault for e in error.errors() for fault in _faults(dict(e), lines)]) from None


def _read(name_or_file: str) -> tuple[str, str]:
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or "/" in name_or_file:
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(str(path), [Fault("cannot read the settings file", str(error))]) from None
    if name_or_file not in packaged_names():
        raise SettingsError(
            f"--config {name_or_file}",
            [Fault("no such configuration", f"packaged: {', '.join(packaged_names())}", "or give a file: --config my.yaml")],
        )
    return f"{name_or_file} (packaged)", resources.files("conf").joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")


def _apply(where: str, data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(where, [Fault(f"--set {override!r} is not a.b=value")])
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = data.get(parent)
        data[parent] = dict(inner) if isinstance(inner, dict) else {}
        data = data[parent]
    try:
        data[last] = yaml.load(value, Loader=PlainLoader)
    except (yaml.YAMLError, ValueError):
        raise SettingsError(where, [Fault(f"--set {override!r}: the value is not valid YAML")]) from None


def _lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)


def _twice(node: yaml.Node | None, prefix: str = "") -> Iterator[Fault]:
    """Keys given twice in one mapping: YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                yield Fault(f"key {prefix}{name} stands twice", f"lines {first[name]} and {line}", "remove one")
            first.setdefault(name, line)
            yield from _twice(value, f"{prefix}{name}.")


def _at(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> str:
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    return "" if line is None else " (--set)" if line == 0 else f" (line {line})"


def _faults(error: Mapping[str, Any], lines: Mapping[tuple[str, ...], int]) -> Iterator[Fault]:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, CrossFaultsError):
        for text in cause.faults:
            name, _, what = text.partition(": ")
            yield Fault(f"{name}{_at(tuple(name.split('.')), lines)}: {what}")
    else:
        yield _fault(error, lines)


def _fault(error: Mapping[str, Any], lines: Mapping[tuple[str, ...], int]) -> Fault:
    path = tuple(str(part) for part in error["loc"])
    at = _at(path, lines)
    name = ".".join(path) or "settings"
    if error["type"] == "extra_forbidden":
        known = list(_section_at(path[:-1]).model_fields)
        near = get_close_matches(path[-1], known, n=1)
        return Fault(f"unknown key {name}{at}", f"known: {', '.join(known)}", f"did you mean: {near[0]} ?" if near else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(error.get("input"), dict | Section) else f"found: {error.get('input')!r}"
    return Fault(f"{name}{at}: {message}", shown)


def _section_at(path: Sequence[str]) -> type[Section]:
    section: type[Section] = Settings
    for part in path:
        field = section.model_fields.get(part)
        for candidate in _classes(field.annotation if field else None):
            section = candidate
    return section


def _classes(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)


def to_yaml(settings: Settings, *, only: Sequence[str] | None = None) -> str:
    """The settings as YAML with each key's description as a comment above it. only: sections to write; None = all."""
    lines: list[str] = []
    for name in type(settings).model_fields:
        if only is None or name in only or name == "config_version":
            _write(lines, settings, name, 0)
    return "\n".join(lines) + "\n"


def _write(lines: list[str], section: Section, name: str, depth: int) -> None:
    indent, value = "  " * depth, getattr(section, name)
    description = type(section).model_fields[name].description or (type(value).__doc__ or "").strip().splitlines()[:1]
    comment = description if isinstance(description, str) else "".join(description)
    if depth == 0 and lines:
        lines.append("")
    if comment and not (isinstance(value, Section) and comment == Section.__doc__):
        lines.append(f"{indent}# {comment}")
    if isinstance(value, Section) and type(value).model_fields:
        lines.append(f"{indent}{name}:")
        for inner in type(value).model_fields:
            _write(lines, value, inner, depth + 1)
        return
    plain = _short(value)
    dumped = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True).strip()
    lines.append(f"{indent}{name}: {dumped.removesuffix('...').strip()}")


def _short(value: Any) -> Any:
    if isinstance(value, FieldSpec) and value == FieldSpec(role=value.role):
        return value.role
    if isinstance(value, Section):
        return {name: _short(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value


def is_day(text: str) -> bool:
    """Whether the text is a real calendar day YYYY-MM-DD."""
    try:
        return DS.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def check_ds(ds: str) -> str:
    """The day, if it is a real calendar day YYYY-MM-DD; raises SettingsError otherwise (also keeps it safe as a folder name)."""
    if not is_day(ds):
        raise SettingsError("--ds", [Fault(f"{ds!r} is not a day", fix="use YYYY-MM-DD, for instance --ds 2026-01-31")])
    return ds


def check_name(option: str, name: str) -> str:
    """The name, if it is safe as a folder name; raises SettingsError otherwise."""
    if not NAME.fullmatch(name):
        raise SettingsError(option, [Fault(f"{name!r} cannot be a name", fix="letters, digits, '.', '_', '-'; 64 at most, no leading '.'")])
    return name
