"""What a job is made of: its transform, what the transform may know, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from conf.fields import Registry
from conf.manifest import FileEntry, Manifest, Record
from conf.publication import Publication
from conf.settings import Settings
from conf.storage import Store


@dataclass(frozen=True)
class Context:
    """What a transform may know besides its input tables. `facts` travel on to all later jobs; `counters` land in the manifests.

    previous: the job's own tables of the day it goes on from; its transform gets them as tables `previous_<name>`.
    before: tables of the last day before that has them, {} where there is none; `earlier` reads one.
    """

    spark: SparkSession
    settings: Settings
    ds: str
    run_id: str
    store: Store
    registry: Registry
    facts: dict[str, Any]
    counters: dict[str, Any]
    manifests: Mapping[str, Manifest]
    previous: Mapping[str, Manifest]
    publication: Publication
    before: Mapping[str, Manifest] = field(default_factory=dict)

    def folder(self, table: str) -> str:
        """The run folder of an artefact output, empty; a path on `store.fs`."""
        return self.publication.folder(table)

    def files(self, table: str) -> list[str]:
        """The data files of an input table or artefact, as paths or URIs."""
        return self.store.files_of(self.manifests[table])

    def earlier(self, table: str) -> DataFrame:
        """A table of `before`, with whatever columns the settings of that day gave it."""
        return self.spark.read.parquet(*self.store.files_of(self.before[table]))


@dataclass(frozen=True)
class Output:
    """A table to write: repartitioned by `cluster_by` (or into `num_files`), each file sorted by `sort_by`."""

    df: DataFrame
    num_files: int | None = None
    cluster_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artefact:
    """Files that the transform wrote under `Context.folder`. identity: what names the content; None = the sha256 of all files."""

    names: tuple[str, ...]
    rows: int = 0
    identity: str | None = None


@dataclass(frozen=True)
class Written:
    """A table whose files stand in its folder already, checked. total: sum of the hashes of its rows, modulo 2^64.

    counts: what the tasks that wrote them counted, summed.
    """

    files: tuple[FileEntry, ...]
    total: int
    counts: Mapping[str, int]


Made = DataFrame | Output | Written | Artefact
Transform = Callable[[Context, Mapping[str, DataFrame]], Mapping[str, Made]]


@dataclass(frozen=True)
class Job:
    """name: key of conf.jobs.JOBS, which says what it reads, publishes, and which settings it may use.

    tell: what its own command does with the current run at its end, published now or up to date; it may raise a GateError.
    """

    name: str
    transform: Transform
    doc: str = ""
    tell: Callable[[Store, Record], None] | None = None


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    rows: of each output. skipped: the current run was already made from equal settings and inputs. reason: why it made nothing, if so.
    """

    job: str
    record: Record
    seconds: float
    skipped: bool
    rows: Mapping[str, int]
    reason: str = ""
