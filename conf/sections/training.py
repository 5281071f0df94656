"""Settings of the model and how it is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from conf.sections.encoders import AutoInt, Comirec, Fm, Ican, Sasrec
from conf.sections.section import Positive, Section, Share, Weight


class Embedding(Section):
    """Embedding tables of the feature fields."""

    dim: Positive | None = Field(None, description="width of a field embedding; null = model.dim")
    init: float = Field(0.05, gt=0, description="tables start uniform in (-init, init); ICAN's")
    mask: Literal["learned", "zero"] = Field("learned", description="what a hidden field shows: a learned row, Yao et al. | zeros, MicRec")


class ModelFields(Section):
    """Which fields the towers see; null = all that are not text, the id first."""

    user: list[str] | None = Field(None, description="user fields in order; null = user_id (unless split.kind is user) and all others")
    item: list[str] | None = Field(None, description="item fields in order; null = item_id and all others")


ID_ENCODERS = ("youtube_dnn", "comirec_sa", "comirec_dr", "sasrec")


class Model(Section):
    """The two towers."""

    encoder: Literal["dssm", "youtube_dnn", "comirec_sa", "comirec_dr", "ican", "autoint", "deepfm", "fm", "sasrec"] = Field(
        "dssm", description="dssm | youtube_dnn | comirec_sa | comirec_dr | ican | autoint | deepfm | fm | sasrec"
    )
    dim: Positive = Field(64, description="width of the output vectors; MicRec 5.3")
    hidden: list[Positive] = Field([256, 128], description="widths of the hidden layers; decision, DSSM has 300-300, MicRec 128-64")
    item_tower: Literal["mlp", "id"] = Field(
        "mlp", description="items: dense layers over all fields | the id's embedding, as in ComiRec (youtube_dnn, comirec_*, sasrec)"
    )
    dropout: Share = Field(0.2, description="dropout on the concatenated embeddings; MIC 4.3")
    history: int = Field(20, ge=1, le=63, description="clicks of history, L; MicRec 5.3")
    history_mask: Literal["drop", "token"] = Field(
        "drop", description="a dropped click is as if it had not been | the MASK row in its place, which is attended to; decision"
    )
    embedding: Embedding = Embedding()
    fields: ModelFields = ModelFields()
    comirec: Comirec = Comirec()
    ican: Ican = Ican()
    autoint: AutoInt = AutoInt()
    fm: Fm = Fm()
    sasrec: Sasrec = Sasrec()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.item_tower == "id":
            if self.encoder not in ID_ENCODERS:
                raise ValueError(f"model.item_tower: id is of {', '.join(ID_ENCODERS)}; {self.encoder} has a tower for items")
            if self.embedding.dim not in (None, self.dim):
                raise ValueError(f"model.item_tower: id needs embeddings as wide as vectors: model.embedding.dim null or {self.dim}")
        if self.history_mask == "token" and self.embedding.mask == "zero":
            raise ValueError("model.history_mask: token shows a learned row; set model.embedding.mask: learned")
        width = self.embedding.dim or self.dim
        heads = {"ican": self.ican.heads, "sasrec": self.sasrec.heads}.get(self.encoder, 1)
        if width % heads:
            raise ValueError(f"model.{self.encoder}.heads ({heads}) must divide the width of an embedding ({width})")
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
    num_negatives: Positive | None = Field(
        None,
        description="uniform negatives per positive, or the size of the shared set; null = 20, ICAN's; of logistic 4, decision",
    )
    known_clicks: Literal["history", "train"] = Field(
        "history", description="uniform negatives are none of the row's history and target | nor of its user's train items; MicRec 3.6"
    )
    scale: Literal["fixed", "learned"] = Field("learned", description="logistic: z = a*cos + b with a, b learned from 10, 0; decision")
    temperature: float = Field(
        1.0, ge=0.02, description="sampled_softmax: logits are divided by it; 1 with inner products, 0.1 with cosine"
    )
    logq: bool = Field(True, description="subtract ln q from in-batch columns; Yi et al. 2019")
    logq_positive: bool = Field(
        True, description="with logq, from the clicked item's, too; Yi et al. 2019; false: not, as it is always there"
    )

    @property
    def num_drawn(self) -> int:
        """num_negatives, where null is said by the loss."""
        return self.num_negatives or (4 if self.loss == "logistic" else 20)


class Mic(Section):
    """MIC's three contrastive losses."""

    weight: Weight = Field(0.3, description="weight of the whole objective, 1 - lambda of MIC eq. 8")
    uv: ChannelWeight = Field(1.0, description="weight of user-item contrast, or learned (Kendall et al. 2018); MIC eq. 4")
    uu: ChannelWeight = Field(1.0, description="weight of user-user contrast, or learned; MIC eq. 5")
    vv: ChannelWeight = Field(1.0, description="weight of item-item contrast, or learned; MIC eq. 6")
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


ItemSource = Literal["batch", "unique", "uniform"]


