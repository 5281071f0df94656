"""A Spark standalone cluster on loopback: a master and two workers, whose Python has the dependencies but not the project."""

import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark

REPOSITORY = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
# three JVMs on a test machine of two cores: what each compiles, it hardly ever runs again
QUICK_START = [f"spark.{side}.extraJavaOptions=-XX:TieredStopAtLevel=1 -Xss8m" for side in ("driver", "executor")]
WORKERS = ("127.0.0.1", "127.0.0.2")  # two hosts, for Spark starts no speculative copy of a task on the host that runs it


@dataclass(frozen=True)
class Cluster:
    """master: its URL. python: of driver and executors. environment: of any command for it. daemons: of master and workers."""

    master: str
    python: Path
    package: Path
    environment: dict[str, str]
    folder: Path
    daemons: tuple[int, ...]

    def submit(self, *, master: str | None = None, conf: Sequence[str] = ()) -> list[str]:
        """The words of spark-submit before the script."""
        words = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", master or self.master, "--executor-memory", "1g"]
        words += [word for setting in (*QUICK_START, *conf) for word in ("--conf", setting)]
        return [*words, "--py-files", str(self.package)]

    def executors(self) -> dict[str, psutil.Process]:
        """Executor id -> its Java process, of the application that runs now."""
        found = {}
        for daemon in self.daemons:
            for child in psutil.Process(daemon).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                    words = child.cmdline()
                    if "--executor-id" in words:
                        found[words[words.index("--executor-id") + 1]] = child
        return found


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bare_python(folder: Path) -> Path:
    """A Python that sees the installed packages through PYTHONPATH: .pth files, and with them editable installs, do not count there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


@contextmanager
def standalone(folder: Path) -> Iterator[Cluster]:
    """The cluster while the block runs; its files lie in the folder."""
    subprocess.run([sys.executable, str(REPOSITORY / "scripts" / "package"), "zip"], cwd=REPOSITORY, check=True)
    python = _bare_python(folder / "bare")
    port, web = free_port(), free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYSPARK_", "SPARK_", "PYTHON"))}
    environment = kept | {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": str(python),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "SPARK_WORKER_DIR": str(folder / "work"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    spark_class, master = str(SPARK_HOME / "bin" / "spark-class"), f"spark://127.0.0.1:{port}"
    ports = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", str(web)]
    commands = [[spark_class, "org.apache.spark.deploy.master.Master", *ports]]
    worker = [spark_class, "org.apache.spark.deploy.worker.Worker", master, "-c", "1", "-m", "2g"]
    commands += [[*worker, "--host", host, "--webui-port", str(free_port())] for host in WORKERS]
    log = (folder / "daemons.log").open("w")
    daemons = [subprocess.Popen(c, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True) for c in commands]
    try:
        deadline = time.monotonic() + 60
        while (folder / "daemons.log").read_text().count("Successfully registered with master") < len(WORKERS):
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()[-3000:]
            time.sleep(0.3)
        pids = tuple(daemon.pid for daemon in daemons)
        yield Cluster(master, python, REPOSITORY / "dist" / "trichannel.zip", environment, folder, pids)
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)
        log.close()
