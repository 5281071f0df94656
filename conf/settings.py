"""Every setting, as frozen and checked values. `load` reads a YAML file; an unknown key is an error that names the nearest one.

A description gives unit and origin: "MIC" is Lu et al. 2022, "MicRec" Xie et al. 2022, "decision" a choice of this project where
the papers are silent. `to_yaml` writes settings with these descriptions as comments. The sections are in `conf/sections/`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from keyword import iskeyword
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from conf import fields as f
from conf.loading import load_as, packaged_names
from conf.names import FIELD_NAME, MASK_COLUMN, RESERVED_COLUMNS
from conf.schemas.table import Shape
from conf.sections.data import Cooc, Samples, Session, Split, Storage, Vocabulary
from conf.sections.evaluation import Evaluation, Gates, Report
from conf.sections.experiment import Ab
from conf.sections.publishing import Publish
from conf.sections.retrieval import Channels, Embeddings, Index, Merge, Similar
from conf.sections.section import CrossFaultsError, Section
from conf.sections.semantics import Semantics
from conf.sections.source import FieldSpec, Source
from conf.sections.training import Base, Mining, Model, Objectives, Trainer
from conf.yaml_text import to_yaml

MAX_FIELDS = 63


class Settings(Section):
    """Everything."""

    config_version: Literal[1] = Field(1, description="version of this file's format")
    storage: Storage = Storage()
    source: Source = Source()
    split: Split = Split()
    vocabulary: Vocabulary = Vocabulary()
    session: Session = Session()
    cooc: Cooc = Cooc()
    semantics: Semantics = Semantics()
    samples: Samples = Samples()
    model: Model = Model()
    base: Base = Base()
    objectives: Objectives = Objectives()
    mining: Mining | None = Field(None, description="positives and hard negatives from the model's own vectors; null = off; MIC 3.3.2")
    trainer: Trainer = Trainer()
    embeddings: Embeddings = Embeddings()
    index: Index = Index()
    channels: Channels = Channels()
    merge: Merge = Merge()
    similar: Similar = Similar()
    publish: Publish = Publish()
    gates: Gates = Gates()
    evaluation: Evaluation = Evaluation()
    report: Report = Report()
    ab: Ab = Ab()

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        faults = [*self._cross_faults(), *self._field_faults(), *self._semantics_faults()]
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
        fields, embedded = self.source.resolved_fields(), list[str]()
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
            embedded += chosen if chosen is not None else usable
        for name in self.trainer.sharded_tables:
            if name not in embedded:
                yield f"trainer.sharded_tables: {name!r} is no field of the towers; known: {', '.join(embedded)}"
        if self.split.kind == "user" and "user_id" in (self.model.fields.user or ()):
            yield "model.fields.user: user_id cannot be used with split.kind user (held-out users are never trained)"
        if "item_id" not in (self.model.fields.item or ["item_id"]):
            yield "model.fields.item: item_id is needed (the history is embedded by it)"
        if self.cooc.category_field and self.cooc.category_field not in fields.item:
            yield f"cooc.category_field: {self.cooc.category_field!r} is no item field; known: {', '.join(fields.item) or 'none'}"
        if self.cooc.increment and self.vocabulary.previous_ds is None:
            yield "cooc.increment needs item numbers that stay: set vocabulary.previous_ds: latest"
        if self.trainer.warm_start and self.vocabulary.previous_ds is None:
            yield "trainer.warm_start needs ids that stay: set vocabulary.previous_ds: latest"
        if self.source.ts_format == "order" and self.session.kind == "gap":
            yield "session.kind: gap needs clock times, but source.ts_format is order; set session.kind: user"
        if self.source.ts_format == "order" and self.split.kind == "temporal":
            yield "split.kind: temporal needs clock times, but source.ts_format is order; set split.kind: last_k"
        if self.source.ts_format == "order" and self.split.kind == "production" and self.split.refit:
            yield "split.refit: with production the last day is valid, but source.ts_format is order; set split.refit: false"
        yield from self._loss_faults()
        if self.samples.layout == "sequences" and self.trainer.batches == "petastorm":
            yield "trainer.batches: petastorm reads samples.layout windows only; set trainer.batches: arrow, or samples.layout: windows"
        if self.trainer.clicks_per_row > 1:
            yield from self._several_clicks_faults()
        if self.mining:
            yield from self._mining_faults(self.mining)
        for name, given in (("channels.names", self.channels.names), ("evaluation.at", self.evaluation.at)):
            if len(set(given)) < len(given):
                yield f"{name}: a value is named twice"
        yield from self._evaluation_faults()
        yield from self._merge_faults()
        if self.channels.u2i.space == "joint":
            yield from self._joint_faults()
        title = self.report.title_field
        if title and title not in fields.item:
            yield f"report.title_field: {title!r} is no item field; known: {', '.join(fields.item) or 'none'}"

    def _evaluation_faults(self) -> Iterator[str]:
        slices, category = self.evaluation.slices, self.evaluation.category_field
        items = self._embedded("item")
        users = [name for name, spec in self.source.resolved_fields().user.items() if spec.role != "text"]
        for name in slices.user_fields:
            if name not in users:
                yield f"evaluation.slices.user_fields: {name!r} is no user field with values; known: {', '.join(users) or 'none'}"
        if category is not None and category not in items:
            yield f"evaluation.category_field: {category!r} is no item field of the model; known: {', '.join(items) or 'none'}"
        if slices.tail > slices.head:
            yield f"evaluation.slices.tail: {slices.tail:g} is beyond the head, which begins at {slices.head:g}"
        # a list that ends before N counts as misses there, and a baseline's does not end
        at, short = max(self.evaluation.at), [("channels.top", self.channels.top), ("merge.top", self.merge.top)]
        short = [(name, top) for name, top in short if top < at]
        if short:
            beyond = " and ".join(f"{name} {top}" for name, top in short)
            yield f"evaluation.at: {at} is beyond {beyond}; raise {' and '.join(name for name, _ in short)}, or measure at fewer"
        if sorted(set(slices.activity)) != slices.activity:
            yield "evaluation.slices.activity: give the numbers of clicks in ascending order, each once"

    def _embedded(self, side: f.Side) -> list[str]:
        """Fields of the source that the towers see."""
        given: dict[str, FieldSpec] = getattr(self.source.resolved_fields(), side)
        chosen = getattr(self.model.fields, side)
        return [name for name, spec in given.items() if spec.role != "text" and (chosen is None or name in chosen)]

    def _merge_faults(self) -> Iterator[str]:
        merge, known = self.merge, get_args(get_args(Channels.model_fields["names"].annotation)[0])
        for name in merge.weights:
            if name not in known:
                yield f"merge.weights: unknown channel {name!r}; known: {', '.join(known)}"
        if isinstance(merge.quotas, dict):
            for name in merge.quotas:
                if name not in self.channels.names:
                    yield f"merge.quotas: {name!r} is no channel that runs; channels.names: {', '.join(self.channels.names)}"
            if merge.quotas and sum(merge.quotas.values()) != merge.top:
                yield f"merge.quotas: together {sum(merge.quotas.values())} places, but merge.top is {merge.top}"
        elif merge.kind == "quota" and (self.split.kind == "production" or self.split.refit):
            found = "split.refit trains on valid" if self.split.refit else "split.kind production holds no valid clicks out"
            yield f"merge.quotas: learned needs valid clicks, and {found}; learn them beside production and give what it counted"
        fields = self._embedded("item")
        if merge.category_field is not None and merge.category_field not in fields:
            yield f"merge.category_field: {merge.category_field!r} is no item field of the model; known: {', '.join(fields) or 'none'}"
        if merge.category_field is None and (merge.kind == "diverse" or merge.max_per_category is not None):
            yield f"merge.category_field: {'kind diverse' if merge.kind == 'diverse' else 'max_per_category'} needs it; name an item field"

    def _joint_faults(self) -> Iterator[str]:
        mic = self.objectives.mic
        if self.embeddings.path is not None:
            yield "channels.u2i.space: joint is of our model, but embeddings.path brings vectors of another; set encoder"
        elif mic is None or mic.weight == 0 or mic.uv == 0:
            yield "channels.u2i.space: joint is learned by objectives.mic's uv; give it a weight, or set encoder"

    def _loss_faults(self) -> Iterator[str]:
        if self.base.loss == "logistic" and self.base.negatives not in ("uniform", "in_batch"):
            yield "base.negatives: the logistic loss takes uniform or in_batch ones only"
        if self.base.known_clicks == "train" and self.base.negatives != "uniform":
            yield "base.known_clicks: train is of uniform negatives; set base.negatives: uniform, or known_clicks: history"
        if self.base.known_clicks == "train" and self.split.refit:
            yield "base.known_clicks: train would know the valid clicks, which split.refit puts among a user's items; set history"
        trained = self.objectives.trained
        cosine = [f"objectives.{name}" for name in ("mic", "masked_views") if name in trained]
        if self.base.loss == "logistic" and self.base.weight > 0:
            cosine.insert(0, "base.loss: logistic")
        if self.model.encoder == "fm" and not self.model.fm.sum_only and cosine:
            found = f"{', '.join(cosine)} by cosine"
            yield f"model.fm.sum_only: exact FM compares by inner product alone, but {found}; set it to true, or another loss"
        if self.base.weight == 0 and not trained:
            yield "base.weight: is 0, and no objective has a part with a weight: nothing to train on; set it, or objectives.mic: {}"

    def _several_clicks_faults(self) -> Iterator[str]:
        if self.model.encoder != "sasrec" or self.base.loss != "sampled_softmax":
            yield "trainer.clicks_per_row: only model.encoder sasrec has a loss at every position, by base.loss sampled_softmax; else set 1"
        if self.samples.layout != "sequences":
            yield "trainer.clicks_per_row: rows of several clicks are cut from samples.layout sequences; set it, or 1 click a row"
        if self.trainer.clicks_per_row > self.model.history:
            yield f"trainer.clicks_per_row: at most model.history ({self.model.history}): the clicks of a row stand in its history"

    def _mining_faults(self, mining: Mining) -> Iterator[str]:
        mic = self.objectives.mic
        if mic is None or mic.weight == 0:
            yield "mining: what is mined enters objectives.mic; give it a weight, or set mining: null"
            return
        if mining.user_items != "off" and mic.uv == 0:
            yield "mining.user_items: enters objectives.mic's uv; give it a weight"
        if mining.user_items != "off" and mic.logq:
            yield "mining.user_items: what is mined comes as often as it is near, not as it is clicked; set objectives.mic.logq: false"
        hard = mining.hard_negatives and mining.user_items != "hard_negative"
        if (mining.positives or hard) and mic.uu == 0 and mic.vv == 0:
            yield "mining: positives and hard_negatives enter objectives.mic's uu and vv; give one of them a weight"

    def _semantics_faults(self) -> Iterator[str]:
        chosen, given = self.model.fields.item, self.source.resolved_fields().item
        try:
            self.semantics.compared({n: s.role for n, s in given.items() if s.role == "text" or chosen is None or n in chosen})
        except ValueError as error:
            yield str(error)
        if self.semantics.kind is None and "sem_nn" in self.objectives.tables:
            yield "objectives.micrec.sem needs items that are alike in content: set semantics.kind, or sem: 0"
        if self.semantics.kind == "vectors" and self.source.items.vector is None:
            yield "semantics.kind: vectors needs the column that holds them; set source.items.vector"

    def registry(self) -> f.Registry:
        """The feature fields the towers see, in mask-bit order, and the others that are kept."""
        given = self.source.resolved_fields()

        def embedded(side: f.Side, specs: Mapping[str, FieldSpec], chosen: Sequence[str] | None, id_min_count: int) -> tuple[f.Field, ...]:
            with_id = side == "item" or self.split.kind != "user"
            names = chosen if chosen is not None else [f"{side}_id"] * with_id + [n for n, s in specs.items() if s.role != "text"]
            id_field = f.Field(f"{side}_id", side, "single", id_min_count)
            fields = {n: f.Field(n, side, spec.role, spec.min_count, spec.max_len) for n, spec in specs.items()}
            return tuple(id_field if n == id_field.name else fields[n] for n in names)

        user = embedded("user", given.user, self.model.fields.user, self.source.user_id_min_count)
        seen = {field.name for field in user}
        return f.Registry(
            user=user,
            item=embedded("item", given.item, self.model.fields.item, self.source.item_id_min_count),
            user_kept=tuple(f.Field(n, "user", spec.role) for n, spec in given.user.items() if n not in seen),
            item_text=tuple(f.Field(n, "item", "text") for n, spec in given.item.items() if spec.role == "text"),
        )

    def title_field(self) -> str | None:
        """The item text field that stands for an item where a person reads; None = there is none, its key does."""
        return self.report.title_field or ("title" if any(f.name == "title" for f in self.registry().item_text) else None)

    def shape(self) -> Shape:
        """What else decides table columns."""
        vectors = self.source.items.vector is not None
        masks = self.samples.masks
        return Shape(
            history=self.model.history,
            mask_draws=masks.draws if masks.stored else 0,
            layout=self.merge.layout,
            vectors=vectors,
            strategy=masks.strategy,
            samples_layout=self.samples.layout,
            item_users=self.samples.item_users_length if self.samples.item_users else 0,
            joint=self.objectives.has_joint_space and self.embeddings.path is None,
        )

    def section_hash(self, sections: Sequence[str]) -> str:
        """16 hex digits over the named sections ("source" or "model.history"), so that other settings never rebuild a table."""
        return hashlib.sha256(json.dumps({name: self._value(name) for name in sorted(sections)}, sort_keys=True).encode()).hexdigest()[:16]

    def _value(self, dotted: str) -> Any:
        value: Any = self.model_dump(mode="json")
        for part in dotted.split("."):
            value = value[part]
        return value


def load(name_or_file: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a packaged name ("demo") or a YAML file, with `a.b=c` overrides applied (values are read as YAML).

    Raises:
        SettingsError: every fault at once, each with its line in the file and, for an unknown key, the nearest known one.
    """
    return load_as(Settings, name_or_file, overrides)


__all__ = ["Settings", "load", "packaged_names", "to_yaml"]
