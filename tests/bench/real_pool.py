"""The stock client and stock engines on a controller that runs already; prints one JSON object of times.

usage: real_pool.py PROFILE_DIR PAYLOAD_BYTES...   with the Python that has ipyparallel and numpy
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import ipyparallel as ipp
import numpy

ENGINES = 4
DEADLINE = 60


class Engine:
    """`ipengine` in a session of its own. Notes when it sends its registration request."""

    def __init__(self, directory):
        self.started = time.monotonic()
        self.requested = None
        command = [sys.executable, "-m", "ipyparallel.engine", f"--profile-dir={directory}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        # The request goes out right behind this line; reading on keeps the pipe from filling.
        for line in self.process.stderr:
            if b"Registering with controller" in line and self.requested is None:
                self.requested = time.monotonic()

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def wait_for(client, count):
    deadline = time.monotonic() + DEADLINE
    while len(client.ids) < count:
        if time.monotonic() > deadline:
            sys.exit(f"{len(client.ids)} of {count} engines are in client.ids after {DEADLINE} s")
        time.sleep(0.002)
    return time.monotonic()


def seconds(work, times):
    """Median and 90th percentile of some repetitions."""
    taken = []
    for _ in range(times):
        start = time.monotonic()
        work()
        taken.append(time.monotonic() - start)
    taken.sort()
    return statistics.median(taken), taken[int(0.9 * (len(taken) - 1))]


def no_op():
    return None


def calls(client):
    direct, broadcast, balanced = client[:], client.broadcast_view(), client.load_balanced_view()
    coalescing = client.broadcast_view()
    coalescing.is_coalescing = True
    one = client[client.ids[0]]
    one.apply_sync(no_op)
    p50, p90 = seconds(lambda: one.apply_sync(no_op), 300)
    start = time.monotonic()
    balanced.map(lambda _: None, range(1000), chunksize=1, block=True)
    map_seconds = time.monotonic() - start
    return {
        "apply_one_ms": 1000 * p50,
        "apply_one_p90_ms": 1000 * p90,
        "apply_all_ms": 1000 * seconds(lambda: direct.apply_sync(no_op), 100)[0],
        "broadcast_ms": 1000 * seconds(lambda: broadcast.apply_sync(no_op), 100)[0],
        "broadcast_coalescing_ms": 1000 * seconds(lambda: coalescing.apply_sync(no_op), 100)[0],
        "map_tasks_per_s": 1000 / map_seconds,
    }


def transfers(client, size):
    data = numpy.arange(size, dtype=numpy.uint8)
    one, direct, broadcast = client[client.ids[0]], client[:], client.broadcast_view()
    name = f"{size // 1_000_000}MB"

    def gather():
        return direct.gather("part", block=True)

    works = {
        "push_one": lambda: one.push({"data": data}, block=True),
        "pull_one": lambda: one.pull("data", block=True),
        "push_all": lambda: direct.push({"data": data}, block=True),
        "broadcast_push": lambda: broadcast.push({"data": data}, block=True),
        "scatter": lambda: direct.scatter("part", data, block=True),
        "gather": gather,
    }
    result = {f"{name}/{what}_ms": 1000 * seconds(work, 3)[0] for what, work in works.items()}
    if not numpy.array_equal(gather(), data):
        sys.exit(f"{size} bytes that were scattered and gathered came back changed")
    return result


def killed(client, engines):
    """Kills the engine on which a task runs; its nanny is alive."""
    view = client.load_balanced_view()
    pids = client[:].apply_sync(os.getpid)
    by_engine = dict(zip(client.ids, pids, strict=True))
    task = view.apply_async(time.sleep, DEADLINE)
    deadline = time.monotonic() + 5
    busy = []
    while not busy and time.monotonic() < deadline:
        status = client.queue_status()
        busy = [engine for engine in client.ids if status[engine]["tasks"]]
    if not busy:
        sys.exit("queue_status does not show the engine that runs a task")
    start = time.monotonic()
    os.kill(by_engine[busy[0]], signal.SIGKILL)
    task.wait(DEADLINE)
    taken = time.monotonic() - start
    if not task.ready() or task.successful():
        sys.exit("a task did not fail with its engine")
    return {"killed_task_failed_s": taken}


def main(directory, sizes):
    security = Path(directory) / "security"
    engines = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        client = ipp.Client(str(security / "ipcontroller-client.json"), timeout=20)
        engines.append(Engine(directory))
        one_in = wait_for(client, 1)
        engines += [Engine(directory) for _ in range(ENGINES - 1)]
        first = engines[1].started
        all_in = wait_for(client, ENGINES)
        result = {
            "engine_start_to_ids_s": one_in - engines[0].started,
            "engine_request_to_ids_s": one_in - engines[0].requested,
            f"{ENGINES - 1}_engines_start_to_ids_s": all_in - first,
        }
        result |= calls(client)
        for size in sizes:
            result |= transfers(client, size)
        result |= killed(client, engines)
        print(json.dumps(result))
    finally:
        for engine in engines:
            engine.stop()


if __name__ == "__main__":
    main(sys.argv[1], [int(size) for size in sys.argv[2:]])