class MicRec(Section):
    """MicRec's contrasts among items: of their features, their content and their sessions."""

    weight: Weight = Field(1, description="weight of the whole objective")
    fea: Weight = Field(1.0, description="weight of an item against itself with parts of its features dropped; MicRec eq. 3 and 5.3")
    sem: Weight = Field(0.3, description="weight of an item against those alike in content (semantics.kind); MicRec eq. 4 and 5.3")
    sess: Weight = Field(0.1, description="weight of an item against those of its sessions; MicRec eq. 5 and 5.3")
    temperature: float = Field(1.0, ge=0.02, description="of all three, which compare by inner product; MicRec 5.3")
    items: ItemSource = Field("batch", description="anchors: the targets of the batch | each once | as many drawn uniformly")
    num_negatives: Positive = Field(50, le=50, description="negatives of an anchor, at most; MicRec 5.3")
    pool: Positive = Field(512, description="uniform items of a step that sem and sess draw negatives from; decision")
    element_p: Share = Field(0.5, lt=1, description="share of the elements of an item's features that fea drops; MicRec 5.3")
    field_p: Share = Field(0.0, description="chance that fea hides a field; 0 = none is hidden; MicRec 3.3")
    value_p: Share = Field(0.0, description="chance that fea drops a value of a multi-valued field; MicRec 3.3")
    fea_input: Literal["raw", "tower"] = Field(
        "raw", description="fea compares field embeddings, MicRec eq. 2 | the tower's output of them"
    )


class MaskedViews(Section):
    """Contrast of two masked views of items: random or correlated feature masking (samples.masks.strategy: rfm, cfm)."""

    weight: Weight = Field(0.1, description="weight of the objective; decision")
    temperature: float = Field(0.1, ge=0.02, description="by cosine; decision, Yao et al. tune it")
    items: ItemSource = Field(
        "uniform", description="as many items as rows, drawn uniformly; Yao et al. 2021 | targets of the batch | each once"
    )
    symmetric: bool = Field(False, description="from both views; false: view a against all views b, as in Yao et al.")
    spread_out: bool = Field(False, description="baseline without masks: items only pushed apart; Zhang et al. 2017")


PARTS = {"mic": ("uv", "uu", "vv"), "micrec": ("fea", "sem", "sess")}  # that have a weight each


class Objectives(Section):
    """Contrastive objectives added to the base loss; null = off."""

    mic: Mic | None = Field(None, description="cross-channel contrast; MIC 3.4")
    micrec: MicRec | None = Field(None, description="contrast among items by features, content and sessions; MicRec 3.3-3.5")
    masked_views: MaskedViews | None = Field(None, description="contrast of masked views of items; Yao et al. 2021")

    @property
    def trained(self) -> dict[str, dict[str, ChannelWeight]]:
        """Weights of the parts of each objective that adds to the loss: it has a weight and, of parts that have their own, one has."""
        found = {}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if section is not None and section.weight > 0:
                weights: dict[str, ChannelWeight] = {part: getattr(section, part) for part in PARTS.get(name, ())}
                if not weights or any(weights.values()):
                    found[name] = weights
        return found

    @property
    def has_joint_space(self) -> bool:
        """Whether MIC's uv is trained, and compares users and items elsewhere than among the encoder's vectors."""
        return self.mic is not None and self.mic.weight > 0 and self.mic.uv != 0 and self.mic.projection != "identity"

    @property
    def tables(self) -> frozenset[str]:
        """Tables that an objective reads beside the samples."""
        if self.micrec is None or self.micrec.weight == 0:
            return frozenset()
        asked = {"sem_nn": self.micrec.sem, "cooc": self.micrec.sess, "cooc_pairs": self.micrec.sess}
        return frozenset(table for table, weight in asked.items() if weight > 0)


