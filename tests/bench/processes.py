"""Starts programs in groups of their own and reads from /proc what a group uses."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1e6


class Group:
    """A program and all processes that it starts: they share its session."""

    def __init__(self, command, log, env):
        self.log = Path(log)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )
        self.pid = self.process.pid
        self.spent = {}

    def members(self):
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    if os.getsid(int(entry.name)) == self.pid:
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def cpu(self):
        """User and system seconds so far, those of members that have ended included as last seen."""
        for pid in self.members():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            self.spent[pid] = (int(fields[11]) + int(fields[12])) / TICK
        return sum(self.spent.values())

    def rss(self, members=None):
        """Resident MB, shared pages counted in every process."""
        total = 0
        for pid in members or self.members():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            except OSError:
                continue
        return total / MB

    def pss(self, members=None):
        """Resident MB, shared pages divided among those who share them."""
        total = 0
        for pid in members or self.members():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total / MB

    def settle(self, idle_rate, limit):
        """Waits until the group uses hardly more CPU than when idle. Returns false when it still does at the limit."""
        deadline = time.monotonic() + limit
        before, start = self.cpu(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now, end = self.cpu(), time.monotonic()
            if (now - before) / (end - start) < idle_rate + 0.04:
                return True
            before, start = now, end
        return False

    def idle_rate(self):
        before, start = self.cpu(), time.monotonic()
        time.sleep(1)
        return (self.cpu() - before) / (time.monotonic() - start)

    def alive(self):
        return self.process.poll() is None

    def stop(self, grace=5):
        """SIGTERM for the program, SIGKILL for whatever of its session is left."""
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(grace)


class Peak:
    """Highest memory use of a group, looked at every few milliseconds while the block runs."""

    RSS_EVERY = 0.05
    PSS_EVERY = 1.0

    def __init__(self, group):
        self.group = group
        self.rss = self.pss = 0.0

    def __enter__(self):
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        next_pss = 0.0
        while True:
            now = time.monotonic()
            if now >= next_pss:
                members = self.group.members()
                self.pss = max(self.pss, self.group.pss(members))
                next_pss = now + self.PSS_EVERY
            self.rss = max(self.rss, self.group.rss(members))
            if self.done.wait(self.RSS_EVERY):
                return

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
