"""Our sessions beside true ones: the till receipts of Complete Journey, found again by the times of the purchases alone."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import pair_confusion_matrix

from conf.command import Log, Request
from conf.settings import Settings
from conf.storage import MAIN
from spark_jobs import events, ingest, sessions, vocabulary
from spark_jobs.job import run_job
from tests.conftest import SHARED_DATA

pytestmark = [pytest.mark.slow, pytest.mark.data]

DS = "2018-01-01"
GAPS_S = (60, 600, 1800, 3600, 14_400, 86_400)


@dataclass(frozen=True)
class Agreement:
    """exact: share of receipts that are a session, no purchase more or less. precision, recall: of pairs of purchases put together."""

    exact: float
    precision: float
    recall: float
    rand: float

    @classmethod
    def between(cls, truth: np.ndarray, found: np.ndarray) -> "Agreement":
        """Of two labellings of the same purchases."""
        _, parts, sizes = np.unique(np.stack([truth, found]), axis=1, return_inverse=True, return_counts=True)
        whole_truth, whole_found = np.bincount(truth), np.bincount(found)
        same = (sizes[parts] == whole_truth[truth]) & (sizes[parts] == whole_found[found])
        (_, false_pairs), (missed, pairs) = pair_confusion_matrix(truth, found)
        return cls(
            exact=len(np.unique(truth[same])) / len(np.unique(truth)),
            precision=pairs / (pairs + false_pairs),
            recall=pairs / (pairs + missed),
            rand=float(adjusted_rand_score(truth, found)),
        )


def test_agreement_by_hand():
    """Receipts {a, b}, {c}, {d}: the first is found, the others are taken for one."""
    found = Agreement.between(np.array([0, 0, 1, 2]), np.array([7, 7, 8, 8]))
    assert (found.exact, found.precision, found.recall) == (1 / 3, 1 / 2, 1.0)


@pytest.fixture(scope="module")
def purchases(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """The log up to its events, each with its receipt as session_key."""
    log = SHARED_DATA / "completejourney" / "transactions_sample.csv"
    if not log.exists():
        pytest.skip(f"the real data set is not at {log}")
    columns = {"user_key": "household_id", "item_key": "product_id", "ts": "transaction_timestamp", "session_key": "basket_id"}
    settings = Settings.model_validate(
        {
            "storage": {"root": str(tmp_path_factory.mktemp("receipts"))},
            "source": {"kind": "generic", "path": str(log), "columns": columns},
            "session": {"kind": "gap"},
        }
    )
    asked = Request("test", settings, (), DS, MAIN, "r1", force=True, break_lock=False, dry_run=False, log=Log(run_id="r1"))
    for module in (ingest, vocabulary, events):
        run_job(module.JOB, spark, asked)
    return asked


def read(asked: Request, table: str, columns: list[str]) -> pa.Table:
    return pq.read_table(asked.store.files_of(asked.store.manifest(table, asked.ds, asked.settings)), columns=columns)


def agreement(spark: SparkSession, asked: Request, gap_s: int) -> Agreement:
    """Of the sessions that the job makes with this gap and the receipts."""
    settings = asked.settings.model_copy(update={"session": asked.settings.session.model_copy(update={"gap_s": gap_s})})
    asked = replace(asked, settings=settings, run_id=f"gap{gap_s}")
    run_job(sessions.JOB, spark, asked)
    bought = read(asked, "events", ["user_idx", "ts", "seq", "item_idx", "session_key"]).to_pandas()
    bought = bought.sort_values(["user_idx", "ts", "seq"])
    found = read(asked, "sessions", ["user_idx", "session_no", "items"]).to_pandas().sort_values(["user_idx", "session_no"])
    # A user's sessions one behind the other are its purchases in order.
    assert np.concatenate(found["items"].to_list()).tolist() == bought["item_idx"].tolist()
    number = np.repeat(np.arange(len(found)), found["items"].map(len))
    return Agreement.between(np.unique(bought["session_key"], return_inverse=True)[1], number)


def test_sessions_find_the_receipts(spark: SparkSession, purchases: Request) -> None:
    found = {gap_s: agreement(spark, purchases, gap_s) for gap_s in GAPS_S}
    print("\n| gap_s | receipts found exactly | pair precision | pair recall | adjusted Rand index |\n|---|---|---|---|---|")
    for gap_s, one in found.items():
        print(f"| {gap_s} | {one.exact:.4f} | {one.precision:.4f} | {one.recall:.4f} | {one.rand:.4f} |")
    assert all(one.recall == 1 for one in found.values())  # all purchases of a receipt have one time: no gap parts them
    assert found[60].exact > 0.995
    assert found[1800].exact > 0.96
    assert found[1800].rand > 0.975
    assert found[3600].exact > 0.96
    exact = [found[gap_s].exact for gap_s in GAPS_S]
    assert exact == sorted(exact, reverse=True)  # the longer the gap, the more visits are taken for one
