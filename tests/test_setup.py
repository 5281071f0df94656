"""The set-up scripts, on a stand-in machine: a PATH of its own and a Python that only notes what is asked of it."""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TOOLS = (
    *("bash", "basename", "cat", "cp", "dirname", "env", "find", "flock", "grep", "head", "id", "make", "mkdir", "mktemp", "mv", "rm"),
    *("sed", "sha256sum", "tail", "tar"),
)

FAKE_PYTHON = f"""#!/usr/bin/env bash
case "$*" in
    *_base_executable*) echo "$0" ;;
    *getsitepackages*) echo "$HOME" ;;
    -V | -c*) exec {sys.executable} "$@" ;;
    "-m venv "*) echo "venv" >>"$CALLS"; mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
    "-m pip --version") ;;
    "-m spark_jobs.cli run "*) echo "a tiny day" >>"$CALLS" ;;
    "-m pip "*) echo "$*" >>"$CALLS"; case "$*" in *"${{FAIL_AT:-nothing}}"*) echo "no such wheel" >&2; exit 1 ;; esac ;;
esac
"""
FAKE_JAVA = """#!/usr/bin/env bash
echo "    java.home = $(cd "$(dirname "$0")/.." && pwd)"
echo "    java.specification.version = ${JAVA_RELEASE:-17}"
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Machine:
    """A project folder and the commands that its set-up can see."""

    def __init__(self, home: Path):
        self.bin, self.project, self.calls_file = home / "bin", home / "project", home / "calls"
        self.env = {"PATH": str(self.bin), "HOME": str(home), "CALLS": str(self.calls_file), "JAVA_HOME": str(home / "java")}
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"{tool} is not on this machine"))
        script(self.bin / "python3.11", FAKE_PYTHON)
        script(self.bin / "g++", "#!/usr/bin/env bash\n")
        script(home / "java/bin/java", FAKE_JAVA)
        for name in ("scripts/setup", "scripts/build_horovod", "pyproject.toml", "constraints.txt"):
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.project / name)

    def start(self, name: str = "setup", *arguments: str, **env: str) -> subprocess.Popen[str]:
        command = [str(self.project / "scripts" / name), *arguments]
        return subprocess.Popen(command, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, name: str = "setup", *arguments: str, **env: str) -> tuple[int, str, str]:
        process = self.start(name, *arguments, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Everything is there, and the Horovod wheel needs no building."""
    made = Machine(tmp_path)
    script(made.project / "scripts/build_horovod", "#!/usr/bin/env bash\necho horovod.whl\n")
    return made


def test_setup_does_every_step_in_order(machine: Machine) -> None:
    status, out, err = machine.run()
    assert (status, err) == (0, "")
    assert [re.sub(r"^-m pip install |-c constraints.txt ", "", call) for call in machine.calls()] == [
        "venv",
        "pip setuptools wheel",
        "torch",
        "-r .venv/requirements.txt",
        "--force-reinstall --no-deps horovod.whl",
        "--no-deps --no-build-isolation -e .",
        "-m pip check",
        "a tiny day",
    ]
    assert out.endswith("setup: ready\n")


def test_setup_again_does_nothing(machine: Machine) -> None:
    machine.run()
    before = machine.calls()
    assert machine.run() == (0, "", "")
    assert machine.calls() == before


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "scripts/setup", "scripts/build_horovod"])
def test_setup_installs_again_after_a_change_and_keeps_the_environment(machine: Machine, name: str) -> None:
    machine.run()
    with (machine.project / name).open("a") as file:
        file.write("\n# changed\n")
    assert machine.run()[0] == 0
    assert machine.calls().count("venv") == 1
    assert machine.calls().count("-m pip check") == 2


@pytest.mark.parametrize(
    ("fail_at", "step", "left"),
    [("horovod.whl", "horovod", ["horovod.whl", ".", "check", "day"]), ("pip check", "verify", ["check", "day"])],
)
def test_setup_goes_on_with_the_step_that_failed(machine: Machine, fail_at: str, step: str, left: list[str]) -> None:
    status, _, err = machine.run(FAIL_AT=fail_at)
    assert status == 1
    assert f"stopped in step '{step}'" in err
    assert "no such wheel" in err
    assert not (machine.project / ".venv/stamps/done").exists()

    before = machine.calls()
    assert machine.run()[0] == 0
    assert [call.split()[-1] for call in machine.calls()[len(before) :]] == left


def test_setup_rebuilds_an_environment_without_python(machine: Machine) -> None:
    machine.run()
    (machine.project / ".venv/bin/python").unlink()
    assert machine.run()[0] == 0
    assert machine.calls().count("venv") == 2


def test_setup_rebuilds_the_environment_of_a_folder_that_moved(machine: Machine) -> None:
    machine.run()
    machine.project = machine.project.rename(machine.project.with_name("elsewhere"))
    assert machine.run()[0] == 0
    assert machine.calls().count("venv") == 2


def test_two_setups_at_once_work_once(machine: Machine) -> None:
    both = [machine.start(), machine.start()]
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert machine.calls().count("venv") == machine.calls().count("-m pip check") == 1


def test_setup_names_all_that_is_missing_in_one_command(machine: Machine) -> None:
    (machine.bin / "g++").unlink()
    (machine.bin / "python3.11").unlink()
    status, _, err = machine.run()
    assert status == 2
    assert "sudo apt-get update && sudo apt-get install -y python3.11 python3.11-venv python3.11-dev g++\n" in err
    assert not (machine.project / ".venv").exists()


