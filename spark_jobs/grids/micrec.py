"""Tables 2 and 4 and figure 3 of MicRec (Xie et al. 2022): contrasts among items, by features, content and sessions, on several towers.

The paper's data sets (Video-636M, News-76M) are private, so its numbers never stand beside ours; they are kept to be read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from spark_jobs.grids.layout import Cell, Column, Grid

SHARED: Final[Mapping[str, Any]] = {
    "channels.names": ["u2i"],
    "channels.top": 500,
    "merge.top": 500,
    "evaluation.at": [50, 100, 200, 500],
    "evaluation.baselines": ["most_pop"],
    "trainer.clicks_per_row": 1,
    "model.item_tower": "mlp",
    "base.loss": "sampled_softmax",
    "base.negatives": "uniform",
    "base.num_negatives": 20,
    "base.temperature": 1.0,
}
WEIGHTS: Final = {"fea": 1.0, "sem": 0.3, "sess": 0.1}  # of the videos, section 5.3
HIT: Final = (
    "HIT@N is the share of held-out clicks, each counted, that are on an item of the first N of a list made just before the click "
    "(`hit_click`); popularity has no such lists."
)
COVERAGE: Final = "The paper does not say at which N it measures coverage."


def plain(name: str, label: str, encoder: str) -> Cell:
    """A tower by sampled softmax alone."""
    fixed = {"model.encoder": encoder, "base.weight": 1.0, "objectives.micrec": None}
    return Cell(name, label, {}, fixed | {"objectives.mic": None, "objectives.masked_views": None, "mining": None})


def with_micrec(base: Cell, tasks: str, label: str) -> Cell:
    """The tower with some of MicRec's tasks: words of fea, sem, sess."""
    on = {f"objectives.micrec.{task}": weight if task in tasks.split() else 0.0 for task, weight in WEIGHTS.items()}
    fixed = {key: value for key, value in base.fixed.items() if key != "objectives.micrec"} | on
    suffix = "all" if all(on.values()) else "-".join(tasks.split())
    return replace(base, name=f"{base.name}-{suffix}", label=label, fixed=fixed, base=base.name)


FM: Final = plain("fm", "FM", "fm")
YOUTUBE: Final = plain("youtube-dnn", "YoutubeDNN", "youtube_dnn")
DEEPFM: Final = plain("deepfm", "DeepFM", "deepfm")
AUTOINT: Final = plain("autoint", "AutoInt", "autoint")
ICAN: Final = plain("ican", "ICAN", "ican")

VIDEO_2: Final = {
    ("u2i", "fm"): (0.1731, 0.2487, 0.3219, 0.4495),
    ("u2i", "youtube-dnn"): (0.1779, 0.2576, 0.3375, 0.4719),
    ("u2i", "deepfm"): (0.1825, 0.2587, 0.3368, 0.4776),
    ("u2i", "autoint"): (0.1859, 0.2626, 0.3552, 0.4857),
    ("u2i", "ican"): (0.1872, 0.2627, 0.3563, 0.4873),
    ("u2i", "ican-fea"): (0.1967, 0.2752, 0.3671, 0.5065),
    ("u2i", "ican-fea-sess"): (0.2033, 0.2751, 0.3764, 0.5134),
    ("u2i", "ican-all"): (0.2047, 0.2831, 0.3825, 0.5209),
}
NEWS_2: Final = {
    ("u2i", "fm"): (0.2466, 0.3072, 0.3871, 0.4843),
    ("u2i", "youtube-dnn"): (0.2691, 0.3307, 0.4116, 0.5188),
    ("u2i", "deepfm"): (0.2659, 0.3268, 0.4083, 0.5171),
    ("u2i", "autoint"): (0.2716, 0.3431, 0.4213, 0.5316),
    ("u2i", "ican"): (0.2748, 0.3438, 0.4241, 0.5403),
    ("u2i", "ican-fea"): (0.2911, 0.3609, 0.4413, 0.5605),
    ("u2i", "ican-fea-sess"): (0.3006, 0.3689, 0.4494, 0.5693),
    ("u2i", "ican-all"): (0.3018, 0.3719, 0.4543, 0.5758),
}
# the paper has one coverage, of no stated N: it stands in both columns
VIDEO_4: Final = {
    ("u2i", "ican-all"): (0.2047, 0.5209, 0.1606, 0.1606),
    ("u2i", "ican-sem-sess"): (0.2008, 0.5092, 0.1721, 0.1721),
    ("u2i", "ican-fea-sess"): (0.2033, 0.5134, 0.1617, 0.1617),
    ("u2i", "ican-fea-sem"): (0.2012, 0.5108, 0.0932, 0.0932),
    ("u2i", "ican"): (0.1872, 0.4873, 0.1242, 0.1242),
}

TABLE_2: Final = Grid(
    title="MicRec, table 2",
    source="Xie et al. 2022 (MicRec), table 2",
    family="micrec",
    cells=(
        *(FM, YOUTUBE, DEEPFM, AUTOINT, ICAN),
        with_micrec(ICAN, "fea", "RFM* = MicRec (fea)"),
        with_micrec(ICAN, "fea sess", "MicRec (fea+sess)"),
        with_micrec(ICAN, "fea sem sess", "MicRec (final)"),
    ),
    channels={"u2i": "U2I"},
    columns=tuple(Column(f"HIT@{n}", "hit_click", n) for n in (50, 100, 200, 500)),
    defaults=SHARED,
    published={"Video-636M": VIDEO_2, "News-76M": NEWS_2},
    notes=(HIT,),
    gates=("tasks",),
)
TABLE_4: Final = replace(
    TABLE_2,
    title="MicRec, table 4",
    source="Xie et al. 2022 (MicRec), table 4",
    cells=(
        with_micrec(ICAN, "fea sem sess", "MicRec"),
        with_micrec(ICAN, "sem sess", "– feature-level item CL"),
        with_micrec(ICAN, "fea sess", "– semantic-level item CL"),
        with_micrec(ICAN, "fea sem", "– session-level item CL"),
        replace(ICAN, label="– all item-based CL"),
    ),
    columns=(
        *(Column(f"HIT@{n}", "hit_click", n) for n in (50, 500)),
        *(Column(f"coverage@{n}", "coverage", n) for n in (50, 500)),
    ),
    published={"Video-636M": VIDEO_4},
    notes=(HIT, COVERAGE),
    gates=("coverage",),
)
FIGURE_3: Final = replace(
    TABLE_2,
    title="MicRec, figure 3",
    source="Xie et al. 2022 (MicRec), figure 3, which prints no numbers",
    cells=tuple(
        cell
        for base in (YOUTUBE, AUTOINT)
        for cell in (
            base,
            with_micrec(base, "fea", f"{base.label} + fea"),
            with_micrec(base, "fea sess", f"{base.label} + fea + sess"),
            with_micrec(base, "fea sem sess", f"{base.label} + fea + sem + sess"),
        )
    ),
    columns=tuple(Column(f"HIT@{n}", "hit_click", n) for n in (50, 200, 500)),
    published={},
    gates=(),
)