class Mining(Section):
    """Positives and hard negatives of mic's uu and vv, mined from the model's own vectors; MIC 3.3.2."""

    warmup_epochs: int = Field(
        1, ge=0, description="epochs before the first search: neighbours among fresh vectors are random ones; decision"
    )
    refresh_steps: Positive | None = Field(None, description="steps between searches; null = an epoch, 5000 at most; decision")
    bank: Literal["full", "queue"] = Field(
        "full", description="vectors of all users and items, as of the last search | a queue of what training made last; NNCLR's"
    )
    queue_size: Positive = Field(65_536, description="vectors in the queue; NNCLR")
    user_sample: Positive = Field(
        2_000_000, description="users whose vectors the full bank keeps, by hash; the others look among these; decision"
    )
    neighbours: int = Field(5, ge=1, le=100, description="nearest neighbours of a user or item; decision")
    positives: int = Field(1, ge=0, description="of them, drawn as further positives of an anchor; NNCLR")
    min_similarity: float = Field(0.5, ge=-1, le=1, description="smallest cosine of a positive; decision")
    encode: Literal["detached", "live"] = Field(
        "detached", description="vector of a positive: as of the search | encoded again, with gradient, by one more pass"
    )
    replace: bool = Field(False, description="the positive takes the anchor's place instead of being a further one; NNCLR")
    hard_negatives: int = Field(8, ge=0, description="negatives of an anchor, from other clusters; decision")
    hard: Literal["near", "literal"] = Field(
        "near", description="from one of the closest other clusters, decision | from any, as MIC is printed"
    )
    near_clusters: Positive = Field(10, description="closest other clusters; decision")
    clusters: Positive | None = Field(
        None, description="of k-means++; null = root of the number of vectors, 64 to 4096, without a GPU to 1024; decision"
    )

    user_items: Literal["off", "positive", "hard_negative"] = Field(
        "off",
        description="for uv, of what a user would be recommended: nothing, decision | the best, if near | hard_negatives of some ranks",
    )
    user_items_min_similarity: float = Field(0.8, ge=-1, le=1, description="smallest cosine of such a positive; decision")
    user_items_weight: float = Field(0.5, gt=0, description="what it counts beside the clicked item's 1; decision")
    user_items_first: Positive = Field(51, description="first rank that such hard negatives come from; decision")
    user_items_last: Positive = Field(200, description="last of these ranks; decision")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.positives and not self.hard_negatives and self.user_items == "off":
            raise ValueError("mining: neither positives nor hard_negatives; set mining: null")
        if self.user_items != "off" and self.bank == "queue":
            raise ValueError("mining.user_items: recommendations need all items; set mining.bank: full")
        if self.user_items == "hard_negative" and not self.hard_negatives:
            raise ValueError("mining.user_items: hard_negative draws mining.hard_negatives of them; give a number")
        if self.user_items_first > self.user_items_last:
            raise ValueError(f"mining.user_items_first ({self.user_items_first}) is beyond user_items_last ({self.user_items_last})")
        if self.positives > self.neighbours:
            raise ValueError(f"mining.positives ({self.positives}) are drawn from mining.neighbours ({self.neighbours})")
        if self.replace and self.positives != 1:
            raise ValueError("mining.replace: one positive takes the anchor's place; set mining.positives: 1")
        if self.bank == "queue" and (self.hard_negatives or not self.positives):
            raise ValueError("mining.bank: a queue has no clusters, and so positives only; set mining.hard_negatives: 0")
        return self


class Optimizer(Section):
    """Optimisers and learning rates."""

    dense: Literal["adam"] = Field("adam", description="optimiser of the dense weights; MIC 4.3")
    tables: Literal["auto", "adam", "rowwise_adagrad", "sparse_adam"] = Field(
        "auto",
        description="of embedding tables; only adam touches rows out of use: auto, rowwise_adagrad of large ones with few in use; decision",
    )
    lr: float = Field(1e-3, gt=0, description="learning rate; MIC 4.3")
    tables_lr: float | None = Field(None, gt=0, description="learning rate of the tables; null = lr, of rowwise_adagrad 0.05")
    clip: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto",
        description="largest norm of all gradients together, which are scaled down to it; null = any; auto: 5 of comirec_dr; decision",
    )


class Mlflow(Section):
    """Where a training is tracked."""

    uri: str = Field(min_length=1, description="MLflow's tracking URI: http://host:port, sqlite:///file or a folder")
    experiment: str = Field("trichannel", min_length=1, description="name of the experiment that runs belong to")


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
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where a worker computes; auto: a GPU where there is one, each its own"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of the towers' matrix products; weights, vectors and losses are float32 in either case"
    )
    batch: Positive = Field(1024, description="rows of a global batch, over all workers; MIC 4.3")
    batches: Literal["petastorm", "arrow"] = Field("petastorm", description="where batches come from; both give the same ones")
    clicks_per_row: Positive = Field(
        1, description="clicks a row trains on, at most: its target and those before it, for a loss at every position (sasrec); decision"
    )
    epochs: Positive = Field(5, description="passes over the train rows, at most")
    warm_start: bool = Field(False, description="begin with the weights of the day that vocabulary.previous_ds names")
    patience: Positive = Field(2, description="epochs without a better validation recall before stopping")
    valid_users: Positive = Field(2_000, description="users of the validation recall, by smallest user_idx hash")
    valid_at: Positive = Field(50, description="N of the validation recall")
    optimizer: Optimizer = Optimizer()
    sharded_tables: list[str] = Field(
        [], description="fields whose embedding tables are divided over the workers, row by row; for tables larger than a worker's memory"
    )
    seed: int = Field(1, description="seed of weights, order and draws")
    checkpoint_steps: Positive = Field(500, description="steps between checkpoints, beside one an epoch")
    mlflow: Mlflow | None = Field(None, description="track the training by MLflow; null = off")
    watchdog_s: float = Field(60, gt=0, description="seconds without a step after which a worker dumps its stack and ends all; decision")

    @model_validator(mode="after")
    def _check(self) -> Self:
        workers = self.workers if self.launcher != "single" else 1
        if self.streams % workers:
            raise ValueError(f"trainer.streams ({self.streams}) must be a multiple of trainer.workers ({workers})")
        if self.batch % self.streams:
            raise ValueError(f"trainer.batch ({self.batch}) must be a multiple of trainer.streams ({self.streams})")
        return self
