"""Publishing without Spark: small files through the real protocol, and a reader that proves whose content it sees."""

from pathlib import Path

from conf.files import hash_file
from conf.jobs import JOBS
from conf.settings import Settings
from conf.storage import FileEntry, Record, Store

DS = "2026-01-31"
JOB = "events"  # two outputs, so that a mixture of two versions could be seen
TABLES = JOBS[JOB].outputs


def settings_at(root: Path | str, **sections: dict) -> Settings:
    storage = {"root": str(root), **sections.pop("storage", {})}
    return Settings.model_validate({"storage": storage, **sections})


def publish(
    store: Store, settings: Settings, run_id: str, content: str, *, job: str = JOB, ds: str = DS, before_commit=None, **kwargs
) -> Record:
    """Publish every output of the job, each one file that holds the content."""
    with store.publication(job, ds, run_id, settings, **kwargs) as publication:
        for table in JOBS[job].outputs:
            folder = publication.folder(table)
            name = f"{publication.attempt}.txt"
            with open(f"{folder}/{name}", "w", encoding="utf-8") as handle:
                handle.write(content[: len(content) // 2])
                handle.flush()
                handle.write(content[len(content) // 2 :])
            size, sha256 = hash_file(store.fs, f"{folder}/{name}")
            publication.seal(table, [FileEntry(name, 1, size, sha256)], rows=1, content_hash=f"1:{content}")
        if before_commit:
            before_commit()
        return publication.commit()


def read(store: Store, settings: Settings, *, job: str = JOB, ds: str = DS) -> set[str]:
    """The distinct contents of all outputs of the job as a reader sees them, its files read whole: one content = not mixed."""
    contents = set()
    for manifest in store.manifests(JOBS[job].outputs, ds, settings).values():
        for path in store.files_of(manifest):
            text = Path(path).read_text(encoding="utf-8")
            assert manifest.content_hash == f"1:{text}", f"{path} is not what its manifest says"
            contents.add(text)
    return contents


def everything_under(folder: Path) -> set[str]:
    """Every path below the folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
