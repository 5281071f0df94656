"""What is written down of a run: of one table its manifest, of one job its record."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from conf.tables import SCHEMA_VERSION


@dataclass(frozen=True)
class FileEntry:
    """name: relative to the run folder. rows: 0 where the file holds none (indexes, models). row_group_rows: of a Parquet file."""

    name: str
    rows: int
    bytes: int
    sha256: str
    row_group_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The truth about one run of one table.

    content_hash: "rows:hex", independent of file and row order. facts: what later stages need to know of the data (has_clock,
    user_key_type, item_key_type ...). counters: what was kept, dropped and why. inputs: table -> "variant/ds/run content_hash".
    """

    table: str
    job: str
    variant: str
    ds: str
    run_id: str
    rows: int
    content_hash: str
    files: tuple[FileEntry, ...]
    config_hash: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def identity(self) -> str:
        """How a run that reads this one names it among its inputs."""
        return f"{self.variant}/{self.ds}/{self.run_id} {self.content_hash}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The manifest as read from manifest.json; raises KeyError or TypeError if it is none."""
        files = tuple(FileEntry(**{**f, "row_group_rows": tuple(f["row_group_rows"])}) for f in data["files"])
        return cls(**{**data, "files": files})


@dataclass(frozen=True)
class Record:
    """What one run of a job committed: the unit that becomes current."""

    job: str
    variant: str
    ds: str
    run_id: str
    config_hash: str
    tables: Mapping[str, str]  # table -> content_hash
    inputs: Mapping[str, str]
    committed_at: str


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """Sorts by time, unique without coordination."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
