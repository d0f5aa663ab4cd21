"""What Buildroot itself says of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tree import DEFCONFIGS, DOWNLOADS, EXTERNAL, PYTHON_PACKAGES, tracked

# Stamps by which Buildroot knows what it has done for a package.
STEPS = "downloaded extracted patched configured built staging_installed images_installed target_installed installed"
HOST_STEPS = "downloaded extracted patched configured built host_installed installed"


class Output:
    """A directory that Buildroot builds in."""

    def __init__(self, buildroot: Path, path: Path, defconfig: Path):
        self.path = path
        self.buildroot = buildroot
        self.make(f"BR2_EXTERNAL={EXTERNAL}", defconfig.name)

    def make(self, *arguments: str) -> str:
        command = ["make", "--no-print-directory", "-C", self.buildroot, f"O={self.path}", f"BR2_DL_DIR={DOWNLOADS}"]
        # Nothing of the `make` that may have started this.
        env = {name: value for name, value in os.environ.items() if not re.fullmatch("ARCH|MAKE.*|MFLAGS", name)}
        ran = subprocess.run(
            [*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, env=env
        )
        assert ran.returncode == 0, f"make {arguments}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"
        return ran.stdout


def test_check_package_is_content(buildroot):
    ran = subprocess.run(
        [sys.executable, buildroot / "utils/check-package", "--br2-external", *tracked("buildroot")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {"PYTHONDONTWRITEBYTECODE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert ran.stdout == ""
    assert "\n0 warnings generated" in ran.stderr


@pytest.mark.parametrize("defconfig", DEFCONFIGS, ids=lambda path: path.stem)
def test_defconfig_keeps_all_its_settings(buildroot, defconfig, tmp_path):
    output = Output(buildroot, tmp_path / "out", defconfig)
    config = set((output.path / ".config").read_text().splitlines())
    wanted = defconfig.read_text().splitlines()
    assert [line for line in wanted if line not in config] == []
    # Nor is a setting there that says nothing.
    output.make("savedefconfig", f"BR2_DEFCONFIG={tmp_path / 'saved'}")
    assert (tmp_path / "saved").read_text().splitlines() == wanted

    packages = json.loads(output.make("-s", "show-info").splitlines()[-1])
    ours = {package.name for package in PYTHON_PACKAGES} | {"piparallel"}
    assert ours <= packages.keys()
    assert {"systemd", "python3", "python-numpy", "python-scipy", "linux", "host-genimage"} <= packages.keys()
    firmware = [name for name in packages if name == "rpi-firmware"]
    assert firmware == ([] if "qemu" in defconfig.name else ["rpi-firmware"])


@pytest.fixture(scope="module")
def output(buildroot, tmp_path_factory):
    """All packages but ours are taken for built, and this machine's Python and Rust for Buildroot's."""
    (defconfig,) = [path for path in DEFCONFIGS if "qemu" in path.name]
    output = Output(buildroot, tmp_path_factory.mktemp("buildroot") / "out", defconfig)
    for name, package in json.loads(output.make("-s", "show-info").splitlines()[-1]).items():
        if "stamp_dir" not in package or EXTERNAL in Path(package["package_dir"]).parents:
            continue
        stamps = output.path / package["stamp_dir"]
        stamps.mkdir(parents=True, exist_ok=True)
        for step in (HOST_STEPS if name.startswith("host-") else STEPS).split():
            (stamps / f".stamp_{step}").touch()
    tools = output.path / "host" / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    # A machine that has an older one builds its own.
    (tools / "tar").symlink_to(shutil.which("tar"))
    # Its own Python would find modules and settings of the Pi by these.
    python = tools / "python3"
    python.write_text(
        "#!/bin/sh\n"
        "unset PYTHONPATH _PYTHON_SYSCONFIGDATA_NAME _PYTHON_HOST_PLATFORM _PYTHON_PROJECT_BASE\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return output


def test_python_packages_are_built_and_installed(output, sdist):
    for package in PYTHON_PACKAGES:
        sdist(package)
    output.make(*(package.name for package in PYTHON_PACKAGES))
    target = output.path / "target"
    (site_packages,) = target.glob("usr/lib/python3.*/site-packages")
    for package in PYTHON_PACKAGES:
        assert (site_packages / f"{package.project}-{package.version}.dist-info/METADATA").exists()
    assert (target / "usr/bin/ipengine").read_text().startswith("#!/usr/bin/python\n")
    # What belongs to no Python goes where Jupyter looks.
    assert (target / "usr/share/jupyter").is_dir()
    assert [path.name for path in target.iterdir() if path.is_dir()] == ["usr"]
    assert list(site_packages.rglob("*.c")) == []


def test_licenses_are_found(output, sdist):
    for package in PYTHON_PACKAGES:
        sdist(package)
    said = output.make(*(f"{package.name}-legal-info" for package in PYTHON_PACKAGES))
    for package in PYTHON_PACKAGES:
        for name in package.variables["LICENSE_FILES"].split():
            assert f"{name}: OK (sha256: {package.hashes[name]})" in said


def test_the_daemon_s_source_comes_with_all_crates(output):
    output.make("piparallel-extract")
    (source,) = (output.path / "build").glob("piparallel-*")
    assert (source / "image/install-data").exists()
    subprocess.run(
        ["cargo", "metadata", "--offline", "--locked", "--format-version=1"],
        check=True,
        cwd=source / "daemon",
        stdout=subprocess.DEVNULL,
        timeout=120,
        env=os.environ | {"CARGO_HOME": str(output.path / "no-crates")},
    )
