"""Where there are more items than users EASE inverts a matrix of users: the same scores as by one of items."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("implicit", reason="the strong baselines need implicit (pip install -e '.[bench]')")


def test_ease_by_users_is_ease_by_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "bench")
    bench = importlib.import_module("strong_baselines")
    clicked = sp.random(60, 700, 0.05, format="csr", random_state=1, dtype=np.float32)
    clicked.data[:] = 1
    users = np.arange(60)
    by_users, by_items = (fit(clicked)(users) for fit in (bench._ease_of_users, bench._ease_of_items))
    assert np.abs(by_items).max() > 0.01
    np.testing.assert_allclose(by_users, by_items, atol=1e-6)
