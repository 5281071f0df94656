"""One Spark session for all tests, and settings that fit tiny data."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.command import Log, Request
from conf.settings import Settings
from conf.storage import MAIN
from tests.tiny_day import TinyDay, make_tiny_day

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ["PYSPARK_PYTHON"] = sys.executable

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    session = (
        SparkSession.builder.master("local[2]")
        .appName("trichannel-tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        # one, since a task costs more than its rows; what must not depend on the number is tested with others
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.default.parallelism", "1")
        .config("spark.driver.memory", "2g")
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseParallelGC -Xss8m")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.ansi.enabled", "false")
        # Compiling a plan costs more than running it on a hundred rows; the tests that start processes of their own compile theirs.
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def tiny_day(tmp_path_factory: pytest.TempPathFactory) -> TinyDay:
    """A whole day that one command made; to be looked at, or copied and then changed. One for all of pytest's processes."""
    base = tmp_path_factory.getbasetemp()
    return make_tiny_day((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny_day")


@pytest.fixture
def make_request(tmp_path: Path) -> Callable[..., Request]:
    """make_request(settings, run_id="r1", force=True, ...) -> Request for run_job; the root is the test's own folder."""

    def make(
        settings: Settings | None = None, *, ds: str = "2026-01-31", run_id: str = "r1", variant: str = MAIN, **flags: bool
    ) -> Request:
        settings = settings or Settings()
        rooted = settings.model_copy(update={"storage": settings.storage.model_copy(update={"root": str(tmp_path / "root")})})
        return Request(
            config="test",
            settings=rooted,
            overrides=(),
            ds=ds,
            variant=variant,
            run_id=run_id,
            force=flags.get("force", False),
            break_lock=flags.get("break_lock", False),
            dry_run=False,
            log=Log("text", run_id=run_id),
        )

    return make


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data sets are not at {SHARED_DATA}")
    return SHARED_DATA
