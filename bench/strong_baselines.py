"""What simple methods reach on the rows of a published day: MostPop, item cosine, BM25, ALS and BPR of `implicit`, and closed-form EASE.

    make bench-baselines CONFIG=movielens SET="source.path=path/to/ml-100k" [SPLIT=valid]

Reads `events` and `item_feat` of the day, as its settings published them, so both sides see the same rows: each learns from the train
clicks (of test with `split.refit` also from valid), every different pair of user and item a positive, and recommends eligible items that
the user has not clicked in them (`channels.seen`). Every user with something held out is scored, by the metrics of `offline_metrics`;
of test, what that job gave for the day by these settings stands first. Nothing is tuned: 64 factors, 100 neighbours, BM25 with K1 1.2 and
B 0.75, EASE with lambda 300 (Steck 2019, "Embarrassingly shallow autoencoders for sparse data"), else what `implicit` takes by itself.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from implicit.utils import ParameterWarning

from conf.command import Request, add_arguments, request
from conf.jobs import config_hash
from conf.tables import CONTEXT, TEST, TRAIN, VALID
from spark_jobs.baselines import best
from spark_jobs.metrics import ACCURACY
from spark_jobs.metrics.lists import Items, Lists, truth_of
from spark_jobs.published_rows import rows_of

FACTORS, NEIGHBOURS, LAMBDA, BLOCK = 64, 100, 300.0, 512
SHOWN = ("recall", "hr", "ndcg_std")
Floats = npt.NDArray[np.float32]
Scorer = Callable[[npt.NDArray[np.int64]], Floats]  # row numbers of users -> float32[users, items], -inf = says nothing of it


@dataclass(frozen=True)
class Day:
    """The rows of a day. clicked: bool[users, items], what is learned from and known; eligible: bool[items]; clicks: of user_idx `users`,
    the item of each held-out click, ascending."""

    clicked: Any
    eligible: npt.NDArray[np.bool_]
    users: npt.NDArray[np.int32]
    clicks: pa.ListArray


# ---- the rows --------------------------------------------------------------------------------------------------------


def read_day(asked: Request, split: str) -> Day:
    """The rows that a model is trained on and the users that are scored, of split `valid` or `test`."""
    settings = asked.settings
    manifests = asked.store.manifests(("events", "item_feat"), asked.ds, settings)
    events = rows_of(asked.store, manifests["events"], columns=["user_idx", "item_idx", "split"])
    items = rows_of(asked.store, manifests["item_feat"], columns=["idx", "eligible"])
    refit = split == "test" and settings.split.refit
    user, item, part = (events[name].to_numpy() for name in ("user_idx", "item_idx", "split"))
    eligible = np.zeros(1 + max(int(item.max()), pc.max(items["idx"]).as_py()), np.bool_)
    eligible[items["idx"].to_numpy()] = items["eligible"].to_numpy()
    learned = np.isin(part, [TRAIN, CONTEXT, *[VALID] * refit])
    shape = (1 + int(user.max()), len(eligible))
    clicked = sp.csr_matrix((np.ones(learned.sum(), np.float32), (user[learned], item[learned])), shape=shape)
    clicked.data[:] = 1  # a pair that was clicked twice has been summed up
    held = part == {"valid": VALID, "test": TEST}[split]
    order = np.lexsort((item[held], user[held]))
    users, first = np.unique(user[held][order], return_index=True)
    offsets = pa.array(np.append(first, held.sum()).astype(np.int32))
    return Day(clicked, eligible, users, pa.ListArray.from_arrays(offsets, pa.array(item[held][order])))


# ---- the methods: what is fitted is asked for many users at a time -----------------------------------------------------


def most_pop(clicked: Any, seed: int) -> Scorer:
    """Clicks of the item."""
    counts = np.asarray(clicked.sum(axis=0), np.float32).ravel()
    return lambda users: np.where(counts > 0, counts, -np.inf)[None].repeat(len(users), axis=0)


def ease(clicked: Any, seed: int) -> Scorer:
    """What the user clicked, times the item-item weights that best rebuild all clicks with a zero diagonal; Steck 2019, eq. 8."""
    return _ease_of_users(clicked) if clicked.shape[0] < clicked.shape[1] else _ease_of_items(clicked)


def _ease_of_items(clicked: Any) -> Scorer:
    gram = (clicked.T @ clicked).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += LAMBDA
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    of_items = weights.astype(np.float32)
    return lambda users: clicked[users] @ of_items


def _ease_of_users(clicked: Any) -> Scorer:
    """The same with a matrix of users inverted in place of one of items: (X'X + lI)^-1 = (I - X' (XX' + lI)^-1 X) / l, Woodbury."""
    clicked = clicked.astype(np.float64)
    gram = (clicked @ clicked.T).toarray()
    gram[np.diag_indices_from(gram)] += LAMBDA
    inverse = np.linalg.inv(gram)
    columns = clicked.tocsc()
    parts = (columns[:, start : start + BLOCK].toarray() for start in range(0, columns.shape[1], BLOCK))
    left_I = np.concatenate([1 - ((inverse @ part) * part).sum(axis=0) for part in parts])  # l times the diagonal

    def scores(users: npt.NDArray[np.int64]) -> Floats:
        own = clicked[users]
        own_BI = own.toarray()
        left_BI = own_BI - (columns.T @ ((own @ clicked.T) @ inverse).T).T
        return np.asarray(own_BI - left_BI / left_I, np.float32)

    return scores


def neighbours(make: Callable[[], Any]) -> Callable[[Any, int], Scorer]:
    """Sums of similarities to what the user clicked; nothing is said of an item that is like none of it."""

    def fit(clicked: Any, seed: int) -> Scorer:
        """The seed is not used: nothing is drawn."""
        model = make()
        model.fit(clicked, show_progress=False)
        similarity = model.similarity.astype(np.float32)

        def scores(users: npt.NDArray[np.int64]) -> Floats:
            found = (clicked[users] @ similarity).toarray()
            return np.where(found > 0, found, -np.inf)

        return scores

    return fit


def factors(make: Callable[[int], Any]) -> Callable[[Any, int], Scorer]:
    """Inner products of the vectors of users and items."""

    def fit(clicked: Any, seed: int) -> Scorer:
        """Vectors that begin with draws from the seed."""
        model = make(seed)
        model.fit(clicked, show_progress=False)
        users_UD, items_ID = (np.asarray(x, np.float32) for x in (model.user_factors, model.item_factors))
        return lambda users: users_UD[users] @ items_ID.T

    return fit


METHODS: dict[str, Callable[[Any, int], Scorer]] = {
    "MostPop": most_pop,
    "item cosine": neighbours(lambda: CosineRecommender(K=NEIGHBOURS, num_threads=1)),
    "BM25": neighbours(lambda: BM25Recommender(K=NEIGHBOURS, K1=1.2, B=0.75, num_threads=1)),
    f"ALS ({FACTORS})": factors(lambda seed: AlternatingLeastSquares(factors=FACTORS, random_state=seed, num_threads=1)),
    f"BPR ({FACTORS})": factors(lambda seed: BayesianPersonalizedRanking(factors=FACTORS, random_state=seed, num_threads=1)),
    "EASE": ease,
}


# ---- lists and their metrics -------------------------------------------------------------------------------------------


def lists_of(scorer: Scorer, day: Day, *, seen: bool, num: int) -> npt.NDArray[np.int32]:
    """int32[U, num]: each user's best eligible items, ties by smaller item_idx, 0 behind the last; seen: those clicked are left out."""
    found = np.zeros((len(day.users), num), np.int32)
    for start in range(0, len(day.users), BLOCK):
        users = day.users[start : start + BLOCK]
        scores = scorer(users)
        scores[:, ~day.eligible] = -np.inf
        if seen:
            scores[day.clicked[users].nonzero()] = -np.inf
        for row, own in enumerate(scores, start):
            ids = np.flatnonzero(own > -np.inf).astype(np.int32)
            top = ids[best(ids, own[ids], num=num)]
            found[row, : len(top)] = top
    return found


def measured(items_UN: npt.NDArray[np.int32], day: Day) -> dict[str, float]:
    """Recall, HR and NDCG as means over users, and coverage: as `offline_metrics` measures them."""
    nothing = np.zeros(len(day.eligible))
    lists = Lists.of(items_UN, truth_of(day.clicks), Items(nothing, None, nothing > 0, {}))
    means = {name: float(ACCURACY[name](lists).mean()) for name in SHOWN}
    return means | {"coverage": len(np.unique(items_UN[items_UN > 0])) / int(day.eligible.sum())}


def measure(name: str, day: Day, *, seen: bool, num: int, seed: int) -> dict[str, Any]:
    """One method, fitted and asked, with the seconds of either."""
    began = time.perf_counter()
    scorer = METHODS[name](day.clicked, seed)
    fitted = time.perf_counter()
    lists = lists_of(scorer, day, seen=seen, num=num)
    seconds = {"fit_s": round(fitted - began, 2), "lists_s": round(time.perf_counter() - fitted, 2)}
    return {"method": name, **measured(lists, day), **seconds}


def published(asked: Request, num: int) -> Iterator[dict[str, Any]]:
    """Our channels and their merge, where the day was scored by these settings; their users are at most evaluation.max_users."""
    record = asked.store.find("offline_metrics", asked.ds, asked.settings)
    if record is None or record.config_hash != config_hash("offline_metrics", asked.settings):
        return
    manifest = asked.store.load_manifest("metrics", record)
    known = rows_of(asked.store, manifest, where=(pc.field("n") == num) & (pc.field("slice") == "all")).to_pylist()
    for channel in dict.fromkeys(row["channel"] for row in known):
        values = {row["metric"]: row["value"] for row in known if row["channel"] == channel}
        yield {"method": f"day: {channel}", **{name: values[name] for name in (*SHOWN, "coverage")}}


# ---- the command -------------------------------------------------------------------------------------------------------


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="what is to be found; choose by valid, report test")
    parser.add_argument("--at", type=int, default=50, help="N of all metrics")
    parser.add_argument("--seed", type=int, default=0, help="of ALS and BPR")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON there, too")
    a = parser.parse_args()
    asked = request(a)
    warnings.simplefilter("ignore", ParameterWarning)  # implicit's own weighting hands its fit another sparse format than it wants
    day, hidden = read_day(asked, a.split), asked.settings.channels.seen
    if hidden == "history":
        parser.error("channels.seen: history filters what a model was shown; these methods have no history: none or train_and_history")
    rows = list(published(asked, a.at)) if a.split == "test" else []
    rows += [measure(name, day, seen=hidden != "none", num=a.at, seed=a.seed) for name in METHODS]
    refit = "train and valid" if asked.settings.split.refit and a.split == "test" else "train"
    print(f"{a.split}: {len(day.users):,} users, {int(day.eligible.sum()):,} items, {day.clicked.nnz:,} pairs of {refit}\n")
    print(f"| | Recall@{a.at} | HR@{a.at} | NDCG@{a.at} | coverage@{a.at} | fit s | lists s |\n|---|---|---|---|---|---|---|")
    for row in rows:
        numbers = [f"{row[name]:.4f}" for name in (*SHOWN, "coverage")]
        print("| " + " | ".join([row["method"], *numbers, *(str(row.get(name, "")) for name in ("fit_s", "lists_s"))]) + " |", flush=True)
    if a.out:
        a.out.write_text(json.dumps({"split": a.split, "refit": asked.settings.split.refit, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
