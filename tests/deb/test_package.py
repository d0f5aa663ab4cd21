"""The life of the package on a clean Debian with systemd: the tests are steps, in this order."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from machine import ROOT, Machine

PATIENCE = 60
LATER = "99.0"
CLIENT = "ipp.Client('/var/lib/piparallel/controller/security/ipcontroller-client.json', timeout=30)"


def build(version: str | None = None) -> Path:
    """Build the package for this machine."""
    env = os.environ | ({"DEB_VERSION": version} if version else {})
    ran = subprocess.run(
        [ROOT / "image/deb/build", "amd64"], check=True, capture_output=True, text=True, env=env, timeout=120
    )
    return ROOT / ran.stdout.split()[0]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("machine"), "clean")
    yield machine
    machine.close()


def pid(machine) -> str:
    return machine.properties("piparallel.service", "MainPID")[0]


def wait_until_active(machine):
    machine.until(
        lambda: machine.properties("piparallel.service", "ActiveState") == ["active"],
        PATIENCE,
        f"piparallel is active; {machine.run('journalctl', '--unit=piparallel', '--no-pager', check=False)[-2000:]}",
    )


def test_two_builds_give_the_same(tmp_path):
    first = build().read_bytes()
    assert build().read_bytes() == first


def test_every_machine_gets_its_own_package():
    for arch in ("arm64", "armhf"):
        package = ROOT / "target/deb" / build().name.replace("amd64", arch)
        if not package.exists():
            pytest.skip(f"make deb ARCH={arch} has not run")
        fields = subprocess.run(
            ["dpkg-deb", "--field", package, "Architecture"], check=True, capture_output=True, text=True
        )
        assert fields.stdout.strip() == arch


def test_install_starts_the_node(machine):
    machine.run("dpkg", "--install", machine.put(build()))
    wait_until_active(machine)
    assert machine.properties("piparallel.service", "User", "UnitFileState") == ["piparallel", "enabled"]
    assert machine.properties("piparallel.target", "UnitFileState") == ["enabled"]
    said = machine.until(
        lambda: re.fullmatch(
            r"controller of piparallel; nodes: 1, engines here: (\d+) of \1",
            *machine.properties("piparallel.service", "StatusText"),
        ),
        PATIENCE,
        "all engines are in",
    )
    assert int(said[1]) > 0
    users = machine.read("/etc/passwd")
    assert "\npiparallel:" in users and "\npiparallel-engine:" in users
    state = machine.run("stat", "--format=%a %U", "/var/lib/piparallel").split()
    assert state == ["700", "piparallel"]


def test_a_client_computes_on_its_engines(machine):
    """The unit leaves the node and its engines what they need."""
    work = "rc.wait_for_engines(1, timeout=60); print(rc[0].apply_sync(abs, -42))"
    assert machine.run("python3", "-c", f"import ipyparallel as ipp; rc = {CLIENT}; {work}") == "42\n"


def test_a_stop_lets_tasks_finish_and_takes_no_longer(machine):
    """Longer than the watchdog's patience."""
    stop = "subprocess.Popen(['systemctl', 'stop', 'piparallel'])"
    work = "task = rc.load_balanced_view().apply_async(time.sleep, 25); time.sleep(1)"
    code = f"rc = {CLIENT}; rc.wait_for_engines(1, timeout=60); {work}; {stop}; task.get(timeout=60); print('rested')"
    assert machine.run("python3", "-c", f"import subprocess, time; import ipyparallel as ipp; {code}") == "rested\n"
    units = ("piparallel.service", "piparallel-engines.service")
    for unit in units:
        machine.until(lambda unit=unit: machine.properties(unit, "ActiveState") == ["inactive"], 10, f"{unit} ends")
        assert machine.properties(unit, "Result") == ["success"]
    assert machine.run("pgrep", "--uid", "piparallel-engine", check=False) == ""
    machine.run("systemctl", "start", "piparallel")
    assert machine.properties("piparallel.service", "ActiveState") == ["active"]


def test_users_code_has_no_rights(machine):
    engine = machine.until(
        lambda: machine.run("pgrep", "--uid", "piparallel-engine", check=False).split(), PATIENCE, "engines run"
    )[0]
    status = dict(re.findall(r"(?m)^(\w+):\t(.*)$", machine.read(f"/proc/{engine}/status")))
    assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [0, 0, 0]
    assert status["NoNewPrivs"] == "1"
    assert "piparallel-engines.slice/piparallel-engines.service" in machine.read(f"/proc/{engine}/cgroup")


def test_users_code_cannot_read_the_state(machine):
    read = ["wc", "-c", "/var/lib/piparallel/node.key"]
    assert machine.run("runuser", "-u", "piparallel-engine", "--", *read, check=False) == ""
    assert machine.run(*read) != ""


