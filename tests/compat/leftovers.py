"""Find and end the processes that a test left behind.

Every process that a test starts inherits a marker in its environment, so that its descendants
are found even after they changed their session or lost their parent, and nobody else's are.
"""

import os
import signal
import time
import uuid
from pathlib import Path

MARKER = "PIPARALLEL_TEST_RUN"


def new_marker() -> str:
    """A value for the environment variable `MARKER`, unique to one test or suite."""
    return uuid.uuid4().hex


def find(marker: str) -> dict[int, str]:
    """The living processes that carry `marker`: process id to command line."""
    wanted = f"{MARKER}={marker}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        found[int(entry.name)] = command.decode(errors="replace").strip()
    return found


def wait_gone(marker: str, seconds: float) -> dict[int, str]:
    """Give marked processes time to end by themselves; return those that did not."""
    deadline = time.monotonic() + seconds
    while (left := find(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def end(marker: str) -> None:
    """Kill every marked process, also stopped ones and those that start meanwhile."""
    deadline = time.monotonic() + 10
    while (left := find(marker)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
