"""What the parts of both papers bring to one model under equal conditions, in each channel, merged, and where there are few clicks.

The base, its loss and its sizes are the configuration's; cells differ in the objectives alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from spark_jobs.grids import mic, micrec
from spark_jobs.grids.layout import Column, Grid

FEW: Final = 30  # train clicks below which a user counts as one of few clicks
SHARED: Final[Mapping[str, Any]] = {
    "channels.names": ["u2i", "u2u2i", "i2i"],
    "channels.top": 50,
    "merge.kind": "quota",
    "merge.top": 50,
    "evaluation.at": [50],
    "evaluation.baselines": ["most_pop"],
    "evaluation.max_clicks": 0,
    "evaluation.slices.activity": [FEW],
}
_MINING: Final = {"mining.positives": 1, "mining.hard_negatives": 8}
BASE: Final = mic.plain("dssm", "DSSM", "dssm", {})
_MIC: Final = mic.with_mic(BASE, "ui uu ii", "DSSM + MIC")
MIC: Final = replace(_MIC, fixed={**_MIC.fixed, "mining": None})
MINED: Final = replace(_MIC, name="dssm-mic-mined", label="DSSM + MIC, mined", fixed={**_MIC.fixed, **_MINING})
BOTH: Final = replace(micrec.with_micrec(MIC, "fea sem sess", "DSSM + MIC + MicRec"), base=BASE.name)


def gains(published: Mapping[tuple[str, str], tuple[float, ...]], channel: str, cell: str, base: str, column: int) -> str:
    """A gain of the paper in percent, in words."""
    return f"{100 * (published[channel, cell][column] / published[channel, base][column] - 1):+.1f}"


def _of_mic(column: int) -> str:
    return "; ".join(
        f"{channel} {gains(mic.BOOKS_2, name, 'dssm-mic', 'dssm', column)} and {gains(mic.TAOBAO_2, name, 'dssm-mic', 'dssm', column)}"
        for name, channel in mic.CHANNELS.items()
    )


def _of_micrec() -> str:
    cells = {"ican-fea": "features", "ican-fea-sess": "and sessions", "ican-all": "and content"}
    return "; ".join(
        f"{name} {gains(micrec.VIDEO_2, 'u2i', cell, 'ican', 0)} and {gains(micrec.NEWS_2, 'u2i', cell, 'ican', 0)}"
        for cell, name in cells.items()
    )


PARTS: Final = Grid(
    title="The parts of both papers",
    source="this project",
    family="parts",
    cells=(
        BASE,
        MIC,
        MINED,
        micrec.with_micrec(BASE, "fea", "DSSM + features"),
        micrec.with_micrec(BASE, "sem", "DSSM + content"),
        micrec.with_micrec(BASE, "sess", "DSSM + sessions"),
        micrec.with_micrec(BASE, "fea sem sess", "DSSM + MicRec"),
        BOTH,
    ),
    channels={"u2i": "U2I", "u2u2i": "U2U", "i2i": "I2I", "merged": "merged"},
    columns=(
        Column("Recall@50", "recall", 50),
        Column("HR@50", "hr", 50),
        Column("NDCG@50", "ndcg_std", 50),
        Column("coverage@50", "coverage", 50),
        Column("Recall@50, tail items", "recall", 50, "item popularity=tail"),
        Column(f"Recall@50, users below {FEW}", "recall", 50, f"user activity=0-{FEW - 1}"),
    ),
    defaults=SHARED,
    scale=100,
    digits=2,
    notes=(
        "The merged list takes as many places from each of the three channels.",
        "Mined: with neighbours as positives and hard negatives by k-means++ from the second epoch on, by the defaults of `mining`.",
        "Tail items are those below the 0.8 quantile of train clicks (evaluation.slices.tail); their Recall@50 is of clicks on them alone.",
        f"Users below {FEW} have fewer train clicks than that.",
        f"MIC's paper, DSSM + MIC over DSSM, Amazon Books and Taobao, in percent: Recall@50 {_of_mic(3)}; HR@50 {_of_mic(5)}.",
        f"MicRec's paper, over ICAN, its videos and its news, in percent: HIT@50 {_of_micrec()}.",
    ),
)
