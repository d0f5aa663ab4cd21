"""Nodes under test: the built program, each on a machine of the lab with files of its own."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import leftovers
from lab import Lab, Machine, until

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = Path(os.environ.get("PIPARALLEL_BIN", ROOT / "target" / "debug" / "piparallel")).resolve()
# The user of the engines in the lab: it owns nothing.
ENGINE_USER = "nobody"
# A node that is asked to stop takes its leave and ends within this.
STOP_SECONDS = 20


class Node:
    """`piparallel node` on a machine."""

    def __init__(self, machine: Machine, home: Path, marker: str, **options):
        self.machine = machine
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("IPP_", "PIPARALLEL_", "PYTEST"))}
        self.env[leftovers.MARKER] = marker
        self.log = home / "node.log"
        self.process: subprocess.Popen | None = None
        home.mkdir(parents=True)
        # Paths of sockets are short.
        self.run_dir = Path(tempfile.mkdtemp(prefix="pp-"))
        self.config = home / "piparallel.toml"
        self.options = {
            "log_level": "debug",
            "state_dir": str(home / "state"),
            "run_dir": str(self.run_dir),
            "engines.count": 1,
            "engines.python": sys.executable,
            "engines.user": ENGINE_USER,
            "engines.dir": f"{self.run_dir}-engines",
        } | options
        self.configure()

    def configure(self, **options):
        """Write piparallel.toml; a double underscore stands for the dot between section and key."""
        self.options = {key.replace("__", "."): value for key, value in (self.options | options).items()}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in self.options.items()]
        self.config.write_text("".join(lines))
        self.config.chmod(0o600)

    def start(self) -> "Node":
        self.machine.power_on()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.machine.command(BINARY, "node", f"--config={self.config}"),
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def run(self, *arguments, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command of the program on this machine."""
        done = subprocess.run(
            self.machine.command(BINARY, *arguments),
            env=self.env | {"PIPARALLEL_CONFIG": str(self.config)},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr.strip()}\n{self.tail()}"
        return done

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json").stdout)

    def tail(self, lines: int = 30) -> str:
        """The end of the log, for messages of failed tests."""
        text = self.log.read_text() if self.log.exists() else ""
        return f"log of {self.machine.name}:\n" + "\n".join(text.splitlines()[-lines:])

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(STOP_SECONDS)

    def kill(self):
        """End the service as a crash would: its children are on their own."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)


class Pool:
    """All nodes of a test."""

    def __init__(self, lab: Lab, home: Path):
        self.lab = lab
        self.home = home
        self.marker = leftovers.new_marker()
        self.binary = BINARY
        self.nodes: list[Node] = []
        self.laptops: list[Laptop] = []
        # Whatever else was started.
        self.started: list[subprocess.Popen] = []
        # Options of every node.
        self.defaults: dict[str, object] = {}

    def node(self, host: str, *, machine: Machine | None = None, **options) -> Node:
        """A node that is not started yet, on a machine of its own unless one is given."""
        machine = machine or self.lab.machine(host)
        node = Node(machine, self.home / host, self.marker, **self.defaults | options)
        self.nodes.append(node)
        return node

    def laptop(self, host: str = "laptop", *, machine: Machine | None = None) -> "Laptop":
        laptop = Laptop(machine or self.lab.machine(host), self.home / f"home-{host}", self.marker)
        self.laptops.append(laptop)
        return laptop

    def start_controller(self, host: str = "pi-1", **options) -> Node:
        """A node with the controller's role that serves its pool."""
        controller = self.node(host, role="controller", **options).start()
        wait_role(controller, "controller")
        return controller

    def start_engines(self, *hosts: str, **options) -> list[Node]:
        """Nodes with the engine's role, which may not have joined yet."""
        return [self.node(host, role="engine", **options).start() for host in hosts]

    def connect(self, controller: Node, host: str = "laptop") -> "Laptop":
        """A laptop that is connected by the client key."""
        laptop = self.laptop(host)
        key = laptop.home / "key"
        key.write_text(controller.json("client-key")["key"])
        laptop.run("connect", f"--key-file={key}")
        return laptop

    def logs(self) -> str:
        return "\n".join(node.tail() for node in self.nodes)

    def close(self) -> dict[int, str]:
        """End everything; what did not end by itself."""
        for process in [*self.started, *(p for laptop in self.laptops for p in laptop.running)]:
            process.kill()
            process.wait()
        running = [n for n in self.nodes if n.process and n.process.poll() is None]
        for node in running:
            node.process.send_signal(signal.SIGCONT)
            node.process.terminate()
        for node in running:
            try:
                node.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        left = leftovers.wait_gone(self.marker, 3)
        leftovers.end(self.marker)
        for node in self.nodes:
            for path in node.run_dir.glob("*"):
                left[len(left)] = str(path)
                path.unlink()
            node.run_dir.rmdir()
            shutil.rmtree(f"{node.run_dir}-engines", ignore_errors=True)
        return left


def seen_from(node: Node, seconds: float = 1.5) -> dict[str, dict]:
    """What `piparallel discover` sees on a node's machine, by the first word of the instance: the node's name."""
    found = node.json("discover", f"--seconds={seconds}")["nodes"]
    return {entry["instance"].split()[0]: entry for entry in found}


