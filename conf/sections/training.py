"""Settings of the model and how it is trained."""

from typing import Literal, Self

from pydantic import Field, model_validator

from conf.sections.encoders import AutoInt, Comirec, Fm, Ican
from conf.sections.section import Positive, Section, Share, Weight


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

    encoder: Literal["dssm", "youtube_dnn", "comirec_sa", "comirec_dr", "ican", "autoint", "deepfm", "fm"] = Field(
        "dssm", description="dssm | youtube_dnn | comirec_sa | comirec_dr | ican | autoint | deepfm | fm"
    )
    dim: Positive = Field(64, description="width of the output vectors; MicRec 5.3")
    hidden: list[Positive] = Field([256, 128], description="widths of the hidden layers; decision, DSSM has 300-300, MicRec 128-64")
    item_tower: Literal["mlp", "id"] = Field(
        "mlp", description="items: dense layers over all fields | the id's embedding, as in ComiRec (youtube_dnn, comirec_sa, comirec_dr)"
    )
    dropout: Share = Field(0.2, description="dropout on the concatenated embeddings; MIC 4.3")
    history: int = Field(20, ge=1, le=63, description="clicks of history, L; MicRec 5.3")
    embedding: Embedding = Embedding()
    fields: ModelFields = ModelFields()
    comirec: Comirec = Comirec()
    ican: Ican = Ican()
    autoint: AutoInt = AutoInt()
    fm: Fm = Fm()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.item_tower == "id":
            if self.encoder not in ("youtube_dnn", "comirec_sa", "comirec_dr"):
                raise ValueError(f"model.item_tower: id is of youtube_dnn, comirec_sa and comirec_dr; {self.encoder} has a tower for items")
            if self.embedding.dim not in (None, self.dim):
                raise ValueError(f"model.item_tower: id needs embeddings as wide as vectors: model.embedding.dim null or {self.dim}")
        width = self.embedding.dim or self.dim
        if self.encoder == "ican" and width % self.ican.heads:
            raise ValueError(f"model.ican.heads ({self.ican.heads}) must divide the width of an embedding ({width})")
        return self


ChannelWeight = Weight | Literal["learned"]
Projection = Literal["mlp", "linear", "identity"]


class Base(Section):
    """The main loss of the towers."""

    loss: Literal["logistic", "sampled_softmax"] = Field("logistic", description="the encoder's own loss; MIC eq. 7 | MicRec eq. 1")
    weight: Weight = Field(0.7, description="its weight, lambda of MIC eq. 8")
    negatives: Literal["uniform", "shared", "in_batch", "mixed"] = Field(
        "uniform",
        description="uniform per row | one shared uniform set | the batch | batch and shared set (logistic: uniform | in_batch)",
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
    uv: ChannelWeight = Field(1, description="weight of user-item contrast, or learned (Kendall et al. 2018); MIC eq. 4")
    uu: ChannelWeight = Field(1, description="weight of user-user contrast, or learned; MIC eq. 5")
    vv: ChannelWeight = Field(1, description="weight of item-item contrast, or learned; MIC eq. 6")
    temperature: float = Field(0.1, ge=0.02, description="of all three; MIC 4.3")
    include_pos: bool = Field(
        True, description="the right partner stands in the sum, too; false: it does not (DCL, Yeh et al. 2022), as MIC eq. 4-6 are printed"
    )
    projection: Projection = Field("mlp", description="into the joint space of uv; MIC 3.4 non-linear")
    views: Literal["clean", "augmented", "both", "literal"] = Field(
        "clean",
        description="uv compares all as they are | all perturbed | as they are with both kinds | as MIC eq. 4 is printed; decision",
    )
    logq: bool = Field(False, description="uv: subtract ln of an item's share of the clicks from its column; Yi et al. 2019, MIC is silent")
    same_side: Literal["nt_xent", "literal"] = Field(
        "nt_xent", description="uu and vv compare both views of all, Chen et al. 2020 | as MIC eq. 5 and 6 are printed; decision"
    )
    same_side_projection: Projection = Field("identity", description="of users for uu and of items for vv; MIC 3.4: in their own space")
    perturb_sides: Literal["both", "item"] = Field(
        "both", description="both: users and items | item: only items, a user's views differ by dropout alone; MIC 3.6"
    )
    set_similarity: Literal["best_match", "slots"] = Field(
        "best_match", description="uu, several interests: each with the closest of the other's | k-th with k-th; decision"
    )
    gather: Literal["exact", "detached"] = Field(
        "exact", description="detached: no gradient through other workers' rows; saves talk, but is biased, more so with more workers"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        literal = [name for name, choice in (("views", self.views), ("same_side", self.same_side)) if choice == "literal"]
        signed = [*(["include_pos: false"] if not self.include_pos else []), *(f"{name}: literal" for name in literal)]
        if "learned" in (self.uv, self.uu, self.vv) and signed:
            raise ValueError(f"objectives.mic: learned weights need losses that cannot be negative; not with {', '.join(signed)}")
        return self


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

    launcher: Literal["single", "horovod", "ddp", "horovod-spark", "spark-torch"] = Field(
        "horovod",
        description="single: one process | horovod: horovodrun over gloo | ddp: torchrun | horovod-spark, spark-torch: both in Spark tasks",
    )
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
