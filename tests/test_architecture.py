"""The import rules: data flows one way, through tables on disk, and so do imports. Read from the source, nothing is run."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.jobs import JOBS, module_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("conf", "spark_jobs", "trainer", "retrieval")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What a package may import of ours, itself aside. A dotted name stands for that module only.
ALLOWED = {
    "conf": set(),
    "spark_jobs": {"conf"},
    "trainer": {"conf"},
    "retrieval": {"conf", "spark_jobs.job", "spark_jobs.task_files", "trainer.export"},
}
# These may name any stage, but only inside functions, so that `trichannel --help` loads neither Spark nor torch.
ANYTHING_LAZILY = {"spark_jobs.pipeline", "spark_jobs.backfill", "spark_jobs.grid", "spark_jobs.cli"}
# Third-party packages that a package must not need. doctor imports what it looks for; Spark jobs may run where torch is not.
FORBIDDEN = {
    "conf": {"pyspark", "torch", "faiss", "petastorm", "horovod"},
    "spark_jobs": {"torch", "faiss", "petastorm", "horovod"},
    "trainer": {"pyspark", "faiss"},
    "retrieval": {"petastorm", "horovod"},
}
# Where one of them is imported all the same, inside the function that needs it.
EXCEPTED_LAZILY = {"spark_jobs.semantics": {"faiss"}, "trainer.mining.search": {"faiss"}, "trainer.spark_launcher": {"pyspark"}}
# Folders of interchangeable parts, each with a dict in its __init__.py that names them.
SIBLINGS = (
    "spark_jobs/sources",
    "spark_jobs/metrics",
    "trainer/encoders",
    "trainer/objectives",
    "trainer/backends",
    "trainer/batches",
    "retrieval/channels",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module imported, whether lazily: inside a function). `from a import b` gives a.b where that is a module of ours, else a."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in lazy
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else str(node.module), id(node) in lazy


def is_module(dotted: str) -> bool:
    path = ROOT / dotted.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_the_packages_are_found():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_packages_import_only_what_comes_before_them(path):
    name = module_name(path)
    package = name.split(".")[0]
    for imported, lazily in imports(path):
        top = imported.split(".")[0]
        if top in PACKAGES and top != package and not (name in ANYTHING_LAZILY and lazily):
            allowed = ALLOWED[package]
            assert top in allowed or imported in allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_packages_do_without_what_their_machines_may_not_have(path):
    name = module_name(path)
    forbidden = FORBIDDEN[name.split(".")[0]]
    for imported, lazily in imports(path):
        top = imported.split(".")[0]
        if not (lazily and top in EXCEPTED_LAZILY.get(name, ())):
            assert top not in forbidden, f"{name} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_command_line_and_pipeline_load_stages_lazily(path):
    """Nobody imports the pipeline or the command; they themselves import no stage before it is asked for."""
    name = module_name(path)
    jobs = {module_of(job) for job in JOBS}
    for imported, lazily in imports(path):
        if name not in ANYTHING_LAZILY:
            assert imported not in ANYTHING_LAZILY, f"{name} imports {imported}"
        elif not lazily:
            assert imported not in jobs, f"{name} imports {imported} before it is asked for"


def test_jobs_never_import_each_other():
    modules = {module_of(job) for job in JOBS}
    for path in FILES:
        if module_name(path) in modules:
            others = {imported for imported, _ in imports(path)} & modules - {module_name(path)}
            assert not others, f"{module_name(path)} imports {others}"


@pytest.mark.parametrize("folder", SIBLINGS)
def test_interchangeable_parts_never_import_each_other(folder):
    """What is not named in the folder's dict is shared by the parts."""
    parts = _registered(ROOT / folder / "__init__.py", folder.replace("/", "."))
    assert len(parts) > 1 or folder == "trainer/encoders", f"{folder}/__init__.py names no parts in plain sight"
    for part in parts:
        wrong = {imported for imported, _ in imports(ROOT / f"{part.replace('.', '/')}.py")} & parts - {part}
        assert not wrong, f"{part} imports {wrong}"


def _registered(path: Path, package: str) -> set[str]:
    """Modules of the package that values of a dict in this file come from, by an import at the top or inside a builder function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    origins = {name: {module} for name, module in _imported_names(tree)}
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            origins[function.name] = {module for _, module in _imported_names(function)}
    values = [value for node in tree.body for inner in ast.walk(node) if isinstance(inner, ast.Dict) for value in inner.values]
    names = {name.id for value in values for name in ast.walk(value) if isinstance(name, ast.Name)}
    return {module for name in names for module in origins.get(name, set()) if module.startswith(f"{package}.")}


def _imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name, module of ours it comes from or is)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield alias.asname or alias.name, whole if is_module(whole) else str(node.module)


def test_no_drawers_for_odds_and_ends_and_no_names_of_the_standard_library():
    """spark-submit puts a script's folder first on the path: `spark_jobs/queue.py` would be everybody's `import queue`."""
    for path in FILES:
        assert path.stem not in ("utils", "util", "helpers", "misc", "common"), path
        assert "common" not in path.parts, path
        assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, f"{path} hides a module of the standard library"


def test_jobs_read_only_the_settings_they_declare():
    """What is read but not declared would not enter the hash: a changed setting would leave a stale table current."""
    always = {"storage", "gates", "config_version"}
    for job in JOBS:
        path = ROOT / (module_of(job).replace(".", "/") + ".py")
        declared = always.union(*(JOBS[name].settings for name in _with_upstream(job)))
        for dotted in _settings_read(path):
            covered = any(dotted == entry or dotted.startswith(f"{entry}.") or entry.startswith(f"{dotted}.") for entry in declared)
            assert covered, f"{module_of(job)} reads settings.{dotted}, which neither it nor a job before it declares in conf.jobs"


def _with_upstream(job: str) -> set[str]:
    from conf.jobs import upstream

    return {job}.union(*(_with_upstream(before) for before in upstream(job)))


def _settings_read(path: Path) -> set[str]:
    """Dotted names read from anything called settings: `context.settings.session.gap_s` gives session.gap_s."""
    from conf.settings import Settings

    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            parts.append(inner.id)
        parts.reverse()
        if "settings" in parts:
            after = parts[parts.index("settings") + 1 :]
            if after and after[0] in Settings.model_fields:
                found.add(".".join(after[:2]))
    return found


def test_the_rules_would_notice(tmp_path):
    """The reader of imports sees each way to write one."""
    at_top = "import torch.nn as nn\nfrom conf import jobs\nfrom conf.settings import load\n"
    source = at_top + "def f():\n    from spark_jobs import cli\n    import faiss\n"
    (tmp_path / "x.py").write_text(source)
    assert set(imports(tmp_path / "x.py")) == {
        ("torch.nn", False),
        ("conf.jobs", False),
        ("conf.settings", False),
        ("spark_jobs.cli", True),
        ("faiss", True),
    }
