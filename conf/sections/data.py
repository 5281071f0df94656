"""Settings of the tables made from clicks: where they live, what is held out, sessions, co-occurrence, training samples."""

from typing import Literal, Self

from pydantic import Field, model_validator

from conf.names import is_day
from conf.schemas.table import Strategy
from conf.sections.section import Positive, Section, Share

Engine = Literal["compiled", "sql"]


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


class Split(Section):
    """Which clicks are held out for validation and test."""

    kind: Literal["production", "temporal", "last_k", "user"] = Field("production", description="production holds nothing out for good")
    k: Positive = Field(5, description="events held out per user for test, and as many before them for valid (last_k; needs 2k+1 events)")
    test_days: Positive = Field(2, description="last days held out for test (temporal); the day before them is valid; MicRec 5.1")
    seed: int = Field(1230, description="seed of the 8:1:1 assignment (user); ComiRec's")
    refit: bool = Field(
        False,
        description="once valid has chosen the epoch, train anew on train and valid clicks, which then count as known; with production the "
        "last day is valid; decision",
    )


class Vocabulary(Section):
    """Whether the numbers of users, items and values stay from day to day."""

    previous_ds: str | None = Field(
        None, description="day whose numbers stay, new ones behind them; latest: the last one before ds; null = number anew each day"
    )
    rebuild_every_days: Positive | None = Field(
        None, description="days after which all is numbered anew, so that models start cold; null = never"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.previous_ds not in (None, "latest") and not is_day(str(self.previous_ds)):
            raise ValueError(f"vocabulary.previous_ds: {self.previous_ds!r} is neither a day (YYYY-MM-DD) nor latest")
        if self.rebuild_every_days is not None and self.previous_ds is None:
            raise ValueError("vocabulary.rebuild_every_days needs previous_ds: without it every day is numbered anew")
        return self


class Session(Section):
    """What makes a session."""

    kind: Literal["auto", "gap", "given", "user"] = Field(
        "auto", description="auto: given where ids are there, else gap, else (no clock) user"
    )
    gap_s: Positive = Field(3600, description="seconds of pause that end a session: longer than this; MicRec 4.1")
    max_span_s: Positive | None = Field(None, description="a session is also cut when it spans more seconds; null = never")
    pair_max_dt_s: Positive | None = Field(
        None, description="items of a session meet only within so many seconds of each other; null = all do; MicRec 5.3"
    )
    max_user_clicks: Positive = Field(20_000, description="most recent clicks kept per user, against bots; decision")
    engine: Engine = Field("compiled", description="compiled, or sql: the same rows by plain Spark SQL, to read and compare with")


class Cooc(Section):
    """Which items count as having met, and how strongly."""

    count: Literal["auto", "set", "multiset", "window"] = Field(
        "auto", description="auto: set, or window where the data has no clock; set: sessions that hold both; multiset: n_i*n_j"
    )
    window: Positive = Field(5, description="largest click distance that makes a pair (count: window)")
    max_session_items: int = Field(50, ge=2, description="distinct items per session; longer sessions are cut in chunks of this; decision")
    min_count: Positive | Literal["auto"] = Field(
        "auto", description="pairs that met less often are dropped; auto: 2 from 10 million train clicks on, else 1; decision"
    )
    top: Positive = Field(128, description="pairs kept per item, by weight; decision")
    category_field: str | None = Field(None, description="item field compared for same_category; null = none")
    beta: float = Field(1.0, ge=0, description="extra weight of pairs of one category; MicRec 4.1 gives none, decision")
    other_category: Literal["keep", "drop"] = Field("keep", description="pairs of two known, different categories")
    keep_pairs: bool = Field(
        False, description="publish cooc_pairs, all pairs that met, up to 200 million of them: for exact negatives; MicRec 3.5"
    )
    increment: bool = Field(
        False, description="count only the sessions that came and went since the day whose numbers stay (vocabulary.previous_ds)"
    )
    engine: Engine = Field("compiled", description="compiled, or sql: the same rows by plain Spark SQL, to read and compare with")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.increment and not self.keep_pairs:
            raise ValueError("cooc.increment needs the pairs of the earlier day; set cooc.keep_pairs: true")
        return self


class MutualInformation(Section):
    """What one field tells about another: how fields that belong together are known; Yao et al. 2021, eq. 4."""

    normalise: Literal["none", "min_entropy", "sqrt"] = Field(
        "none", description="min_entropy: divided by the smaller entropy of the two; sqrt: by the root of their product; Yao: none"
    )
    max_values: Positive = Field(10_000, description="most frequent values of a field that count each, the others count as one; decision")


class Masks(Section):
    """The perturbed views of each training sample; MIC 3.3.1, Yao et al. 2021."""

    strategy: Strategy = Field(
        "random_p",
        description="random_p: each field on its own, only in view b; MIC 3.3.1; rfm: half of them; cfm: those that belong together; Yao",
    )
    p_field: Share = Field(0.3, description="probability that a field is masked (random_p); decision, MIC gives none")
    complementary: bool = Field(True, description="the views hide no field in common; false: each a half of its own (rfm)")
    cfm_seed: Literal["per_row", "per_batch"] = Field(
        "per_row",
        description="the field that the hidden ones belong with is drawn anew for each row | each batch, by the trainer; Yao (cfm)",
    )
    mi: MutualInformation = MutualInformation()
    p_hist: Share = Field(0.2, description="probability that a history position is dropped, in each masked view; decision")
    p_val: Share = Field(
        0.2,
        description="probability that a value of a multi-valued field is dropped, in each masked view, never all of a field; Yao et al. "
        "and MicRec, MIC is silent; 0 = none; decision",
    )
    draws: Positive = Field(1, description="mask draws stored per sample; epoch e uses draw e mod draws")
    stored: bool = Field(True, description="the masks are columns of samples; false: the trainer computes the same ones anew")
    seed: int = Field(17, description="seed of the masks")


class Samples(Section):
    """The training samples."""

    masks: Masks = Masks()
    layout: Literal["windows", "sequences"] = Field(
        "windows", description="windows: a row a click, history and masks in it | sequences: blocks of a user's clicks, cut by the trainer"
    )
    block: int = Field(64, ge=1, le=10_000, description="clicks to train on in a block of layout sequences, B; decision")
    item_users: bool = Field(
        False, description="a column with who clicked the target before, as of the click, for an item field; engine sql only; MIC 3.3.1"
    )
    item_users_length: Positive = Field(20, description="clicks listed in it, the last ones; decision")
    row_group_rows: Positive = Field(16_384, description="rows of a Parquet row group: what one Petastorm read decodes")
    engine: Engine = Field("compiled", description="compiled, or sql: the same rows by plain Spark SQL, to read and compare with")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.item_users and (self.engine != "sql" or self.layout != "windows"):
            raise ValueError("samples.item_users needs samples.engine: sql and samples.layout: windows; set both, or item_users: false")
        return self
