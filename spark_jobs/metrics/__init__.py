"""Metrics of lists by name. A new one is one function of `Lists` in the file of its family, and one line here.

Each becomes a column of table metrics_user, and rows of table metrics: declare the column in conf/schemas/evaluation.py.
"""

from collections.abc import Callable, Mapping
from typing import Final

from spark_jobs.metrics import accuracy, variety
from spark_jobs.metrics.lists import F64, Lists

Metric = Callable[[Lists], F64]  # float64[B]; NaN where a list has none

# measured by what was held out, so also by a part of it: slices of items
ACCURACY: Final[Mapping[str, Metric]] = {
    "recall": accuracy.recall,
    "precision": accuracy.precision,
    "ndcg_hit": accuracy.ndcg_hit,
    "ndcg_std": accuracy.ndcg_std,
    "hr": accuracy.hr,
    "mrr": accuracy.mrr,
}
# measured by the lists alone
VARIETY: Final[Mapping[str, Metric]] = {
    "novelty": variety.novelty,
    "pop_share": variety.pop_share,
    "diversity": variety.diversity,
}