def wait_seen(node: Node, names: set[str], seconds: float = 10) -> dict[str, dict]:
    """Wait until exactly these nodes are seen from there, and return them."""
    last = {}

    def are_seen():
        nonlocal last
        last = seen_from(node)
        return last if set(last) == names else None

    return until(are_seen, seconds, lambda: f"{names} seen from {node.machine.name}, but {set(last)}; {node.tail()}")


def new_key() -> str:
    """A join key as it stands in piparallel.toml."""
    return base64.b32encode(os.urandom(32)).decode().rstrip("=")


def wait_state(node: Node, is_wanted, wanted: str, seconds: float = 20) -> dict:
    """Wait until a node answers with a state that is wanted, and return it."""
    last = {}

    def has_state():
        nonlocal last
        done = node.run("state", "--json", check=False)
        last = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()}
        return last if "error" not in last and is_wanted(last) else None

    return until(has_state, seconds, lambda: f"{node.machine.name} {wanted}, but {last}; {node.tail()}")


def wait_role(node: Node, role: str, seconds: float = 15) -> dict:
    """Wait until a node has a role."""
    return wait_state(node, lambda state: state["role"] == role, f"is {role}", seconds)


def wait_said(node: Node, text: str) -> dict:
    """Wait until a node gives people this reason for its state."""
    return wait_state(node, lambda state: text in state["state"], f"says {text!r}")


def nodes_of(controller: Node, check: bool = True) -> dict[str, dict]:
    """What `piparallel nodes` says, by name; without `check`, nothing of a controller that does not answer."""
    done = controller.run("nodes", "--json", check=check)
    nodes = json.loads(done.stdout)["nodes"] if done.returncode == 0 else []
    return {entry["name"]: entry for entry in nodes}


def wait_nodes(controller: Node, seconds: float = 20, **states: str) -> dict[str, dict]:
    """Wait until these nodes are in these states; underscores stand for dashes in names."""
    wanted = {name.replace("_", "-"): state for name, state in states.items()}
    last = {}

    def are_there():
        nonlocal last
        # One that has just been started does not answer yet.
        last = nodes_of(controller, check=False)
        return last if all(last.get(n, {}).get("state") == s for n, s in wanted.items()) else None

    def told():
        return f"{wanted}, but { ({n: e['state'] for n, e in last.items()}) }; {controller.tail()}"

    return until(are_there, seconds, told)


class Laptop:
    """A machine with a user who works with pools: a home directory and a stock ipyparallel."""

    def __init__(self, machine: Machine, home: Path, marker: str):
        self.machine = machine
        self.home = home
        home.mkdir(parents=True)
        venv = Path(sys.prefix)
        keep = {k: v for k, v in os.environ.items() if k in ("LANG", "TZ")}
        self.env = keep | {
            leftovers.MARKER: marker,
            "HOME": str(home),
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(venv),
        }
        self.running: list[subprocess.Popen] = []

    @property
    def file(self) -> Path:
        return self.home / ".ipython/profile_default/security/ipcontroller-client.json"

    def run(self, *arguments, check: bool = True) -> subprocess.CompletedProcess:
        """Run a command of the program."""
        return self._run([BINARY, *arguments], check)

    def python(self, code: str, *arguments, check: bool = True, seconds: float = 90) -> str:
        """Run Python code with a client `rc` of the pool that this machine is connected to; what it prints."""
        done = self._run([sys.executable, "-c", CLIENT + code, *arguments], check, seconds)
        return done.stdout.strip() if check else done.stdout + done.stderr

    def start(self, code: str) -> "Session":
        """The same, without waiting for the end."""
        log = (self.home / f"session{len(self.running)}.log").open("w+")
        process = subprocess.Popen(
            self.machine.command(sys.executable, "-u", "-c", CLIENT + code),
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self.running.append(process)
        return Session(process, Path(log.name))

    def _run(self, command: list, check: bool, seconds: float = 90) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.machine.command(*command),
            env=self.env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{command[1:]}: {done.stdout}{done.stderr}"
        return done


class Session:
    """A Python program of a user that goes on in the background."""

    def __init__(self, process: subprocess.Popen, log: Path):
        self.process = process
        self.log = log

    def said(self) -> str:
        return self.log.read_text()

    def wait_said(self, text: str, seconds: float = 60) -> str:
        def has_said():
            assert self.process.poll() is None or text in self.said(), self.said()
            return text in self.said()

        until(has_said, seconds, lambda: f"{text!r} is said: {self.said()}")
        return self.said()

    def wait(self, seconds: float = 120) -> str:
        """Wait for its end, which must be a good one; what it said."""
        assert self.process.wait(seconds) == 0, self.said()
        return self.said()


# What every session begins with.
CLIENT = """
import os, sys, time
import ipyparallel as ipp
rc = ipp.Client(timeout=20)
def engines(count, seconds=40):
    end = time.monotonic() + seconds
    while len(rc.ids) != count:
        assert time.monotonic() < end, f"{count} engines, but {rc.ids}"
        time.sleep(0.02)
    return rc.ids
def nap(x):
    import time
    time.sleep(0.2)
    return x
def nap_long():
    import time
    time.sleep(3)
    return 'rested'
def where(x):
    import os, time
    time.sleep(0.1)
    return x, os.uname().nodename
"""
