"""Tables 2 and 3 of MIC (Lu et al. 2022): models without and with its three contrasts, in three channels.

A pair of cells differs in the objective alone: base.weight and objectives.mic.weight are lambda and 1 - lambda of equation 8, and a base
has weight 1. X's own loss: logistic for DSSM (equation 7), sampled softmax for YoutubeDNN and ComiRec, as in ComiRec's code.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from spark_jobs.grids.layout import Cell, Column, Grid

COLUMNS: Final = tuple(
    Column(f"{label}@{n}", metric, n) for n in (20, 50) for label, metric in (("Recall", "recall"), ("NDCG", "ndcg_hit"), ("HR", "hr"))
)
CHANNELS: Final = {"u2i": "U2I", "i2i": "I2I", "u2u2i": "U2U"}
SHARED: Final[Mapping[str, Any]] = {
    "channels.names": ["u2i", "u2u2i", "i2i"],
    "channels.top": 50,
    "merge.top": 50,
    "evaluation.at": [20, 50],
    "evaluation.baselines": ["most_pop"],
    "evaluation.max_clicks": 0,
    "trainer.clicks_per_row": 1,
}
LOGISTIC: Final[Mapping[str, Any]] = {
    "base.loss": "logistic",
    "base.negatives": "uniform",
    "base.num_negatives": 4,
    "model.item_tower": "mlp",
}
# ComiRec shares ten times the batch of negatives; one time costs a tenth
SOFTMAX: Final[Mapping[str, Any]] = {
    "base.loss": "sampled_softmax",
    "base.negatives": "shared",
    "base.num_negatives": 1024,
    "base.temperature": 1.0,
}
NDCG: Final = "NDCG is normalised by a user's number of hits: the only reading that fits the paper's numbers (ComiRec's published code)."


def plain(name: str, label: str, encoder: str, loss: Mapping[str, Any]) -> Cell:
    """X by its own loss."""
    fixed = {"model.encoder": encoder, "base.weight": 1.0, "objectives.mic": None, "mining": None}
    return Cell(name, label, loss, fixed | {"objectives.micrec": None, "objectives.masked_views": None})


def with_mic(base: Cell, contrasts: str, label: str) -> Cell:
    """X + MIC with some of its contrasts: words of ui, uu, ii."""
    on = {name: float(word in contrasts.split()) for word, name in (("ui", "uv"), ("uu", "uu"), ("ii", "vv"))}
    weights = {"base.weight": 0.7, "objectives.mic.weight": 0.3, **{f"objectives.mic.{name}": weight for name, weight in on.items()}}
    fixed = {key: value for key, value in base.fixed.items() if key not in ("objectives.mic", "mining")} | weights
    if not on["uu"] and not on["vv"]:
        fixed["mining"] = None  # what is mined enters uu and vv
    suffix = "mic" if all(on.values()) else "-".join(contrasts.split())
    return replace(base, name=f"{base.name}-{suffix}", label=label, fixed=fixed, base=base.name)


DNN: Final = plain("dnn", "DNN", "youtube_dnn", SOFTMAX)
COMIREC: Final = plain("comirec", "ComiRec", "comirec_sa", SOFTMAX)
DSSM: Final = plain("dssm", "DSSM", "dssm", LOGISTIC)
PAIRS: Final = tuple(cell for base in (DNN, COMIREC, DSSM) for cell in (base, with_mic(base, "ui uu ii", f"{base.label} + MIC")))
# the settings in the paper's order; a row's label is the contrasts that are on
SETTINGS: Final = (
    replace(DSSM, label="base"),
    *(with_mic(DSSM, words, " + ".join(words.upper().split())) for words in ("ui", "uu", "ii", "ui uu", "ui ii", "uu ii", "ui uu ii")),
)

BOOKS_2: Final = {
    ("u2i", "dnn"): (4.567, 4.577, 10.285, 7.312, 5.972, 15.894),
    ("u2i", "dnn-mic"): (4.829, 4.972, 10.729, 7.554, 5.998, 16.167),
    ("u2i", "comirec"): (5.489, 4.872, 11.402, 8.467, 6.225, 17.202),
    ("u2i", "comirec-mic"): (6.558, 5.224, 13.581, 10.171, 6.557, 20.312),
    ("u2i", "dssm"): (5.871, 8.537, 18.760, 9.659, 9.215, 26.821),
    ("u2i", "dssm-mic"): (6.669, 9.396, 20.644, 10.819, 11.114, 30.173),
    ("i2i", "dnn"): (2.613, 2.977, 6.412, 4.460, 4.032, 10.608),
    ("i2i", "dnn-mic"): (3.692, 4.118, 8.691, 6.275, 5.398, 14.097),
    ("i2i", "comirec"): (6.661, 5.146, 13.732, 10.001, 6.388, 19.358),
    ("i2i", "comirec-mic"): (7.219, 5.627, 14.844, 10.953, 6.901, 21.713),
    ("i2i", "dssm"): (4.507, 7.501, 14.471, 6.928, 8.891, 20.572),
    ("i2i", "dssm-mic"): (4.873, 7.887, 15.383, 7.401, 9.319, 21.716),
    ("u2u2i", "dnn"): (5.257, 5.071, 10.997, 7.412, 6.127, 16.300),
    ("u2u2i", "dnn-mic"): (5.437, 5.168, 11.547, 8.275, 6.333, 17.037),
    ("u2u2i", "comirec"): (6.758, 5.254, 13.838, 10.313, 6.497, 19.658),
    ("u2u2i", "comirec-mic"): (7.283, 5.677, 14.759, 11.038, 6.962, 21.725),
    ("u2u2i", "dssm"): (7.194, 9.212, 20.707, 11.727, 12.037, 32.074),
    ("u2u2i", "dssm-mic"): (7.851, 10.871, 23.320, 12.789, 12.774, 34.204),
}
TAOBAO_2: Final = {
    ("u2i", "dnn"): (3.319, 12.493, 28.417, 5.075, 14.263, 39.310),
    ("u2i", "dnn-mic"): (3.531, 13.481, 29.592, 5.278, 15.187, 40.324),
    ("u2i", "comirec"): (5.127, 20.005, 40.006, 7.558, 21.390, 49.959),
    ("u2i", "comirec-mic"): (5.337, 20.885, 40.240, 7.689, 21.818, 50.621),
    ("u2i", "dssm"): (3.758, 12.767, 28.876, 5.742, 14.335, 40.233),
    ("u2i", "dssm-mic"): (4.265, 13.618, 29.042, 6.459, 16.193, 42.044),
    ("i2i", "dnn"): (2.513, 11.754, 24.167, 3.731, 13.822, 35.339),
    ("i2i", "dnn-mic"): (2.838, 13.356, 28.162, 3.914, 14.271, 35.719),
    ("i2i", "comirec"): (5.125, 19.164, 38.489, 7.989, 21.801, 51.902),
    ("i2i", "comirec-mic"): (5.775, 20.708, 42.771, 8.229, 21.855, 52.969),
    ("i2i", "dssm"): (4.846, 15.838, 37.221, 6.904, 16.433, 47.036),
    ("i2i", "dssm-mic"): (5.334, 16.799, 38.551, 7.308, 17.116, 48.227),
    ("u2u2i", "dnn"): (3.039, 11.816, 25.093, 4.919, 13.985, 37.588),
    ("u2u2i", "dnn-mic"): (3.205, 12.551, 27.149, 5.095, 14.704, 38.642),
    ("u2u2i", "comirec"): (5.148, 19.304, 38.410, 7.467, 21.098, 48.999),
    ("u2u2i", "comirec-mic"): (5.701, 20.686, 42.146, 7.604, 22.971, 49.252),
    ("u2u2i", "dssm"): (4.756, 14.566, 34.188, 7.305, 16.365, 46.053),
    ("u2u2i", "dssm-mic"): (5.333, 15.651, 36.008, 7.614, 17.881, 46.703),
}
BOOKS_3: Final = {
    ("u2i", "dssm"): (5.871, 8.537, 18.760, 9.659, 9.215, 26.821),
    ("u2i", "dssm-ui"): (6.679, 9.618, 20.890, 10.858, 11.409, 30.657),
    ("u2i", "dssm-uu"): (6.578, 9.447, 20.512, 10.542, 11.171, 29.863),
    ("u2i", "dssm-ii"): (6.036, 9.126, 19.220, 10.004, 10.567, 27.444),
    ("u2i", "dssm-ui-uu"): (6.897, 9.861, 21.15, 10.885, 11.406, 30.442),
    ("u2i", "dssm-ui-ii"): (6.732, 9.769, 21.273, 10.909, 11.505, 30.816),
    ("u2i", "dssm-uu-ii"): (6.596, 9.393, 20.672, 10.494, 11.942, 29.950),
    ("u2i", "dssm-mic"): (6.669, 9.396, 20.644, 10.819, 11.114, 30.173),
    ("u2u2i", "dssm"): (7.194, 9.212, 20.707, 11.727, 12.037, 32.074),
    ("u2u2i", "dssm-ui"): (7.571, 10.936, 23.17, 12.492, 12.763, 33.616),
    ("u2u2i", "dssm-uu"): (7.867, 10.975, 23.572, 12.581, 12.804, 33.921),
    ("u2u2i", "dssm-ii"): (7.301, 9.617, 21.468, 12.025, 12.251, 32.813),
    ("u2u2i", "dssm-ui-uu"): (7.841, 10.890, 23.147, 12.545, 12.848, 33.775),
    ("u2u2i", "dssm-ui-ii"): (7.500, 10.695, 22.532, 12.493, 12.823, 33.816),
    ("u2u2i", "dssm-uu-ii"): (7.618, 10.789, 22.965, 12.262, 12.637, 33.529),
    ("u2u2i", "dssm-mic"): (7.851, 10.871, 23.320, 12.789, 12.774, 34.204),
    ("i2i", "dssm"): (4.507, 7.501, 14.471, 6.928, 8.891, 20.572),
    ("i2i", "dssm-ui"): (4.637, 7.863, 15.077, 7.295, 9.411, 21.469),
    ("i2i", "dssm-uu"): (4.631, 7.672, 14.886, 7.095, 9.011, 21.469),
    ("i2i", "dssm-ii"): (4.912, 8.0625, 15.633, 7.501, 9.552, 22.616),
    ("i2i", "dssm-ui-uu"): (4.766, 7.755, 15.295, 7.203, 9.254, 21.373),
    ("i2i", "dssm-ui-ii"): (4.698, 7.812, 15.027, 7.265, 9.363, 21.447),
    ("i2i", "dssm-uu-ii"): (4.751, 7.801, 14.904, 7.399, 9.457, 21.665),
    ("i2i", "dssm-mic"): (4.873, 7.887, 15.383, 7.401, 9.319, 21.716),
}

TABLE_2: Final = Grid(
    title="MIC, table 2",
    source="Lu et al. 2022 (MIC), table 2",
    family="mic",
    cells=PAIRS,
    channels=CHANNELS,
    columns=COLUMNS,
    defaults=SHARED,
    scale=100,
    digits=3,
    published={"Amazon Books": BOOKS_2, "Taobao": TAOBAO_2},
    notes=(NDCG,),
    gates=("share_of_gains",),
)
TABLE_3: Final = replace(
    TABLE_2,
    title="MIC, table 3 (DSSM)",
    source="Lu et al. 2022 (MIC), table 3",
    cells=SETTINGS,
    channels={"u2i": "U2I", "u2u2i": "U2U", "i2i": "I2I"},
    published={"Amazon Books": BOOKS_3},
    gates=("single_contrasts",),
)
