"""A script: erase a user, and be killed (SIGKILL) before the n-th step that touches the disk, for n = 1, 2, ...

    python -m tests.faults.kill_erasure FOLDER

The tables are text files of words, one a user; no Spark. After each kill it notes, as one JSON line, what readers see, whether every run
on record is whole, and whether erasing again ends where an erasure that nobody killed ends.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import conf.records
from conf.files import hash_file
from conf.inventory import Inventory, runs_named, survey
from conf.manifest import FileEntry, Manifest
from conf.publication import Publication
from conf.storage import Store
from spark_jobs.erase import apply
from spark_jobs.erased_runs import Found
from tests.faults.kill_collection import OneByOne
from tests.faults.kill_every_step import Steps
from tests.faults.publishing import DS, JOB, everything_under, publish, read, settings_at

USER = "eve"
JOBS = ("ingest", JOB)


def build(root: Path) -> None:
    """Three versions of clicks and events; she is in the first and in the last, which is current; and what a killed attempt left."""
    settings = settings_at(root)
    store = Store.of(settings)
    for run_id, content in (("r0", "ann_eve_r0"), ("r1", "ann_bob_r1"), ("r2", "eve_bob_r2")):
        publish(store, settings, run_id, content, job="ingest")
        publish(store, settings, run_id, content, inputs={"clicks": f"main/{DS}/{run_id} 1:{content}"})
    (root / "main" / f"events/ds={DS}/run=killed").mkdir(parents=True)
    (root / "main" / f"events/ds={DS}/run=killed/half.txt").write_text("eve")


def text_of(store: Store, manifest: Manifest) -> str:
    (file,) = store.files_of(manifest)
    return Path(file).read_text()


def find(stock: Inventory) -> Found:
    """As spark_jobs.erased_runs.find, of words in text files."""
    rows, manifests = {}, {}
    for run, record in stock.records.items():
        store = stock.stores[run.day.variant]
        for table in record.tables:
            manifests[run, table] = manifest = store.load_manifest(table, record)
            if USER in text_of(store, manifest).split("_"):
                rows.setdefault(run, {})[table] = 1
    return Found(rows, stock.folders.keys() - stock.records.keys(), (), manifests, dict.fromkeys(manifests, USER))


def write(publication: Publication, old: Manifest, gone: str | None) -> None:
    """As spark_jobs.erased_tables.write_table."""
    folder, (entry,) = publication.folder(old.table), old.files
    text = "_".join(word for word in text_of(publication.store, old).split("_") if word != gone)
    with open(f"{folder}/{entry.name}", "w", encoding="utf-8") as handle:
        handle.write(text)
    new = FileEntry(entry.name, 1, *hash_file(publication.store.fs, f"{folder}/{entry.name}"))
    publication.seal(old.table, [new], rows=1, content_hash=f"1:{text}")


def attempt(root: Path, *, kill_at: int, note: Path) -> int:
    """Erase in a forked process; returns its exit code, -9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            stepping = OneByOne()
            stepping.steps = Steps(kill_at, note)
            conf.records.open_root = lambda given: (stepping, given)
            stock = survey(settings_at(root))
            apply(settings_at(root), stock, find(stock), write, lambda *_: None)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def seen(root: Path) -> dict[str, list[str]]:
    """job -> content that readers see, then the content of every run on record, in order of time; each is whole, and so are its inputs."""
    settings = settings_at(root)
    store = Store.of(settings)
    contents = {}
    for job in JOBS:
        (current,) = read(store, settings, job=job)
        known = [store.read_record(store.record_path(job, DS, run_id)) or store.current(job, DS) for run_id in store.runs(job, DS)]
        texts = [{text_of(store, store.load_manifest(table, record)) for table in record.tables} for record in known]
        assert all(len(text) == 1 for text in texts), f"{job}: tables of two forms in one run"
        contents[job] = [current, *sorted({text for (text,) in texts})]
        for record in known:
            for named in runs_named(record.inputs):
                forms = {run_id.split(".erased-")[0] for run_id in store.runs("ingest", DS)}
                assert named.run_id.split(".erased-")[0] in forms, f"{job} names {named}, which is gone"
    return contents


def left(root: Path) -> list[str]:
    """What lies under the root, locks and what attempts name by chance aside."""
    return sorted(path for path in everything_under(root) if not any(word in path for word in ("_locks", ".txt", ".tmp-")))


def main(folder: str) -> None:
    """Try every step."""
    note, kill_at, killed, whole = Path(folder) / "note", 0, True, Path(folder) / "whole"
    build(whole)
    while killed:
        kill_at += 1
        root = Path(folder) / f"killed-{kill_at}"
        shutil.copytree(whole, root)
        code = attempt(root, kill_at=kill_at, note=note)
        killed = code == -9
        line = {"exit": code, "step": note.read_text().replace(str(root), "ROOT") if killed else "none", "seen": seen(root)}
        line |= {"rerun_exit": attempt(root, kill_at=0, note=note), "seen_after": seen(root), "left": left(root)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
