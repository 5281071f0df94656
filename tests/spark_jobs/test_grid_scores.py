from typing import cast

import pyarrow as pa
import pytest

from conf.command import Request
from spark_jobs import grid_scores
from spark_jobs.grids import Column


def test_users_scored_are_those_with_lists_not_the_vectors_that_were_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("u2i", "recall", 20, "all", 0.5, 1693),
        ("u2i", "recall", 20, "user activity=0-9", 0.25, 1000),
        ("most_pop", "recall", 20, "all", 0.25, 1693),
        ("model", "uniformity_user", 0, "all", -2.0, 8192),
    ]
    columns = dict(zip(("channel", "metric", "n", "slice", "value", "n_users"), map(list, zip(*rows, strict=True)), strict=True))
    monkeypatch.setattr(grid_scores, "_rows", lambda *_: pa.table(columns))
    scores = grid_scores.scores_of(cast(Request, None))
    assert scores.num_users == 1693
    assert scores.of("u2i", Column("Recall@20", "recall", 20)) == 0.5
    assert scores.of("u2i", Column("few", "recall", 20, "user activity=0-9")) == 0.25
