"""What docs/jobs.md says of each job without further words, out of conf/jobs.py: `python -m conf.job_docs docs/jobs.md` renews it."""

import re
import sys
from pathlib import Path

from conf.jobs import JOBS, VOCABULARIES, module_of
from conf.launchers import LAUNCHERS
from conf.sections.training import Trainer
from conf.tables import ARTEFACTS, TABLES

_ASKING = {"embed": "embeddings", "index": "index", "candidates": "merge"}


def to_markdown(job: str, arguments: str = "--config production --ds 2026-01-31") -> str:
    """What the job reads, writes and is shaped by, and the lines that start it."""
    spec, module = JOBS[job], module_of(job)
    own_files = f"the raw files of section `{spec.files[0].split('.')[0]}`" if spec.files else ""
    reads = ", ".join(f"`{_named(table)}`" for table in spec.inputs if table not in spec.optional) or own_files
    if spec.continues:
        reads += (
            "; with `trainer.warm_start`," if job == "train" else ";"
        ) + " of the day that `vocabulary.previous_ds` names, its own tables"
    if spec.reuses:
        own = ", ".join(f"`{table}`" for table in spec.reuses)
        reads += f"; with `cooc.increment`, its own {own} of the day that `vocabulary.previous_ds` names, if it is there"
    if spec.optional:
        asks = "an objective asks" if job == "train" else f"section `{_ASKING[job]}` asks"
        reads += f"; where {asks} for them, {', '.join(f'`{table}`' for table in spec.optional)}"
    writes = [f"  - `{_named(table)}`: {_meaning(table)}" for table in spec.outputs]
    settings = ", ".join(f"`{name}`" for name in spec.settings) or "none of its own"
    start = [f"spark-submit --py-files dist/trichannel.zip {module.replace('.', '/')}.py {arguments}", f"python -m {module} {arguments}"]
    if job == "train":
        given = {name: f" --set trainer.launcher={name}" for name in LAUNCHERS if name != Trainer().launcher}
        start = [f"{' '.join(launcher.words(8))} {arguments}{given.get(name, '')}" for name, launcher in LAUNCHERS.items()]
    reads += "".join(f"; the file that `{name}` names" for name in spec.files if spec.inputs)
    reads += f"; with `--truth-ds`, of that day: {', '.join(f'`{table}`' for table in spec.later)}" if spec.later else ""
    if spec.before:
        reads += f"; of the last day before that has them, or of `--since`: {', '.join(f'`{table}`' for table in spec.before)}"
    lines = [f"- Reads: {reads}.", "- Writes:", *writes, f"- Settings: {settings}.", "", "```bash"]
    return "\n".join([*lines, f"trichannel {job} {arguments}", *start, "```"])


def with_generated(text: str) -> str:
    """docs/jobs.md with each block between `<!-- generated: JOB -->` and `<!-- end -->` made anew; raises KeyError for an unknown job."""
    block = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{to_markdown(found[2])}\n{found[3]}", text)


def _named(table: str) -> str:
    return "vocab_<field>" if table == VOCABULARIES else table


def _meaning(table: str) -> str:
    if table in ARTEFACTS:
        return f"a folder with {ARTEFACTS[table]}"
    return "one row = " + TABLES["vocab" if table == VOCABULARIES else table].row


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_generated(document.read_text(encoding="utf-8")), encoding="utf-8")
