"""A machine in namespaces with its own systemd: a clean Debian on which packages are tried."""

import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SYSTEM = ROOT / "target" / "image" / "amd64" / "root"
BOOT_SECONDS = 60


class Machine:
    """Starts with the object, ends with `close`."""

    def __init__(self, directory: Path, name: str):
        self.root = directory / "root"
        self.upper = directory / "upper"
        self.process = subprocess.Popen(
            [HERE / "start-machine", SYSTEM, directory, name],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.init = self.until(self.find_init, BOOT_SECONDS, "systemd runs")
        self.until(self.is_up, BOOT_SECONDS, "the machine is up")

    def find_init(self) -> int | None:
        """The first process of the machine, as this namespace numbers it, once it is systemd."""
        assert self.process.poll() is None, f"the machine ended: {self.process.stderr.read()}"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return None

    def is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the machine; what it printed."""
        ran = subprocess.run(
            ["nsenter", "--target", str(self.init), "--all", "--root", "--wd", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": "/usr/sbin:/usr/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )
        assert not check or ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def properties(self, unit: str, *names: str) -> list[str]:
        return [self.run("systemctl", "show", "--value", "--property", name, unit).strip() for name in names]

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def exists(self, path: str) -> bool:
        return self.run("sh", "-c", f"test -e {path} && echo yes || true") != ""

    def put(self, path: Path) -> str:
        """Copy a file to the machine; its path there."""
        with path.open("rb") as content:
            there = f"/run/{path.name}"
            subprocess.run(
                ["nsenter", "--target", str(self.init), "--all", "--root", "--wd", "tee", there],
                stdin=content,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=60,
            )
        return there

    @staticmethod
    def until(condition, seconds: float, what: str):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.1)
        return value

    def close(self):
        self.process.kill()
        self.process.wait()