@pytest.mark.parametrize(("release", "taken"), [("8", False), ("11", False), ("17", True), ("21", True), ("25", False)])
def test_setup_takes_java_17_and_21_only(machine: Machine, release: str, taken: bool) -> None:
    status, _, err = machine.run(JAVA_RELEASE=release)
    noted = machine.project / ".venv/java_home"
    assert (noted.exists() and noted.read_text().strip() == machine.env["JAVA_HOME"]) is taken
    # the machine that runs this test may have a good Java of its own under /usr/lib/jvm, which is then taken instead
    assert status == 0 or "openjdk-17-jre-headless" in err or "openjdk-21-jre-headless" in err


@pytest.mark.parametrize("works", [True, False])
def test_setup_installs_what_is_missing_as_root(machine: Machine, works: bool) -> None:
    (machine.bin / "g++").unlink()
    (machine.bin / "id").unlink()
    script(machine.bin / "id", "#!/usr/bin/env bash\necho 0\n")
    install = f'[ "$1" = update ] || cp "{machine.bin}/id" "{machine.bin}/${{@: -1}}"' if works else "exit 100"
    script(machine.bin / "apt-get", f'#!/usr/bin/env bash\necho "apt-get $*" >>"$CALLS"\n{install}\n')
    status, _, err = machine.run()
    assert status == (0 if works else 2)
    assert machine.calls()[:2] == ["apt-get update -qq", "apt-get install -y -qq --no-install-recommends g++"]
    assert ("sudo apt-get install -y g++" in err) is not works


def test_build_horovod_names_all_that_is_missing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (machine.bin / "g++").unlink()
    (machine.bin / "make").unlink()
    status, out, err = machine.run("build_horovod", PYTHON="/no/such/python")
    assert (status, out) == (2, "")
    assert err.splitlines() == [
        "build_horovod: missing g++; type: apt-get install -y g++",
        "build_horovod: missing make; type: apt-get install -y make",
        "build_horovod: missing torch, cffi or cloudpickle in /no/such/python; type: make setup",
    ]


def test_build_horovod_keeps_nothing_of_a_build_that_failed_and_reuses_a_wheel(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "torch.py").write_text("class version: cuda = None\n__version__ = '2.13.0+cpu'\n")  # the real one loads for seconds
    machine.env |= {"TRICHANNEL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    status, out, err = machine.run("build_horovod")
    assert (status, out) == (1, "")
    [cache] = (tmp_path / "cache").iterdir()
    assert f"failed; the last lines of {cache}/build.log" in err
    assert sorted(path.name for path in cache.iterdir()) == ["build.log", "lock"]

    wheel = cache / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    assert machine.run("build_horovod") == (0, f"{wheel}\n", "")


def test_every_requirement_has_a_pin_within_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)] == []
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [Requirement(text) for group in groups for text in group]
    assert [str(one) for one in wanted if not one.specifier.contains(pins[canonicalize_name(one.name)])] == []


@pytest.fixture(scope="module")
def package() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("package_script", str(ROOT / "scripts/package"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_zip_holds_our_packages_with_their_data_and_nothing_else(package: ModuleType, tmp_path: Path) -> None:
    package.write_zip(tmp_path / "first.zip")
    names = zipfile.ZipFile(tmp_path / "first.zip").namelist()
    assert names == sorted(names)
    assert {name.split("/")[0] for name in names} == {"conf", "spark_jobs", "trainer", "retrieval"}
    assert {"conf/__init__.py", "conf/demo.yaml", "spark_jobs/__init__.py", "trainer/__init__.py", "retrieval/__init__.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_zip_depends_on_the_sources_only(package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for name, mode, time in (("a", 0o644, 1_000_000_000), ("b", 0o600, 1_700_000_000)):
        for folder in package.PACKAGES:
            source = tmp_path / name / folder / "__init__.py"
            source.parent.mkdir(parents=True)
            source.write_text('"""Same."""\n')
            source.chmod(mode)
            os.utime(source, (time, time))
        monkeypatch.setattr(package, "ROOT", tmp_path / name)
        package.write_zip(tmp_path / f"{name}.zip")
        digests.append((tmp_path / f"{name}.zip").read_bytes())
    assert digests[0] == digests[1]


def test_the_environment_leaves_out_what_the_cluster_has_and_our_tools(package: ModuleType) -> None:
    shipped = set(package.closure(package.project_requirements(extras=())))
    assert {"torch", "faiss-cpu", "petastorm", "horovod", "pyarrow", "numpy"} <= shipped
    assert not shipped & {"pyspark", "py4j", "pytest", "mypy", "ruff", "trichannel"}


@pytest.mark.slow
def test_the_environment_runs_where_nothing_is_installed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/package", "env", "--out", tmp_path], check=True)
    with tarfile.open(tmp_path / "trichannel-env.tar.gz") as archive:
        archive.extractall(tmp_path / "env", filter="fully_trusted")
    program = "import importlib.util, faiss, horovod.torch, petastorm, torch; print(faiss.__file__, importlib.util.find_spec('conf'))"
    command = [tmp_path / "env/bin/python", "-W", "ignore", "-c", program]
    run = subprocess.run(command, cwd=tmp_path, env={"PATH": os.defpath}, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(tmp_path / "env/lib/python3.11/site-packages/faiss/__init__.py"), "None"]
