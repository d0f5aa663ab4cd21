"""A pool of virtual Pis, and this machine as a laptop that works with it."""

import base64
import json
import os
import subprocess
from pathlib import Path

from lab import ROOT, Network, Pi, run, until

# The Python of a laptop has to be that of the engines, or functions do not travel: this is that of the same packages.
SYSTEM = ROOT / "target" / "image" / "amd64" / "root"
PYTHON = f"""\
#!/bin/sh
export PYTHONHOME={SYSTEM}/usr
libraries={SYSTEM}/usr/lib/x86_64-linux-gnu
exec {SYSTEM}/usr/lib64/ld-linux-x86-64.so.2 --library-path $libraries:$libraries/blas:$libraries/lapack \\
    {SYSTEM}/usr/bin/python3.13 "$@"
"""
PROGRAM = ROOT / "target" / "cross" / "amd64" / "piparallel"

# Seconds.
STARTING = 300

COUNT = "import ipyparallel as ipp; print(sorted(ipp.Client(timeout=60).ids))"

OPTIONS = """\
pool = "{pool}"
role = "{role}"
join_key = "{key}"
[engines]
{engines}
[system]
hostname = "pi-{number}"
ssh_keys = ["{ssh_key}"]
"""


class Pool:
    """One controller and further Pis with engines, the first few with a screen; all cards have one join key. Each Pi
    has one engine, unless `engines` has other options for its number. `card`: for which `arch`, on which `base`."""

    def __init__(self, directory: Path, size: int, screens: int = 0, engines: dict | None = None, **card: str):
        self.directory = directory
        self.ssh_key = directory / "id_ed25519"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", self.ssh_key)
        self.key = base64.b32encode(os.urandom(32)).decode().rstrip("=")
        self.engine_options = engines or {}
        self.python_program = directory / "python"
        self.python_program.write_text(PYTHON)
        self.python_program.chmod(0o755)
        self.pis: list[Pi] = []
        self.network = Network()
        try:
            for number in range(1, size + 1):
                screen = number <= screens
                self.pis.append(Pi(self.network, number, directory, self.options(number), screen=screen, **card))
        except BaseException:
            self.close()
            raise

    @property
    def controller(self) -> Pi:
        return self.pis[0]

    def options(self, number: int) -> str:
        return OPTIONS.format(
            pool="lab",
            role="controller" if number == 1 else "engine",
            key=self.key,
            engines=self.engine_options.get(number, "count = 1"),
            number=number,
            ssh_key=self.ssh_key.with_suffix(".pub").read_text().strip(),
        )

    def wait_for_address(self, pi: Pi, seconds: float) -> str:
        return until(
            pi.address, seconds, lambda: f"pi {pi.number} has an address; its console:\n{pi.console()[-3000:]}"
        )

    def wait_for_ssh(self, pi: Pi, seconds: float):
        self.wait_for_address(pi, seconds)
        until(
            lambda: self.on(pi, "echo", "up", check=False) == "up\n",
            seconds,
            lambda: f"pi {pi.number} can be logged in to; its console:\n{pi.console()[-3000:]}",
        )

    def on(self, pi: Pi, *command: str, check: bool = True) -> str:
        return pi.ssh(self.ssh_key, *command, check=check)

    def environment(self) -> dict[str, str]:
        """That of the laptop: a home of its own."""
        home = self.directory / "laptop"
        home.mkdir(exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("IPP_", "IPYTHON", "XDG_"))}
        return env | {"HOME": str(home)}

    def connect(self):
        """`piparallel connect`, with the key that the controller shows; logins are possible before its service runs."""
        command = ("sudo", "piparallel", "client-key", "--json")
        shown = until(lambda: self.on(self.controller, *command, check=False), STARTING, "the controller shows a key")
        key_file = self.directory / "client.key"
        key_file.write_text(json.loads(shown)["key"])
        key_file.chmod(0o600)
        command = self.network.inside(PROGRAM, "connect", "lab", f"--key-file={key_file}")
        return run(*command, env=self.environment())

    def python(self, code: str, timeout: float = 300) -> str:
        """Run Python on the laptop, with a stock `ipyparallel`; what it printed."""
        return run(*self.network.inside(self.python_program, "-c", code), env=self.environment(), timeout=timeout)

    def start_python(self, code: str) -> subprocess.Popen:
        """Run Python on the laptop, beside what follows."""
        return self.network.spawn(self.python_program, "-c", code, env=self.environment())

    def start_on(self, pi: Pi, *command: str) -> subprocess.Popen:
        """Run a command on a Pi, beside what follows."""
        return subprocess.Popen(
            pi.ssh_command(self.ssh_key, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def engines(self) -> int:
        """How many a client sees."""
        return len(json.loads(self.python(COUNT)))

    def nodes(self) -> dict[str, dict]:
        """What the controller says of each node, by its name."""
        nodes = json.loads(self.on(self.controller, "piparallel", "nodes", "--json"))["nodes"]
        return {node["name"]: node for node in nodes}

    def close(self):
        for pi in self.pis:
            pi.power_off()
        self.network.close()


def describe(pool: Pool) -> str:
    inside = f"sudo ip netns exec {pool.network.name}"
    return "\n".join(
        [
            "",
            f"A pool of {len(pool.pis)} virtual Pis is up. From another shell:",
            "",
            f"  {inside} env -u IPYTHONDIR HOME={pool.directory}/laptop {pool.python_program}",
            "    >>> import ipyparallel as ipp; rc = ipp.Client(); rc.ids",
            f"  {inside} ssh -i {pool.ssh_key} pi@{pool.controller.address()} piparallel nodes",
            f"  tail -f {pool.controller.log}",
            "",
            "Ctrl-C ends it; nothing is left behind.",
        ]
    )
