"""The first minutes of a new user: `piparallel up`, a client, `piparallel status`, Ctrl-C."""

import json
import os
import signal
import subprocess
import time

import ipyparallel as ipp
import leftovers
import pytest
from subject import BINARY, environment, only_ours, until

pytestmark = only_ours


@pytest.fixture
def home(tmp_path):
    """A home directory, the environment to use it, and afterwards a check that nothing is left."""
    marker = leftovers.new_marker()
    yield environment(tmp_path, marker) | {"IPYTHONDIR": str(tmp_path / ".ipython")}
    left = leftovers.wait_gone(marker, 3)
    leftovers.end(marker)
    assert not left, f"left behind: {left}"


def up(env, *arguments):
    log = open(env["HOME"] + "/up.log", "w")
    return subprocess.Popen(
        [BINARY, "up", *arguments],
        env=env,
        cwd=env["HOME"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        # Whoever runs the tests in the background may have it ignored, and so would this before it listens.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def connection_file(env):
    return os.path.join(env["IPYTHONDIR"], "profile_default", "security", "ipcontroller-client.json")


def told(env):
    with open(env["HOME"] + "/up.log") as log:
        return log.read()


def status(env, *arguments):
    return subprocess.run([BINARY, "status", *arguments], env=env, capture_output=True, text=True, timeout=20)


def test_a_first_session(home):
    pool = up(home, "-n", "2", "--demo")
    until(lambda: "Ctrl-C" in told(home) or pool.poll() is not None, 60, "it says how to connect")
    assert pool.poll() is None, told(home)
    client = ipp.Client(connection_file(home), timeout=10)
    assert len(set(client[:].apply_sync(os.getpid))) == 2
    client.close()
    as_json = json.loads(status(home, "--json").stdout)
    assert [engine["id"] for engine in as_json["engines"]] == [0, 1]
    assert as_json["tasks"]["done"] >= 2
    assert "2" in status(home).stdout
    pool.send_signal(signal.SIGINT)
    assert pool.wait(15) == 0, told(home)
    assert not os.path.exists(connection_file(home))


def test_what_newcomers_try_is_what_a_shelf_of_pis_does(home):
    pool = up(home, "-n", "3")
    until(lambda: "Ctrl-C" in told(home) or pool.poll() is not None, 60, "it says how to connect")
    run_dir = told(home).split("--run-dir=")[1].split()[0]
    listed = subprocess.run(
        [BINARY, "nodes", "--json", f"--run-dir={run_dir}"], capture_output=True, env=home, text=True
    )
    nodes = {node["name"]: node for node in json.loads(listed.stdout)["nodes"] if node["kind"] == "node"}
    assert {name: node["state"] for name, node in nodes.items()} == dict.fromkeys(
        ["controller", "node-1", "node-2"], "joined"
    )
    assert [nodes[name]["engines"]["running"] for name in ("node-1", "node-2")] == [2, 1]
    second = subprocess.run([BINARY, "up", "-n", "1"], env=home, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1 and "runs already" in second.stderr
    pool.terminate()
    assert pool.wait(15) == 0, told(home)


def test_ctrl_c_of_a_terminal_reaches_everyone_at_once(home):
    """A terminal signals the whole process group, engines included where they are in it."""
    pool = up(home, "-n", "2")
    until(lambda: "Ctrl-C" in told(home), 60, "it is ready")
    os.killpg(pool.pid, signal.SIGINT)
    assert pool.wait(15) == 0, told(home)
    assert not os.path.exists(connection_file(home))


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_moment_nothing_is_left(home, sig):
    for delay in (0.0, 0.005, 0.02, 0.1, 0.5, 1.0, 1.5, 2.5):
        pool = up(home, "-n", "2")
        time.sleep(delay)
        pool.send_signal(sig)
        pool.wait(15)
        left = leftovers.wait_gone(home[leftovers.MARKER], 5)
        assert not left, f"{delay} s after the start: {left}"
        assert sig == signal.SIGKILL or not os.path.exists(connection_file(home))


def test_an_engine_that_dies_is_started_again(home):
    pool = up(home, "-n", "2")
    until(lambda: "Ctrl-C" in told(home), 60, "it is ready")
    client = ipp.Client(connection_file(home), timeout=10)
    os.kill(client[0].apply_sync(os.getpid), signal.SIGKILL)
    until(lambda: 0 not in client.ids and len(client.ids) == 2, 30, "another engine takes its place")
    client.close()
    pool.terminate()
    pool.wait(15)


def test_status_without_a_pool_says_how_to_start_one(home):
    answer = status(home)
    assert answer.returncode == 3
    assert "piparallel up" in answer.stderr


def test_without_ipyparallel_it_says_how_to_install_it(home):
    answer = subprocess.run(
        [BINARY, "up", "-n", "1", "--python", "/usr/bin/env"], env=home, capture_output=True, text=True, timeout=20
    )
    assert answer.returncode != 0
    assert "pip install ipyparallel" in answer.stderr


def test_the_manual_and_completions_are_there(home, tmp_path):
    subprocess.run([BINARY, "man", tmp_path / "man"], env=home, check=True)
    assert "piparallel.1" in os.listdir(tmp_path / "man")
    for shell in ("bash", "zsh", "fish"):
        written = subprocess.run([BINARY, "completions", shell], env=home, capture_output=True, text=True, check=True)
        assert "status" in written.stdout
