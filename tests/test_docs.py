"""The documents say what the code does: exit codes, paths, links, names."""

import re
from pathlib import Path

import pytest

from conf.errors import EXIT_CODES
from conf.sections.section import section_at
from conf.settings import Settings
from spark_jobs.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
INVENTED = {"shop.py", "trending.py", "mean_pool.py", "norms.py", "again.py"}  # what extending.md invites to write


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_exit_codes_are_all_there():
    table = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    assert f"| code | meaning |\n|---|---|\n{table}\n" in text_of(ROOT / "docs" / "operations.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    prose = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", prose):
        assert not target or target.startswith("http") or (path.parent / target).exists(), target
    anchors = {
        re.sub(r"[^a-z0-9_ -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text_of(path).splitlines() if line[:1] == "#"
    }
    for anchor in re.findall(r"\]\(#([^)]*)\)", prose):
        assert anchor in anchors, anchor


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    for name in re.findall(r"`((?:conf|spark_jobs|trainer|retrieval|tests|scripts|docs)/[\w./]+)`", text_of(path)):
        assert (ROOT / name).exists() or Path(name).name in INVENTED, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_that_are_shown_exist(path):
    for verb in re.findall(r"(?:^|`)trichannel ([a-z_]+)", text_of(path), flags=re.MULTILINE):
        assert verb in VERBS, verb


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_settings_that_are_named_exist(path):
    for section, key in re.findall(rf"`({'|'.join(Settings.model_fields)})\.([a-z_]+)[`:.]", text_of(path)):
        assert key in section_at(Settings, [section]).model_fields, f"{section}.{key}"


@pytest.mark.parametrize(
    "name", ["SOURCES", "ENCODERS", "OBJECTIVES", "BASE_LOSSES", "CHANNELS", "ACCURACY", "VARIETY", "TWINS", "_JOB_DOCS", "KNOWN_FIELDS"]
)
def test_dicts_that_extending_names_exist(name):
    assert f"`{name}`" in text_of(ROOT / "docs" / "extending.md")
    files = [*(ROOT / "conf").rglob("*.py"), *(ROOT / "spark_jobs").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    files += [*(ROOT / "trainer").rglob("*.py"), *(ROOT / "retrieval").rglob("*.py")]
    assert any(re.search(rf"^{name}\b.*=", text_of(path), flags=re.MULTILINE) for path in files)
