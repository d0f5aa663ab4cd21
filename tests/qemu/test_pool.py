"""Three cards, one join key: what a user sees, from the first boot on. The tests are steps, in this order."""

import json
import time

from lab import until

PATIENCE = 900
# One on each Pi, two on the second.
ENGINES = 4

WORK = """
import ipyparallel as ipp
client = ipp.Client(timeout=60)
view = client[:]
print(view.apply_sync(lambda: __import__("platform").machine()))
print(client.load_balanced_view().map_sync(lambda x: x * x, range(20)))
def determinant():
    import numpy
    return float(numpy.linalg.det(numpy.eye(50) * 1.0))
print(view.apply_sync(determinant))
"""


def wait_for_engines(pool, number: int, what: str):
    until(lambda: pool.engines() == number, PATIENCE, lambda: f"{number} engines {what}: {pool.nodes()}")


def test_every_pi_comes_up_with_nothing_failed(pool):
    for pi in pool.pis:
        pool.wait_for_ssh(pi, PATIENCE)
        assert pool.on(pi, "hostname") == f"pi-{pi.number}\n"
        assert pool.on(pi, "systemctl", "--failed", "--no-legend", "--plain") == ""
        journal = pool.on(pi, "sudo", "journalctl", "--boot", "--no-pager")
        assert "ordering cycle" not in journal
        assert "Job .* deleted to break" not in journal


def test_they_join_with_the_key_of_their_cards_and_work(pool, times):
    pool.connect()
    began = time.monotonic()
    wait_for_engines(pool, ENGINES, "work")
    times["connected → all engines in client.ids"] = time.monotonic() - began
    lines = pool.python(WORK).splitlines()
    assert lines[0] == str(["aarch64"] * ENGINES)
    assert lines[1] == str([x * x for x in range(20)])
    assert lines[2] == str([1.0] * ENGINES)


def test_the_screen_of_the_controller_says_what_it_is_and_what_to_do(pool):
    pi = pool.controller
    fingerprint = json.loads(pool.on(pi, "piparallel", "state", "--json"))["fingerprint"]
    shown = pool.on(pi, "sudo", "cat", "/dev/vcs1")
    for words in ("pi-1", pi.address(), fingerprint, "controller of lab", "piparallel connect lab"):
        assert words in shown, f"{words} in {shown}"


def test_the_system_is_read_only_and_the_state_is_not(pool):
    pi = pool.controller
    mounts = {}
    for line in pool.on(pi, "cat", "/proc/mounts").splitlines():
        _, target, kind, options, *_ = line.split()
        mounts[target] = (kind, options.split(",")[0])
    assert mounts["/"] == ("squashfs", "ro")
    assert mounts["/boot/firmware"] == ("vfat", "ro")
    assert mounts["/data"] == ("ext4", "rw")
    assert "/var/lib/piparallel" in mounts
    assert pool.on(pi, "sudo", "touch", "/usr/x", check=False) == ""
    size = int(pool.on(pi, "df", "--output=size", "--block-size=1M", "/data").split()[1])
    assert size > 2000, "it has grown to the card"
    assert pool.on(pi, "cat", "/proc/swaps").count("zram") == 1
    assert pool.on(pi, "sudo", "ls", "/var/log/journal", check=False) == ""


def test_secrets_are_no_longer_on_the_boot_partition(pool):
    text = pool.on(pool.controller, "cat", "/boot/firmware/piparallel.toml")
    assert pool.key not in text and 'join_key = ""' in text


def test_nobody_can_log_in_with_a_password(pool):
    shadow = pool.on(pool.controller, "sudo", "cat", "/etc/shadow")
    passwords = [line.split(":")[1] for line in shadow.splitlines()]
    assert all(password.startswith(("!", "*")) for password in passwords)


def test_each_pi_is_itself(pool):
    ids = {pool.on(pi, "cat", "/etc/machine-id") for pi in pool.pis}
    assert len(ids) == len(pool.pis)
    keys = {pool.on(pi, "cat", "/data/ssh/ssh_host_ed25519_key.pub", check=False) for pi in pool.pis}
    keys |= {pool.on(pi, "sudo", "cat", "/data/ssh/ssh_host_ed25519_key.pub") for pi in pool.pis}
    assert len(keys - {""}) == len(pool.pis)


LIBRARIES = "numpy scipy.linalg scipy.stats dask.array distributed mpi4py.MPI matplotlib.pyplot ipykernel notebook"


def test_the_libraries_of_the_card_are_whole(pool):
    imports = "; ".join(f"import {name}" for name in LIBRARIES.split())
    command = f"'{imports}; print(scipy.linalg.det(numpy.eye(3)))'"
    assert pool.pis[2].ssh(pool.ssh_key, "python3", "-c", command, timeout=PATIENCE) == "1.0\n"


