"""Settings of the index, the channels, and how channels become one list."""

from typing import Literal

from pydantic import Field

from conf.sections.section import Count, Positive, Section, Share, Weight


class Embeddings(Section):
    """Vectors made elsewhere, in place of those of the model."""

    path: str | None = Field(
        None, min_length=1, description="folder with items.parquet and, if there is one, users.parquet: columns key, vector; null = train"
    )
    similarity: Literal["cosine", "inner_product"] = Field("cosine", description="of such vectors: what makes a user and an item near")

    @property
    def tables(self) -> frozenset[str]:
        """The tables that are read only where these settings ask for them."""
        return frozenset(["user_index", "item_index"] * (self.path is not None))


class Index(Section):
    """The FAISS indexes of items and users."""

    factory: str = Field(
        "auto",
        description="auto: the fastest kind that meets min_recall and max_memory, measured | a faiss index_factory string",
    )
    min_recall: Share = Field(0.95, description="recall@recall_at against exact search below which an index is refused")
    max_memory: str = Field(
        "2GB",
        pattern=r"^\d+(\.\d+)?(kB|MB|GB)$",
        description="of auto: memory that an index may take, or each of a given number of parts; in kB, MB or GB of 1000",
    )
    shards: Positive | Literal["auto"] = Field(
        "auto",
        description="parts that Spark tasks build and a search goes through, 1 = built on the driver | auto: as many as keep the vectors "
        "of each within max_memory; decision",
    )
    sample_rows: int = Field(50_000, ge=10_000, description="of auto: vectors that the kinds are measured on; decision")
    nprobe: Positive = Field(32, description="lists probed by an IVF factory; auto finds its own")
    ef_search: Positive = Field(64, description="candidates kept by an HNSW factory while it searches; auto finds its own")
    recall_at: Positive | None = Field(None, description="N of the measured recall; null = channels.top, as deep as lists go; decision")
    recall_queries: Positive = Field(1_000, description="queries of the measurement")
    blocklist: str | None = Field(
        None,
        min_length=1,
        description="items never recommended, by published key: csv, Parquet or text file; null = none",
    )

    @property
    def tables(self) -> frozenset[str]:
        """The tables that are read only where these settings ask for them."""
        return frozenset(["item_index"] * (self.blocklist is not None))

    @property
    def max_bytes(self) -> int:
        """max_memory in bytes."""
        return int(float(self.max_memory[:-2]) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[self.max_memory[-2:]])


class U2I(Section):
    """Nearest items of the user's vector; MIC 3.7."""

    space: Literal["encoder", "joint"] = Field(
        "encoder",
        description="where users and items are compared: the model's own vectors, MIC 3.7 | MIC's joint space, by cosine, as its "
        "introduction has it",
    )


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

    names: list[Literal["u2i", "u2u2i", "i2i", "itemcf", "popular", "cold"]] = Field(
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

    kind: Literal["rrf", "norm", "quota", "diverse"] = Field(
        "rrf",
        description="rrf: sum of weight / (60 + rank), Cormack et al. 2009 | norm: sum of weight * normalised score | "
        "quota: places by channel | diverse: best weight * normalised score, less diversity * items of its category before, ComiRec 3.4",
    )
    weights: dict[str, Weight] = Field(
        {}, description="weight of a channel; 1 where not named, but popular 0: it then serves users without history only"
    )
    normalise: Literal["minmax", "percentile"] = Field(
        "minmax", description="of norm and diverse: scores of a user's list of a channel to 0..1, or by rank alone; decision"
    )
    quotas: dict[str, Count] | Literal["learned"] = Field(
        {}, description="of quota: places by channel, together merge.top; {} = equal shares | learned: those that find most valid clicks"
    )
    quota_steps: Positive = Field(10, description="of learned quotas: parts that merge.top is shared out in; decision")
    quota_users: Positive = Field(2_000, description="of learned quotas: users with valid clicks, by smallest hash; decision")
    diversity: Weight = Field(0.05, description="of diverse: lambda, 0 = none; ComiRec tries 0 to 0.25")
    category_field: str | None = Field(
        None, description="item field of the categories, of a multi field the first value; null = none; diverse and caps need it"
    )
    max_per_category: Positive | None = Field(None, description="items of one category in a published list, at most; null = any number")
    top: Positive = Field(200, description="published candidates per user, at most")
    layout: Literal["rows", "lists"] = Field("rows", description="one row a candidate, or one row a user with arrays")

    @property
    def tables(self) -> frozenset[str]:
        """The tables that are read only where these settings ask for them."""
        return frozenset(
            ["item_feat"] * (self.category_field is not None) + ["events"] * (self.kind == "quota" and self.quotas == "learned")
        )


class Similar(Section):
    """Neighbours published under business keys."""

    users: Count = Field(0, description="training users published for each user, the nearest first (lookalikes); 0 = no such table")
    items: Count = Field(0, description="items published for each item, the nearest first (more like this); 0 = no such table")

    @property
    def tables(self) -> frozenset[str]:
        """The tables that these settings ask for."""
        return frozenset(["similar_users"] * (self.users > 0) + ["similar_items"] * (self.items > 0))
