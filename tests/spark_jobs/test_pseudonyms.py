"""Keyed pseudonyms: the HMAC of each key in its place, and neither a business key nor the secret anywhere else."""

import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import SettingsError
from conf.settings import Settings
from spark_jobs import ingest
from spark_jobs.job import inputs_seen, run_job
from spark_jobs.pseudonyms import pseudonyms
from spark_jobs.secret_key import key_of

DS = "2026-01-31"
NOON = 1_769_860_800  # 2026-01-31T12:00:00Z
SECRET, OTHER = "correct-horse-battery-staple", "another-horse-another-staple"
LOG = f"user_key,item_key,ts\nalice,teapot,{NOON}\nbob,teapot,{NOON}\nalice,kettle,{NOON - 86_400}\nalice,,{NOON}\n"
KEYED = {"users": True, "key_env": "SHOP_KEY"}


def named(key: str, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()


@pytest.fixture
def asked_for(make_request: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    """asked_for(pseudonyms, secret, ds=...) -> the request, its log and users written and the secret in the environment."""

    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "users.csv").write_text("key,city\nalice,Cork\ncarol,\n")

    def make(pseudonyms: dict[str, Any], secret: str | None = SECRET, **given: Any) -> Request:
        monkeypatch.delenv("SHOP_KEY", raising=False)
        if secret is not None:
            monkeypatch.setenv("SHOP_KEY", secret)
        source = {"kind": "generic", "path": str(tmp_path / "log.csv"), "users": {"path": str(tmp_path / "users.csv")}}
        source |= {"fields": {"user": {"city": "single"}}, "pseudonyms": pseudonyms}
        settings = Settings.model_validate({"source": source, "gates": {"max_reject_share": 0.5}})
        return make_request(settings, force=True, **given)

    return make


def rows(spark: SparkSession, asked: Request, table: str) -> list[Any]:
    return spark.read.parquet(*asked.store.files_of(asked.store.manifest(table, asked.ds, asked.settings))).collect()


def test_pseudonyms_are_the_hmac_of_each_key() -> None:
    made = pseudonyms(pa.array(["a", None, "é", "a", ""]), SECRET.encode())
    assert made.to_pylist() == [named("a"), None, named("é"), named("a"), named("")]
    # RFC 4231, test case 2
    rfc = pseudonyms(pa.array(["what do ya want for nothing?"]), b"Jefe").to_pylist()
    assert rfc == ["5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"]
    assert pseudonyms(pa.array([], pa.string()), b"k").to_pylist() == []


@pytest.mark.parametrize("items", [False, True])
def test_no_table_holds_a_key(spark: SparkSession, asked_for: Callable[..., Request], tmp_path: Path, items: bool) -> None:
    asked = asked_for({**KEYED, "items": items})
    run_job(ingest.JOB, spark, asked)
    item = named if items else str
    clicks = sorted((row.user_key, row.item_key, row.day) for row in rows(spark, asked, "clicks"))
    want = [("alice", "teapot", DS), ("bob", "teapot", DS), ("alice", "kettle", "2026-01-30")]
    assert clicks == sorted((named(user), item(thing), day) for user, thing, day in want)
    assert {row.user_key: row.city for row in rows(spark, asked, "users")} == {
        named("alice"): "Cork",
        named("bob"): None,
        named("carol"): None,
    }
    assert {row.item_key for row in rows(spark, asked, "items")} == {item("teapot"), item("kettle")}
    (reject,) = rows(spark, asked, "rejects")
    assert (reject.reason, reject.row, reject.raw) == ("no item", 3, "")  # the text of the row would tell who it was
    assert reject.source_file.endswith("log.csv")
    facts = asked.store.manifest("clicks", DS, asked.settings).facts
    fingerprint = hashlib.sha256(b"trichannel pseudonym key " + SECRET.encode()).hexdigest()[:8]
    assert facts["pseudonyms"] == {"users": True, "items": items, "key": fingerprint}
    assert (facts["user_key_type"], facts["item_key_type"]) == ("string", "string")
    for file in (tmp_path / "root").rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
            assert b"alice" not in file.read_bytes(), file


@pytest.mark.parametrize("secret", [None, "", "short"])
def test_without_a_key_nothing_is_run(spark: SparkSession, asked_for: Callable[..., Request], secret: str | None) -> None:
    asked = asked_for(KEYED, secret)
    for work in (lambda: run_job(ingest.JOB, spark, asked), lambda: inputs_seen("ingest", asked)):
        with pytest.raises(SettingsError) as caught:
            work()
        assert caught.value.exit_code == 2
        assert "SHOP_KEY" in str(caught.value)
        assert not secret or secret not in str(caught.value)


@pytest.mark.slow
def test_another_key_is_seen_and_refused_unless_it_is_meant(spark: SparkSession, asked_for: Callable[..., Request]) -> None:
    first = asked_for(KEYED, ds="2026-01-30")
    run_job(ingest.JOB, spark, first)
    changed = {"another key": (KEYED, OTHER), "other sides": ({**KEYED, "items": True}, SECRET), "none": ({}, SECRET)}
    for chosen, secret in changed.values():
        with pytest.raises(SettingsError) as caught:
            run_job(ingest.JOB, spark, asked_for(chosen, secret))
        assert "ds=2026-01-30: users by key" in str(caught.value)
        assert f"--set source.pseudonyms.since={DS}" in str(caught.value)
        assert secret not in str(caught.value)
    meant = asked_for({**KEYED, "since": DS}, OTHER)
    run_job(ingest.JOB, spark, meant)
    assert named("bob", OTHER) in {row.user_key for row in rows(spark, meant, "users")}
    other_variant = asked_for(KEYED, OTHER, variant="new")
    run_job(ingest.JOB, spark, other_variant)


def test_a_changed_key_is_a_changed_input(asked_for: Callable[..., Request]) -> None:
    with_key = inputs_seen("ingest", asked_for(KEYED))
    assert with_key != inputs_seen("ingest", asked_for(KEYED, OTHER))
    assert with_key == inputs_seen("ingest", asked_for(KEYED))


def test_the_key_shows_itself_nowhere(asked_for: Callable[..., Request]) -> None:
    key = key_of(asked_for(KEYED).settings.source)
    assert SECRET not in f"{key} {key!r}"
    with pytest.raises(ValidationError, match="key_env is needed"):
        Settings.model_validate({"source": {"pseudonyms": {"users": True}}})


@pytest.mark.slow
def test_plans_logs_and_event_logs_hold_no_secret(tmp_path: Path) -> None:
    """The whole command in a process of its own, with Spark's event log on and its plans in it; a broken source file makes a trace."""
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "events").mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(
        f"storage: {{root: {tmp_path}/root}}\ngates: {{max_reject_share: 0.5}}\n"
        f"source: {{kind: generic, path: {tmp_path}/log.csv, pseudonyms: {{users: true, items: true, key_env: SHOP_KEY}}}}\n"
    )
    spark = (
        f"--master local[1] --conf spark.ui.enabled=false --conf spark.eventLog.enabled=true --conf spark.eventLog.dir=file://{tmp_path}"
    )
    spark += "/events --conf spark.eventLog.compress=false --conf spark.sql.shuffle.partitions=1 --conf spark.driver.bindAddress=127.0.0.1"
    environment = {**os.environ, "PYSPARK_SUBMIT_ARGS": f"{spark} pyspark-shell", "SHOP_KEY": SECRET, "SPARK_LOCAL_IP": "127.0.0.1"}
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    environment.pop("PYSPARK_GATEWAY_SECRET", None)
    command = [sys.executable, "-m", "spark_jobs.ingest", "--config", str(config), "--ds", DS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    logs = [file for file in (tmp_path / "events").rglob("*") if file.is_file() and not file.name.startswith(".")]
    whole = "".join(file.read_text() for file in logs)
    assert "MapInArrow" in whole  # the plan is in the log, so its absence there means something
    written = [file.read_bytes() for file in (tmp_path / "root").rglob("*") if file.is_file()]
    for text in (whole.encode(), done.stdout.encode(), done.stderr.encode(), *written):
        assert SECRET.encode() not in text
        assert SECRET.encode().hex().encode() not in text
