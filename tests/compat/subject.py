"""The controller under test: ours or stock, chosen by the environment, started the same way.

PIPARALLEL_TEST_SUBJECT is `ours` (the default; PIPARALLEL_BIN names the binary) or `stock`.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import ipyparallel as ipp
import leftovers
import psutil
import pytest

SUBJECT = os.environ.get("PIPARALLEL_TEST_SUBJECT", "ours")
ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = Path(os.environ.get("PIPARALLEL_BIN", ROOT / "target" / "debug" / "piparallel")).resolve()
COMMAND = {
    "ours": [str(BINARY), "ipcontroller"],
    "stock": [sys.executable, "-m", "ipyparallel.controller"],
}[SUBJECT]

only_ours = pytest.mark.skipif(SUBJECT == "stock", reason="stock has nothing of the kind")


def stock_defect(reason: str, strict: bool = True):
    """Mark a test that the stock controller is known to fail, by an assertion and nothing else."""
    return pytest.mark.xfail(SUBJECT == "stock", reason=reason, strict=strict, raises=AssertionError)


def until(condition, seconds: float, what: str):
    """Poll `condition` until it is true and return its value; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return value


def environment(home: Path, marker: str) -> dict[str, str]:
    """What a controller or engine under test inherits: nothing of the caller's ipyparallel set-up."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("IPP_", "IPYTHON", "PYTEST"))}
    venv = Path(sys.prefix)
    return env | {
        leftovers.MARKER: marker,
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "PATH": f"{venv / 'bin'}:{env['PATH']}",
        "VIRTUAL_ENV": str(venv),
    }


class Controller:
    """One controller process with a profile directory of its own, and the engines started for it."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        command: list[str] = COMMAND,
    ):
        self.home = home
        self.profile = home / "profile"
        self.arguments = list(arguments)
        self.prefix = list(prefix)
        self.command = command
        self.marker = leftovers.new_marker()
        self.env = environment(home, self.marker) | (env or {})
        self.log = home / "controller.log"
        self.process: subprocess.Popen | None = None
        self.clients: list[ipp.Client] = []
        home.mkdir(parents=True, exist_ok=True)

    def spawn(self, *more: str) -> "Controller":
        """Start the process without waiting for anything."""
        command = self.prefix + self.command + [f"--profile-dir={self.profile}", *self.arguments, *more]
        with self.log.open("a") as log:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            self.process = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def start(self, *more: str) -> "Controller":
        """Start it and wait until its connection files are there and its ports open."""
        self.spawn(*more)
        until(self.usable, 20, f"the controller is usable; its log:\n{self.log.read_text()[-2000:]}")
        return self

    def usable(self) -> bool:
        assert self.process.poll() is None, f"the controller ended:\n{self.log.read_text()[-2000:]}"
        try:
            return all(map(is_open, self.ports()))
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    @property
    def security(self) -> Path:
        return self.profile / "security"

    @property
    def files(self) -> list[Path]:
        return [self.security / f"ipcontroller-{side}.json" for side in ("client", "engine")]

    def info(self, side: str) -> dict:
        return json.loads((self.security / f"ipcontroller-{side}.json").read_text())

    def ports(self) -> list[int]:
        found = set()
        for side in ("client", "engine"):
            for value in self.info(side).values():
                found |= {port for port in (value if isinstance(value, list) else [value]) if type(port) is int}
        return sorted(found)

    def client(self, **more) -> ipp.Client:
        client = ipp.Client(str(self.files[0]), **({"timeout": 10} | more))
        self.clients.append(client)
        return client

    def spawn_engine(self, *arguments: str, **env: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "ipyparallel.engine", f"--profile-dir={self.profile}", *arguments]
        with (self.home / "engines.log").open("a") as log:
            return subprocess.Popen(
                command,
                env=self.env | env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_engines(self, number: int) -> ipp.Client:
        """Start engines and return a client that has seen them all."""
        for _ in range(number):
            self.spawn_engine()
        client = self.client()
        client.wait_for_engines(number, timeout=30)
        return client

    def memory(self) -> int:
        """Resident bytes of the controller, all of its processes together."""
        main = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [main, *main.children(recursive=True)])

    def descriptors(self) -> int:
        main = psutil.Process(self.process.pid)
        return sum(p.num_fds() for p in [main, *main.children(recursive=True)])

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Signal the controller and wait for its end; the exit status."""
        self.process.send_signal(sig)
        return self.process.wait(10)

    def left(self, seconds: float = 2) -> dict[int, str]:
        """Controller processes that are still alive once it should be gone (engines do not count)."""
        until_gone = time.monotonic() + seconds
        while True:
            left = {pid: c for pid, c in leftovers.find(self.marker).items() if "ipyparallel.engine" not in c}
            if not left or time.monotonic() > until_gone:
                return left
            time.sleep(0.05)

    def close(self) -> dict[int, str]:
        """End everything; what of the controller did not end by itself."""
        for client in self.clients:
            client.close()
        left = {}
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            try:
                self.stop()
                left = self.left()
            except subprocess.TimeoutExpired:
                left = leftovers.find(self.marker)
        leftovers.end(self.marker)
        return left


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on at this moment."""
    sockets = [socket.socket() for _ in range(number)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
