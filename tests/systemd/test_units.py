"""The units, as systemd itself judges them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parent.parent.parent / "systemd"
UNITS = SYSTEMD / "system"
# Newer than the systemd of Debian 12, which passes over them; Debian 13 and the card know them.
LATER = ("DelegateSubgroup", "RestartSteps", "RestartMaxDelaySec")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root directory with the units, the program they start, and the users they run as."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(UNITS, root / "usr/lib/systemd/system")
    # Targets and slices that ours refer to.
    for unit in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(unit, root / "usr/lib/systemd/system", follow_symlinks=False)
    program = root / "usr/bin/piparallel"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    shutil.copytree(SYSTEMD / "sysusers.d", root / "usr/lib/sysusers.d")
    (root / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True)
    return root


def complaints(output: str) -> list[str]:
    """What systemd says of our units, but for options that it is too old for."""
    lines = [line for line in output.splitlines() if "piparallel" in line]
    return [line for line in lines if not any(f"'{key}'" in line for key in LATER)]


@pytest.mark.parametrize("unit", sorted(unit.name for unit in UNITS.iterdir()))
def test_systemd_has_no_complaint(root, unit):
    ran = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=yes", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert complaints(ran.stderr) == []


def test_a_mistake_would_be_found(root):
    unit = root / "usr/lib/systemd/system/piparallel-wrong.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/piparallel\nNoSuchOption=yes\n")
    ran = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", unit.name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    unit.unlink()
    assert complaints(ran.stderr)


# The node has the keys; the engines run code of users.
@pytest.mark.parametrize(("unit", "most"), [("piparallel.service", 2.0), ("piparallel-engines.service", 2.5)])
def test_little_is_exposed(unit, most):
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", ran.stdout)
    assert level, ran.stderr
    assert float(level[1]) <= most, ran.stdout


def test_users_are_made_once(root):
    before = (root / "etc/passwd").read_text()
    assert re.findall(r"(?m)^piparallel[a-z-]*", before) == ["piparallel", "piparallel-engine"]
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True)
    assert (root / "etc/passwd").read_text() == before


def test_the_light_may_be_set_by_the_node(root):
    light = root / "sys/class/leds/ACT"
    light.mkdir(parents=True)
    (light / "brightness").touch(0o644)
    subprocess.run(
        ["systemd-tmpfiles", f"--root={root}", "--create", SYSTEMD / "tmpfiles.d/piparallel.conf"], check=True
    )
    assert (light / "brightness").stat().st_mode & 0o777 == 0o664