def test_what_is_configured_holds_after_a_restart(machine):
    before = pid(machine)
    machine.run("sed", "-i", 's/^# pool = .*/pool = "mine"/', "/etc/piparallel/piparallel.toml")
    machine.run("systemctl", "--no-block", "restart", "piparallel")
    machine.until(lambda: pid(machine) not in ("0", before), PATIENCE, "another process runs")
    wait_until_active(machine)
    assert 'pool = "mine"' in machine.run("piparallel", "config")


def test_every_option_is_a_comment_in_the_installed_file(machine):
    packaged = machine.run("sh", "-c", "piparallel config --reference")
    keys = re.findall(r"(?m)^(?:# )?([a-z_]+) = ", packaged)
    installed = machine.read("/etc/piparallel/piparallel.toml")
    assert all(re.search(rf"(?m)^(?:# )?{key} = ", installed) for key in keys)
    assert re.findall(r"(?m)^\w+ = .*", installed) == ['pool = "mine"']


def test_an_upgrade_keeps_the_configuration_and_the_identity(machine):
    key = machine.run("sha256sum", "/var/lib/piparallel/node.key")
    before = pid(machine)
    machine.run("dpkg", "--install", machine.put(build(LATER)))
    machine.until(lambda: pid(machine) not in ("0", before), PATIENCE, "the node was started anew")
    wait_until_active(machine)
    assert machine.run("dpkg-query", "--show", "--showformat=${Version}", "piparallel") == LATER
    assert 'pool = "mine"' in machine.read("/etc/piparallel/piparallel.toml")
    assert machine.run("sha256sum", "/var/lib/piparallel/node.key") == key


def test_a_killed_node_is_started_again(machine):
    before = pid(machine)
    machine.run("kill", "-KILL", before)
    machine.until(lambda: pid(machine) not in ("0", before), PATIENCE, "another process runs")
    wait_until_active(machine)


def test_a_node_that_stands_still_is_killed_and_started_again(machine):
    before = pid(machine)
    machine.run("kill", "-STOP", before)
    machine.until(lambda: pid(machine) not in ("0", before), PATIENCE, "another process runs")
    wait_until_active(machine)
    assert "watchdog" in machine.run("journalctl", "--unit=piparallel", "--no-pager")


def test_a_node_without_a_pool_says_so_and_is_not_ready(machine):
    machine.run("mkdir", "-p", "/run/piparallel/piparallel.toml.d")
    machine.run("sh", "-c", "echo 'role = \"engine\"' > /run/piparallel/piparallel.toml.d/test.toml")
    machine.run("systemctl", "--no-block", "restart", "piparallel")
    machine.until(
        lambda: (
            machine.properties("piparallel.service", "ActiveState", "StatusText")
            == ["activating", "looks for the controller of mine"]
        ),
        PATIENCE,
        f"it looks for its pool: {machine.properties('piparallel.service', 'ActiveState', 'StatusText')}",
    )
    assert machine.properties("multi-user.target", "ActiveState") == ["active"]
    machine.run("rm", "-r", "/run/piparallel/piparallel.toml.d")
    machine.run("systemctl", "restart", "piparallel")
    wait_until_active(machine)


def test_stop_and_start_do_what_they_say(machine):
    machine.run("systemctl", "stop", "piparallel")
    assert machine.properties("piparallel.service", "ActiveState", "Result") == ["inactive", "success"]
    # The job of the other service goes on for a moment.
    machine.until(lambda: machine.run("pgrep", "--uid", "piparallel-engine", check=False) == "", 5, "no engine is left")
    machine.run("systemctl", "start", "piparallel")
    wait_until_active(machine)


def test_a_node_that_was_disabled_stays_disabled_through_an_upgrade(machine):
    machine.run("systemctl", "disable", "--now", "piparallel")
    machine.run("dpkg", "--install", machine.put(build(LATER)))
    assert machine.properties("piparallel.service", "ActiveState", "UnitFileState") == ["inactive", "disabled"]
    machine.run("systemctl", "enable", "--now", "piparallel")
    wait_until_active(machine)


def test_remove_keeps_what_a_reinstallation_needs(machine):
    machine.run("dpkg", "--remove", "piparallel")
    assert machine.properties("piparallel.service", "ActiveState") == ["inactive"]
    assert not machine.exists("/usr/bin/piparallel")
    assert machine.exists("/var/lib/piparallel/node.key") and machine.exists("/etc/piparallel/piparallel.toml")


def test_purge_leaves_nothing(machine):
    machine.run("dpkg", "--purge", "piparallel")
    for place in ("/etc", "/var/lib", "/var/cache", "/run", "/usr/lib", "/usr/share"):
        left = machine.run("find", place, "-xdev", "-name", "*piparallel*", "-not", "-path", "*/dpkg/*", check=False)
        left = [path for path in left.split() if not path.startswith("/run/piparallel_")]
        assert left == []
    assert machine.run("systemctl", "--failed", "--no-legend", "--plain") == ""
