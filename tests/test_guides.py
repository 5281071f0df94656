"""The guides (concepts, jobs, sources) and all commands and settings shown anywhere: names, options, messages are those of the code."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from conf import jobs
from conf.errors import EXIT_CODES
from conf.job_docs import with_generated
from conf.schemas.columns import CONTENT_VECTOR
from conf.sections.source import KNOWN_FIELDS
from conf.settings import Settings, load, packaged_names
from conf.storage import MAIN
from conf.tables import ARTEFACTS, TABLES
from retrieval.channels import CHANNELS
from spark_jobs.cli import VERBS
from spark_jobs.init import init
from spark_jobs.report_names import VECTORS
from spark_jobs.sources import SOURCES
from spark_jobs.sources.times import NAMED

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


GUIDES = [ROOT / "docs" / name for name in ("concepts.md", "jobs.md", "sources.md")]
SHELL = re.compile(r"^```(?:bash|console)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
COMMANDS = {
    (path.name, line.removeprefix("$ ").split("#")[0].strip())
    for path in (*DOCUMENTS, ROOT / "README.md")
    for block in SHELL.findall(text_of(path))
    for line in block.splitlines()
    if line.removeprefix("$ ").startswith(("trichannel ", "spark-submit ", "horovodrun ", "torchrun ", "python -m ", "make "))
}
SNIPPETS = [(path.name, block) for path in DOCUMENTS for block in re.findall(r"^```yaml[^\n]*\n(.*?)^```", text_of(path), re.DOTALL | re.M)]


def options_of(verb: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options in a verb's help."""
    with pytest.raises(SystemExit):
        VERBS[verb].run(verb, ["--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


@pytest.mark.parametrize(("document", "command"), sorted(COMMANDS))
def test_commands_exist(document, command, capsys):
    words = shlex.split(command)
    if words[0] == "make":
        makefile = text_of(ROOT / "Makefile")
        for word in words[1:]:
            name, given, _ = word.partition("=")
            assert f"$({name})" in makefile if given else re.search(rf"^{name}:", makefile, flags=re.MULTILINE), word
        return
    if words[0] == "spark-submit":
        (script,) = [word for word in words if word.endswith(".py") and "/" in word]
        assert (ROOT / script).is_file()
        name = Path(script).stem
        verb, rest = "train" if name == "spark_launcher" else name, words[words.index(script) + 1 :]
    elif "-m" in words:
        module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        assert importlib.util.find_spec(module) is not None
        verb = next((job for job in jobs.JOBS if jobs.module_of(job) == module), "")
    else:
        verb, rest = words[1], words[2:]
    if verb:
        assert {word for word in rest if word.startswith("--")} <= options_of(verb, capsys)
    given = {option: value for option, value in pairwise(rest) if option.startswith("--")}
    if given.get("--config") in packaged_names():
        load(given["--config"], [value for option, value in pairwise(rest) if option == "--set"])


@pytest.mark.parametrize(("document", "snippet"), SNIPPETS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(SNIPPETS)])
def test_settings_that_are_shown_load(document, snippet, tmp_path):
    (tmp_path / "shown.yaml").write_text(snippet, encoding="utf-8")
    assert load(str(tmp_path / "shown.yaml"))


def sections_of(annotation: object) -> list[type[BaseModel]]:
    """The groups of settings in a type: itself, or those inside `| None` and dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in sections_of(inner)]


def every_key(section: type[BaseModel]) -> Iterator[str]:
    """Names of all settings, and the words they may be set to."""
    for name, field in section.model_fields.items():
        yield name
        yield from re.findall(r"'(\w+)'", str(field.annotation))
        for inner in sections_of(field.annotation):
            yield from every_key(inner)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_dotted_settings_exist_to_their_last_part(path):
    files = {file for words in ARTEFACTS.values() for file in re.findall(r"\w+\.\w+", words)}
    for dotted in set(re.findall(rf"`((?:{'|'.join(Settings.model_fields)})(?:\.\w+)+)(?:[`:]| is| needs)", text_of(path))) - files:
        groups: list[type[BaseModel]] = [Settings]
        for part in dotted.split("."):
            fields = [group.model_fields[part] for group in groups if part in group.model_fields]
            assert fields, f"{dotted}: no {part}"
            groups = [group for field in fields for group in sections_of(field.annotation)]


SHOWN = {"customer", "sku", "when", "action", "labels", "name", "on_sale", "wish", "a3"}  # of the example shop
PUBLISHED = {"reviewerID", "asin", "overall", "unixReviewTime", "pv", "buy", "cart", "fav"}  # of data sets
FACTS = {
    "vocabulary_epoch",
    "catalogue",
    "indexed",
    "not_eligible",
    "nothing_known",
    "no_train_events",
    "facts",
    "counters",
    "exit_code",
    "column",
    "mask_patterns",
}
LOSSES = {"uv", "uu", "vv"}
LINES = {"collapse", "search", "search_recall", "with_positive", "grad_norm", "samples_per_s", "steps"}  # of the log and of metrics.jsonl
PROGRAMS = {"init", "horovodrun", "torchrun", "trichannel"}


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_words_in_code_style_are_names_of_the_project(path):
    columns = {column for table in TABLES.values() for column in table.names}
    fields = {name for sides in KNOWN_FIELDS.values() for side in sides.values() for name in side}
    known = {*TABLES, *ARTEFACTS, *columns, *jobs.JOBS, *VERBS, *CHANNELS, *SOURCES, *fields, *every_key(Settings)}
    known |= {CONTENT_VECTOR.name} | SHOWN | PUBLISHED | FACTS | LOSSES | LINES | PROGRAMS | {*NAMED, *VECTORS, "user_id", "item_id", MAIN}
    prose = re.sub(r"^```.*?^```", "", text_of(path), flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`([a-z]\w*)`", prose)) - known - counters_told() == set()


# ---- jobs.md -------------------------------------------------------------------------------------------------------


def test_what_jobs_read_and_write_is_current():
    path = ROOT / "docs" / "jobs.md"
    assert text_of(path) == with_generated(text_of(path)), "run: python -m conf.job_docs docs/jobs.md"


def test_every_job_has_its_section_in_order():
    told = re.findall(r"^## (\w+)\n.*?<!-- generated: (\w+) -->", text_of(ROOT / "docs" / "jobs.md"), flags=re.DOTALL | re.MULTILINE)
    assert [made for _, made in told] == list(jobs.JOBS)


def counters_told() -> set[str]:
    """Every counter that jobs.md explains."""
    return set(re.findall(r"^\| `([^`]+)` \|", text_of(ROOT / "docs" / "jobs.md"), flags=re.MULTILINE))


def test_messages_that_are_shown_stand_in_the_code():
    folders = [ROOT / name for name in ("conf", "spark_jobs", "trainer", "retrieval")]
    code = "\n".join(text_of(file) for folder in folders for file in folder.rglob("*.py"))
    rows = re.findall(r"^\| (\d) \| [^|]+ \| ([^|]+) \|$", text_of(ROOT / "docs" / "jobs.md"), flags=re.MULTILINE)
    assert len(rows) > 30
    for number, message in rows:
        assert int(number) in EXIT_CODES
        for part in re.split(r"\.\.\.|`", "".join(re.findall(r"(`[^`]+`)", message))):
            assert part.strip() in code, part


def test_reasons_of_rejects_stand_in_the_code():
    code = "\n".join(text_of(file) for file in (ROOT / "spark_jobs").rglob("*.py"))
    rows = re.findall(r"^\| (?:rejected|dropped) \| ([^|]+) \|", text_of(ROOT / "docs" / "sources.md"), flags=re.MULTILINE)
    reasons = [reason for row in rows for reason in re.findall(r"`([^`]+)`", row)]
    assert len(reasons) > 10
    assert [reason for reason in reasons if f'"{reason.removesuffix("...")}' not in code] == []


def test_every_source_has_its_section():
    told = re.findall(r"^## (\w+)$", text_of(ROOT / "docs" / "sources.md"), flags=re.MULTILINE)
    assert set(told) == set(SOURCES)


def test_what_init_is_shown_to_write_is_what_it_writes(tmp_path, monkeypatch):
    text = text_of(ROOT / "docs" / "sources.md")
    for name, rows in re.findall(r"^```csv (clicks|users|items)\.csv\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        (tmp_path / f"{name}.csv").write_text(rows)
    monkeypatch.chdir(tmp_path)
    (shown,) = re.findall(r"^```text\n(# Settings for .*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert init("clicks.csv", "trichannel.yaml").startswith(shown)
