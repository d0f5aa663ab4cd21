"""What is measured: the stock controller, ours, each also without a task database, and a raw libzmq broker."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import Group

# 4096 engines with 8 connections each, all in one process of the generator, and of a controller that is one process.
OPEN_FILES_WANTED = 4096 * 8 + 300


def raise_open_files():
    """Every subject inherits the limit. Beyond the hard one it takes privileges. Returns what is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, OPEN_FILES_WANTED), max(hard, OPEN_FILES_WANTED)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


OPEN_FILES = raise_open_files() - 300
FULL_ENGINES_MAX = OPEN_FILES // 8
# With the connections that load-balanced tasks need, and a heart.
LEAN_ENGINES_MAX = OPEN_FILES // 4


@dataclass(frozen=True)
class Subject:
    """One thing to measure. `command` is completed with the place of its files."""

    name: str
    label: str
    command: tuple
    raw: bool = False
    stock: bool = False

    def start(self, directory):
        security = directory / "security"
        if self.raw:
            security.mkdir()
            command = [*self.command, str(security)]
        else:
            command = [*self.command, f"--profile-dir={directory}"]
        return Group(command, directory / "controller.out", environment(directory))


class LoadError(Exception):
    """The load generator reports a failure, or does not answer."""


class Load:
    """The load generator, driven by one JSON line a command."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, what, limit=60, **fields):
        """Performs a command, which has `limit` seconds, and returns its answer."""
        # The generator bounds itself; this timer is for one that hangs.
        timer = threading.Timer(3 * limit + 60, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"do": what, "limit": limit, **fields}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise LoadError(f"the load generator ended during {what}, status {self.process.wait()}")
        answer = json.loads(line)
        if not answer["ok"]:
            raise LoadError(answer["error"])
        return answer

    def stop(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """A fresh controller with the load generator attached to it."""

    def __init__(self, subject, group, load, directory, usable_s):
        self.subject, self.group, self.load, self.directory = subject, group, load, directory
        self.usable_s = usable_s

    def engines(self, count, limit=120):
        # How it does when more register at once is shown by the scenario `register`.
        lean = count > FULL_ENGINES_MAX
        return self.load.do("engines", limit=limit, count=count, in_flight=64, lean=lean)


@contextmanager
def pool(subject, load_binary):
    """Starts a subject in a fresh directory, and leaves no process and no file of it."""
    directory = Path(tempfile.mkdtemp(prefix="piparallel-bench-"))
    load = Load(load_binary)
    group = None
    try:
        # The generator is up before the clock starts.
        time.sleep(0.05)
        start = time.monotonic()
        group = subject.start(directory)
        load.do("attach", dir=str(directory / "security"), raw=subject.raw)
        yield Pool(subject, group, load, directory, time.monotonic() - start)
    except LoadError as error:
        if group and not group.alive():
            tail = group.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise LoadError(f"{subject.name} ended with status {group.process.returncode}: {tail}; {error}") from None
        raise
    finally:
        load.stop()
        if group:
            group.stop()
        shutil.rmtree(directory, ignore_errors=True)


def environment(directory):
    """The caller's, without what would lead a controller or engine elsewhere."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("IPP_", "IPYTHON"))}
    return env | {"IPYTHONDIR": str(directory / "ipython")}


def find(root, venv, ours):
    """The subjects that can be run here, and a line for each that cannot."""
    found, missing = [], []
    python = venv / "bin" / "python"
    if python.exists():
        stock = (str(python), "-m", "ipyparallel.controller")
        found.append(Subject("stock", "stock", stock, stock=True))
        found.append(Subject("stock-nodb", "stock, no db", (*stock, "--nodb"), stock=True))
    else:
        missing.append(
            f"stock: no {python}; make one with `python3 -m venv {venv} && "
            f"{venv}/bin/pip install ipyparallel==9.2.0 numpy`, or name another with IPP_VENV"
        )
    if ours.exists():
        command = (str(ours), "ipcontroller")
        found.append(Subject("ours", "piparallel", command))
        found.append(Subject("ours-nodb", "piparallel, no db", (*command, "--nodb")))
    else:
        missing.append(f"ours: no {ours}; build it with `cargo build --release -p piparallel`, or name one with --ours")
    broker, problem = build_broker(root)
    if broker:
        found.append(Subject("raw", "raw libzmq", (str(broker),), raw=True))
    else:
        missing.append(f"raw: {problem}")
    return found, missing


def build_broker(root):
    source, broker = Path(__file__).with_name("broker.c"), root / "target" / "bench" / "broker"
    broker.parent.mkdir(parents=True, exist_ok=True)
    if broker.exists() and broker.stat().st_mtime > source.stat().st_mtime:
        return broker, None
    command = ["cc", "-O2", "-Wall", "-Wextra", "-std=c11", "-o", str(broker), str(source), "-lzmq"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None, "no C compiler; install it with `apt install gcc libc6-dev libzmq3-dev`"
    if result.returncode == 0:
        return broker, None
    if "zmq.h" in result.stderr or "-lzmq" in result.stderr:
        return None, "libzmq's development files are missing; install them with `apt install libzmq3-dev`"
    return None, result.stderr.strip()


def build_load(root):
    command = ["cargo", "build", "--profile", "bench-load", "-p", "piparallel-load"]
    if subprocess.run(command, cwd=root).returncode != 0:
        sys.exit("bench: the load generator does not build")
    return root / "target" / "bench-load" / "piparallel-load"