HUNGRY = """
import ipyparallel as ipp
client = ipp.Client(timeout=60)
hosts = client[:].apply_async(lambda: __import__("socket").gethostname()).get_dict()
hungry_one, *others = [engine for engine, host in hosts.items() if host == "{host}"]
def work():
    import time
    time.sleep(20)
    return "done"
def hungry():
    import os
    taken = []
    while True:
        taken.append(os.urandom(4 << 20))
beside = [client[engine].apply_async(work) for engine in others]
try:
    client[hungry_one].apply_sync(hungry)
except Exception as lost:
    print(lost.ename)
print([result.get(300) for result in beside])
"""

UNITS = ("piparallel.service", "piparallel-engines.service", "ssh.service", "systemd-journald.service")


def starts(pool, pi) -> str:
    """When each service has begun, which tells whether one had to be started anew."""
    return pool.on(pi, "systemctl", "show", "--property=Id,MainPID,NRestarts", *UNITS)


def killed(pool, pi) -> str:
    """Whom the kernel ended for want of memory. It says so itself: the journal may be late after such a moment."""
    return pool.on(pi, "sudo", "sh", "-c", "'dmesg | grep \"Killed process\"'", check=False)


def test_an_engine_over_its_limit_ends_and_the_one_beside_it_works_on(pool):
    pi = pool.pis[1]
    assert pool.python(HUNGRY.format(host="pi-2"), timeout=PATIENCE).splitlines() == ["EngineError", "['done']"]
    wait_for_engines(pool, ENGINES, "work again")
    group = "/sys/fs/cgroup/piparallel.slice/piparallel-engines.slice/piparallel-engines.service"
    limits = pool.on(pi, "sudo", "sh", "-c", f"'cat {group}/engine-*/memory.max {group}/engine-*/memory.swap.max'")
    assert limits.split() == [str(120 << 20)] * 2 + ["0"] * 2
    # Whoever looked first: those who run the engine count what it shares with others too.
    journal = pool.on(pi, "sudo", "journalctl", "--boot", "--no-pager", "--unit=piparallel-engines")
    assert "its limit is 120 MB" in journal or "Memory cgroup out of memory" in killed(pool, pi)


def test_a_task_without_bounds_ends_its_engine_and_nothing_else(pool):
    pi = pool.pis[2]
    limit = pool.on(pi, "cat", "/sys/fs/cgroup/piparallel.slice/piparallel-engines.slice/memory.max")
    assert limit.strip().isdigit(), "the kernel limits memory"
    before = starts(pool, pi)
    assert pool.python(HUNGRY.format(host="pi-3"), timeout=PATIENCE).splitlines() == ["EngineError", "[]"]
    # An engine that does not answer for want of memory is given up before the kernel ends it.
    until(lambda: "(ipengine" in killed(pool, pi), PATIENCE, "the kernel ends the engine")
    wait_for_engines(pool, ENGINES, "work again")
    # What was not in use meanwhile has to be read again.
    pool.wait_for_ssh(pi, PATIENCE)
    assert starts(pool, pi) == before
    assert "(piparallel" not in killed(pool, pi)
    assert pool.python(WORK).splitlines()[1] == str([x * x for x in range(20)])


def test_a_stopped_node_leaves_and_the_pool_goes_on(pool):
    pool.on(pool.pis[1], "sudo", "systemctl", "stop", "piparallel")
    wait_for_engines(pool, ENGINES - 2, "are left")
    assert pool.python(WORK).splitlines()[1] == str([x * x for x in range(20)])


def test_a_pi_without_power_is_noticed_and_comes_back(pool, times):
    pool.pis[2].power_off()
    wait_for_engines(pool, 1, "is left")
    began = time.monotonic()
    pool.pis[2].power_on()
    wait_for_engines(pool, 2, "work again")
    times["pi 3: power on → its engine in client.ids"] = time.monotonic() - began
    pool.on(pool.pis[1], "sudo", "systemctl", "start", "piparallel")
    wait_for_engines(pool, ENGINES, "work again")


def test_a_mistake_on_the_card_is_reported_and_leaves_the_pi_reachable(pool):
    pi = pool.pis[1]
    pi.power_off()
    pi.write("piparallel.toml", pool.options(pi.number).replace('role = "engine"', 'role = "boss"'))
    pi.power_on()
    pool.wait_for_ssh(pi, PATIENCE)
    report = pool.on(pi, "cat", "/boot/firmware/piparallel-errors.txt")
    assert "role" in report and "boss" in report
    assert "boss" in pool.on(pi, "systemctl", "show", "--property=StatusText", "piparallel")
    until(lambda: "has mistakes" in pi.console(), 60, lambda: f"the screen says so: {pi.console()[-2000:]}")
    wait_for_engines(pool, ENGINES, "work, for what was right before still holds")
