"""Settings of semantic neighbours: by which way items count as alike in content, and how many are kept."""

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from conf.sections.section import Positive, Section

# What each way compares: roles of the field, and the field that is taken where none is named.
COMPARED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "encoder": (("text",), "title"),
    "tfidf": (("text",), "title"),
    "taxonomy": (("single", "multi"), "category"),
}


class Encoder(Section):
    """A sentence encoder (kind: encoder)."""

    path: str | None = Field(None, min_length=1, description="folder in sentence-transformers format, at the same path on every executor")
    batch: Positive = Field(64, description="texts encoded together")
    device: str | None = Field("cpu", description="where torch computes: cpu, cuda; null = a GPU where there is one")


class Tfidf(Section):
    """TF-IDF of character 3-grams, made short by a truncated SVD (kind: tfidf)."""

    dim: Positive = Field(128, description="numbers of a vector; decision")
    terms: Positive = Field(32_768, description="3-grams that count, the most frequent ones; decision")
    sample: Positive = Field(50_000, description="different texts that weights are learned from, on the driver, drawn by hash; decision")
    seed: int = Field(11, description="seed of that draw and of the SVD")


class Semantics(Section):
    """Which items are alike in content; off unless a kind is given."""

    kind: Literal["encoder", "tfidf", "taxonomy", "vectors"] | None = Field(
        None,
        description="alike by texts: encoder, tfidf; by a shared value: taxonomy; by source.items.vector: vectors; null = no such table",
    )
    field: str | None = Field(None, description="item field compared; null = title (for texts) or category, or the only one that fits")
    top: Positive = Field(10, description="neighbours kept of an item; decision, MicRec gives none")
    min_similarity: float = Field(0.1, ge=-1, le=1, description="neighbours of smaller cosine are left out (not of taxonomy); decision")
    encoder: Encoder = Encoder()
    tfidf: Tfidf = Tfidf()
    seed: int = Field(13, description="seed of the order in which items that share a value follow each other (taxonomy)")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "encoder" and self.encoder.path is None:
            raise ValueError("semantics.encoder.path is needed for kind encoder: a folder in sentence-transformers format")
        return self

    def compared(self, roles: Mapping[str, str]) -> str | None:
        """The item field that is compared; None where the kind compares no field, or there is none.

        Args:
            roles: name -> role of the fields that table `items` holds.

        Raises:
            ValueError: no field fits, or it is not clear which; the text begins with "semantics.field: " and ends with what to set.
        """
        if self.kind is None or self.kind not in COMPARED:
            return None
        wanted, usual = COMPARED[self.kind]
        fitting = [name for name, role in roles.items() if role in wanted]
        role, example = " or ".join(wanted), f"source.fields.item: {{{usual}: {wanted[0]}}}"
        if not fitting:
            raise ValueError(f"semantics.field: kind {self.kind} needs an item field of role {role}, and there is none; set {example}")
        if self.field is not None and self.field not in fitting:
            known = ", ".join(fitting)
            raise ValueError(f"semantics.field: {self.field!r} is no item field of role {role}; known: {known}")
        if self.field is None and usual not in fitting and len(fitting) > 1:
            raise ValueError(f"semantics.field: several item fields have role {role}; name one of {', '.join(fitting)}")
        return self.field or (usual if usual in fitting else fitting[0])
