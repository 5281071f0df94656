"""Settings that belong to one encoder."""

from typing import Literal

from pydantic import Field

from conf.sections.section import Positive, Section


class Comirec(Section):
    """Several vectors a user (encoder: comirec_sa, comirec_dr)."""

    interests: Positive = Field(4, description="vectors a user, K; ComiRec")
    rounds: Positive = Field(3, description="of dynamic routing; ComiRec")
    init: Literal["scaled", "literal"] = Field(
        "scaled", description="routing weights start as N(0, 1/width), decision | N(0, 1), ComiRec's"
    )


class Ican(Section):
    """Attention between the fields of what was clicked (encoder: ican)."""

    heads: Positive = Field(8, description="of attention; they divide the width of an embedding; MicRec 5.3")
    behaviour_rows: Literal["fields", "positions"] = Field(
        "fields", description="what attends: the mean of each item field over the clicks, as in ICAN's code | the clicks"
    )
    attn_only: bool = Field(False, description="unscaled attention alone, as in ICAN's code; false: a transformer block; MicRec eq. 6")
    activation: Literal["relu", "tanh"] = Field(
        "relu", description="of the towers: relu, the last layer linear; decision | tanh, the last layer's, too, as in ICAN's code"
    )


class AutoInt(Section):
    """Attention between the fields of each tower (encoder: autoint)."""

    layers: Positive = Field(3, description="interacting layers; AutoInt 5.1")
    heads: Positive = Field(2, description="of each; AutoInt 5.1")
    head_width: Positive = Field(32, description="of a head's vectors; AutoInt 5.1")


class Fm(Section):
    """Factorisation machine (encoder: fm)."""

    sum_only: bool = Field(
        False, description="plain sums of the fields, by cosine, as losses by cosine need; false: exact FM, by inner product, one longer"
    )


class Sasrec(Section):
    """Causal self-attention over the clicks (encoder: sasrec)."""

    blocks: Positive = Field(2, description="transformer blocks; SASRec 4.1")
    heads: Positive = Field(1, description="of attention; they divide the width of an embedding; SASRec 4.1")
    similarity: Literal["cosine", "inner_product"] = Field(
        "cosine", description="cosine wants base.temperature 0.1, decision | inner_product, SASRec's, wants 1"
    )
