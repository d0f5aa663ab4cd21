"""Nodes under test: the built program, each on a machine of the lab with files of its own."""

import json
import os
import signal
import subprocess
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
            "name": machine.name,
            "log_level": "debug",
            "state_dir": str(home / "state"),
            "run_dir": str(self.run_dir),
        } | options
        self.configure()

    def configure(self, **options):
        """Write piparallel.toml; a double underscore stands for the dot between section and key."""
        self.options |= options
        lines = [f"{key.replace('__', '.')} = {json.dumps(value)}\n" for key, value in self.options.items()]
        self.config.write_text("".join(lines))
        self.config.chmod(0o600)

    def start(self) -> "Node":
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
        self.nodes: list[Node] = []

    def node(self, host: str, *, machine: Machine | None = None, **options) -> Node:
        """A node that is not started yet, on a machine of its own unless one is given."""
        machine = machine or self.lab.machine(host)
        node = Node(machine, self.home / host, self.marker, **options)
        self.nodes.append(node)
        return node

    def logs(self) -> str:
        return "\n".join(node.tail() for node in self.nodes)

    def close(self) -> dict[int, str]:
        """End everything; what did not end by itself."""
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
