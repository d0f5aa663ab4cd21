"""The engines of `piparallel up`: forked from one warm Python, watched, and to clients like stock engines."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import ipyparallel as ipp
import leftovers
import psutil
import pytest
from reachable import for_everybody
from subject import BINARY, Controller, environment, only_ours, until

pytestmark = only_ours

# What engines are sent is not to be imported there.
HERE = ipp.interactive

STOCK = "stock engines, each with its nanny"
OURS = "forked engines, one nanny"


class Pool:
    """`piparallel up` in a home of its own, and a client of it."""

    def __init__(self, home, *arguments, prefix=(), **env):
        self.home = home
        self.marker = leftovers.new_marker()
        self.env = environment(home, self.marker) | {"IPYTHONDIR": str(home / ".ipython")} | env
        self.profile = home / ".ipython" / "profile_default"
        self.output = home / "up.log"
        with self.output.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, str(BINARY), "up", "--nodes=1", *arguments],
                env=self.env,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: "Ctrl-C" in self.told() or self.process.poll() is not None, 60, "it is ready")
        assert self.process.poll() is None, self.told() + self.log()
        self.client = ipp.Client(str(self.profile / "security" / "ipcontroller-client.json"), timeout=20)
        # What engines print before a client listens is lost to it; an answer comes later than that.
        self.pids()

    def told(self):
        return self.output.read_text()

    def log(self):
        return "".join(path.read_text() for path in sorted(self.profile.glob("log/piparallel-*.log")))

    def processes(self):
        """By their names."""
        found = {}
        for pid in leftovers.find(self.marker):
            try:
                found.setdefault(psutil.Process(pid).name(), []).append(pid)
            except psutil.NoSuchProcess:
                pass
        return found

    def pids(self):
        return self.client[:].apply_sync(os.getpid) if self.client.ids else []

    def close(self):
        """The end that a user makes; whatever is left afterwards."""
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(15)
        left = leftovers.wait_gone(self.marker, 3)
        leftovers.end(self.marker)
        return left


@pytest.fixture
def new_pool(tmp_path):
    made = []

    def make(*arguments, **more):
        home = tmp_path / f"pool{len(made)}"
        home.mkdir()
        made.append(Pool(home, *arguments, **more))
        return made[-1]

    yield make
    left = [pool.close() for pool in made]
    assert not any(left), f"left behind: {left}"


IMPORTS = '--set=engines.imports=["numpy", "no_such_module"]'


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = Pool(tmp_path_factory.mktemp("pool"), "-n", "2", IMPORTS)
    yield pool
    left = pool.close()
    assert not left, f"left behind: {left}"


def engine_of(client, pid):
    for number in client.ids:
        if client[number].apply_sync(os.getpid) == pid:
            return number


# Start


def test_engines_are_forked_from_one_parent_that_has_imported(pool):
    processes = pool.processes()
    assert {name: len(pids) for name, pids in processes.items() if not name.startswith("ipengine")} == {
        "piparallel": 3,
        "engines": 1,
        "nanny": 1,
    }
    parents = {psutil.Process(pid).ppid() for pid in pool.pids()}
    assert parents == set(processes["engines"])
    assert all(pool.client[:].apply_sync(HERE(lambda: "numpy" in __import__("sys").modules)))
    assert "cannot import no_such_module in advance" in pool.log()


def test_engines_do_not_draw_the_same_random_numbers(pool):
    @HERE
    def draw():
        import random
        import uuid

        import numpy

        return random.random(), float(numpy.random.random()), str(uuid.uuid4())

    assert all(len(set(drawn)) == 2 for drawn in zip(*pool.client[:].apply_sync(draw), strict=True))


def test_engines_end_before_what_looks_after_them_when_memory_runs_out(pool):
    scores = pool.client[:].apply_sync(HERE(lambda: open("/proc/self/oom_score_adj").read()))
    [parent] = pool.processes()["engines"]
    assert all(int(score) > int(Path(f"/proc/{parent}/oom_score_adj").read_text()) for score in scores)


def test_what_an_engine_prints_to_its_terminal_is_logged_with_its_number(pool):
    pool.client[:].execute("import os; os.system(f'echo this is of {os.getpid()}')", block=True)
    for number, pid in zip(pool.client.ids, pool.pids(), strict=True):
        line = f"engine {number}: this is of {pid}"
        until(lambda line=line: line in pool.log(), 10, f"{line} is in the log")


def test_output_for_clients_goes_to_clients(pool):
    result = pool.client[:].execute("print('hello')", block=True)
    until(lambda: result.stdout == ["hello\n", "hello\n"], 10, "the client has it")


# As stock


@pytest.fixture(scope="module", params=[STOCK, OURS])
def either(request, tmp_path_factory):
    """A client of two engines of either kind."""
    if request.param == OURS:
        pool = Pool(tmp_path_factory.mktemp("ours"), "-n", "2")
        yield pool.client
        assert not pool.close()
    else:
        controller = Controller(tmp_path_factory.mktemp("stock")).start()
        yield controller.start_engines(2)
        controller.close()


def test_an_interrupt_stops_the_task(either):
    task = either[0].apply_async(time.sleep, 60)
    time.sleep(0.5)
    either.send_signal(signal.SIGINT, 0, block=True)
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        task.get(timeout=20)
    assert either[0].apply_sync(HERE(lambda: "still there")) == "still there"


def test_signals_reach_the_one_engine_by_number_and_name(either):
    @HERE
    def listen():
        import signal

        heard = globals()["heard"] = []
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))

    either[:].apply_sync(listen)
    for number, sig in enumerate((signal.SIGUSR1, "SIGUSR1"), 1):
        either.send_signal(sig, 1, block=True)
        until(lambda number=number: len(either[1].apply_sync(HERE(lambda: heard))) == number, 10, "it is heard")  # noqa: F821
    assert either[0].apply_sync(HERE(lambda: heard)) == []  # noqa: F821


def test_a_signal_that_does_not_exist_is_an_error(either):
    with pytest.raises(ipp.RemoteError, match="OSError"):
        either.send_signal(999, 0, block=True)


def test_abort_takes_back_what_waits(either):
    first = either[0].apply_async(time.sleep, 1.5)
    second = either[0].apply_async(os.getpid)
    either.abort(second, block=True)
    with pytest.raises(ipp.TaskAborted):
        second.get(timeout=20)
    assert first.get(timeout=20) is None


def test_clear_empties_the_namespace(either):
    either[0].push({"kept": 1}, block=True)
    either.clear(0, block=True)
    with pytest.raises(ipp.RemoteError, match="NameError"):
        either[0]["kept"]


# What ends, and what does not


def test_a_killed_engine_is_started_again_and_spares_the_others(new_pool):
    pool = new_pool("-n", "2")
    client = pool.client
    first, second = pool.pids()
    view = client.load_balanced_view()
    view.retries = 3
    lost = client[0].apply_async(time.sleep, 60)
    retried = [view.apply_async(HERE(lambda: (__import__("time").sleep(1), 5)[1])) for _ in range(4)]
    time.sleep(0.5)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ipp.RemoteError, match="EngineError"):
        lost.get(timeout=20)
    assert [task.get(timeout=30) for task in retried] == [5] * 4
    until(lambda: len(client.ids) == 2 and 0 not in client.ids, 30, "another one has come")
    pids = pool.pids()
    assert second in pids and first not in pids
    assert "was ended by signal 9; another one starts" in pool.log()


def test_an_engine_that_uses_too_much_memory_is_started_again_and_spares_the_others(new_pool):
    pool = new_pool("-n", "2", "--set=engines.memory_limit=400M")
    first, second = pool.pids()
    greedy = pool.client[0].apply_async(HERE(lambda: (bytearray(800 << 20), __import__("time").sleep(60))))
    with pytest.raises(ipp.RemoteError, match="EngineError"):
        greedy.get(timeout=30)
    until(lambda: len(pool.client.ids) == 2, 30, "another one has come")
    assert second in pool.pids() and first not in pool.pids()
    assert "its limit is 400 MB" in pool.log()


def test_engines_that_a_client_shuts_down_are_there_for_others_again(new_pool):
    pool = new_pool("-n", "2")
    pool.client.shutdown(0, block=True)
    until(lambda: len(pool.client.ids) == 2 and 0 not in pool.client.ids, 30, "another one has come")


def test_a_shutdown_by_a_client_is_obeyed_where_that_is_wanted(new_pool):
    pool = new_pool("-n", "2", "--set=engines.revive=false")
    pool.client.shutdown(0, block=True)
    until(lambda: pool.client.ids == [1], 20, "it has left")
    time.sleep(2)
    assert pool.client.ids == [1]


def test_a_shutdown_with_restart_brings_another_engine(new_pool):
    """The client refuses it before it is sent; the message itself is part of the protocol."""
    pool = new_pool("-n", "1")
    [pid] = pool.pids()
    [[ident], _] = pool.client._build_targets(0)
    pool.client._send(pool.client._control_stream, "shutdown_request", content={"restart": True}, ident=ident)
    until(lambda: pool.client.ids and 0 not in pool.client.ids, 30, "another one has come")
    assert pool.pids() != [pid]


def test_the_nanny_is_replaced_when_it_dies(new_pool):
    pool = new_pool("-n", "2")
    pids = pool.pids()
    [nanny] = pool.processes()["nanny"]
    os.kill(nanny, signal.SIGKILL)
    until(lambda: pool.processes().get("nanny", [nanny]) != [nanny], 20, "there is another one")
    task = pool.client[0].apply_async(time.sleep, 60)
    time.sleep(1)
    pool.client.send_signal(signal.SIGINT, 0, block=False)
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        task.get(timeout=30)
    assert pool.pids() == pids


def test_the_warm_parent_is_replaced_when_it_dies(new_pool):
    pool = new_pool("-n", "2")
    [parent] = pool.processes()["engines"]
    pids = pool.pids()
    os.kill(parent, signal.SIGKILL)
    until(lambda: len(pool.client.ids) == 2 and min(pool.client.ids) > 1, 60, "others have come")
    assert not set(pids) & set(pool.pids())


SPAWN = """
import subprocess
subprocess.Popen(["sleep", "1000"])
subprocess.Popen(["sleep", "1000"], start_new_session=True)
subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 0.1"], start_new_session=True)
"""


@pytest.mark.parametrize("victim", ["piparallel", "engines", None])
def test_nothing_survives_whatever_is_killed(new_pool, victim):
    pool = new_pool("-n", "2")
    pool.client[:].execute(SPAWN, block=True)
    until(lambda: len(pool.processes().get("sleep", [])) >= 6, 10, "they run")
    if victim == "engines":
        os.kill(pool.processes()["engines"][0], signal.SIGKILL)
        until(lambda: "sleep" not in pool.processes(), 10, "what engines started is gone")
        return
    pool.process.send_signal(signal.SIGKILL if victim else signal.SIGTERM)
    pool.process.wait(15)
    left = leftovers.wait_gone(pool.marker, 5)
    assert not left


def test_engines_that_are_stopped_leave_no_complaint(new_pool):
    pool = new_pool("-n", "2")
    pool.process.terminate()
    assert pool.process.wait(15) == 0
    assert "Traceback" not in pool.log() and " WARN " not in pool.log(), pool.log()


def test_stopping_lets_a_short_task_finish(new_pool):
    pool = new_pool("-n", "1")
    task = pool.client[0].apply_async(HERE(lambda: (__import__("time").sleep(1.5), "done")[1]))
    time.sleep(0.5)
    pool.process.terminate()
    assert task.get(timeout=10) == "done"
    assert pool.process.wait(15) == 0


def test_engines_have_control_groups_where_the_service_may_make_them(new_pool):
    """As systemd arranges it with `Delegate=yes` and `DelegateSubgroup=daemon`."""
    mounts = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    mount = next((m for m in mounts if (m / "cgroup.procs").exists() and os.access(m, os.W_OK)), None)
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root, and control groups of version 2 that can be written")
    service = mount / f"piparallel-test-{os.getpid()}.service"
    (service / "daemon").mkdir(parents=True)
    try:
        prefix = ["sh", "-c", f'echo $$ > {service}/daemon/cgroup.procs && exec "$0" "$@"']
        pool = new_pool("-n", "1", "--set=engines.memory_limit=2000M", prefix=prefix)
        [pid] = pool.pids()
        assert f"0::/{service.name}/engine-0\n" in Path(f"/proc/{pid}/cgroup").read_text()
        pool.client[:].execute(SPAWN, block=True)
        until(lambda: len(pool.processes().get("sleep", [])) >= 3, 10, "they run")
        os.kill(pid, signal.SIGKILL)
        until(lambda: "sleep" not in pool.processes(), 10, "what the engine started is gone with it")
        until(lambda: pool.client.ids == [1], 30, "another one has come")
        assert not pool.close()
        assert not (service / "engine-0").exists()
    finally:
        (service / "cgroup.kill").write_text("1")
        for group in [*service.iterdir(), service]:
            if group.is_dir():
                until(lambda group=group: removed(group), 10, f"{group} is empty")


def removed(group):
    try:
        group.rmdir()
    except OSError:
        return False
    return True


# Keys


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start engines as another user")
def test_what_clients_send_runs_as_another_user_and_reads_no_key(new_pool, request):
    # Where that user can get to.
    home = tempfile.mkdtemp(prefix="engines-")
    request.addfinalizer(lambda: shutil.rmtree(home))
    user = ["--set=engines.user=nobody", f"--set=engines.dir={home}"]
    pool = new_pool("-n", "1", *user, prefix=for_everybody(), SECRET="of the supervisor")

    @HERE
    def look(files, pid):
        import os

        def reads(path):
            try:
                return bool(open(path, "rb").read())
            except OSError:
                return False

        own = open("/proc/self/environ").read()
        return {
            "user": (os.getuid(), os.geteuid(), os.getgroups() == [os.getgid()]),
            "read": [f for f in [*files, f"/proc/{pid}/environ", f"/proc/{pid}/mem"] if reads(f)],
            "secrets": "SECRET" in own or "SECRET" in os.environ,
            "arguments": open("/proc/self/cmdline").read(),
            "environment": own,
            "can write": os.access(os.getcwd(), os.W_OK),
            "new privileges": "NoNewPrivs:\t1" in open("/proc/self/status").read(),
        }

    state = Path(pool.told().split("--run-dir=")[1].split()[0]).parent.parent
    client_file = pool.profile / "security" / "ipcontroller-client.json"
    files = [str(f) for f in [client_file, *state.rglob("*")] if f.is_file()]
    assert {"node.key", "pool-keys.json", "client-key", "piparallel.toml"} <= {Path(f).name for f in files}
    seen = pool.client[0].apply_sync(look, files, pool.process.pid)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert seen["user"] == (nobody, nobody, True)
    assert seen["read"] == []
    assert not seen["secrets"]
    secret = json.loads(client_file.read_text())
    assert secret["key"] and secret["key"] not in seen["arguments"] + seen["environment"]
    assert seen["can write"] and seen["new privileges"]
    pool.client.send_signal(signal.SIGINT, 0, block=True)


def test_engines_limited_to_known_keys_have_a_control_channel(new_pool):
    """A stock engine has none in a pool that knows its engines: its nanny shows a key that it made up."""
    pool = new_pool("-n", "1")
    task = pool.client[0].apply_async(time.sleep, 60)
    time.sleep(0.5)
    pool.client.send_signal(signal.SIGINT, 0, block=True)
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        task.get(timeout=20)
