"""What can be said of the tree without Buildroot."""

import hashlib
import json
import re
import subprocess
import tarfile
from email import message_from_bytes

import pytest
from conftest import fetch
from packaging.requirements import Requirement
from tree import DEFCONFIGS, EXTERNAL, PYTHON_PACKAGES, buildroot_name, tracked

# What a board is made of. All else is the same on all of them.
BOARD = re.compile(
    r"BR2_(aarch64|arm|cortex_\w+|ARM_FPU_\w+|TIME_BITS_64|GLOBAL_PATCH_DIR|LINUX_KERNEL_(?!NEEDS_HOST)\w+"
    r"|PACKAGE_(RPI_FIRMWARE\w*|HOST_KMOD_XZ|IWD|WIRELESS_REGDB|BRCMFMAC\w+|UTIL_LINUX_RFKILL))="
)

each_package = pytest.mark.parametrize("package", PYTHON_PACKAGES, ids=lambda package: package.name)


def test_every_package_is_in_the_menu():
    menu = re.findall(r"package/([\w-]+)/Config\.in", (EXTERNAL / "Config.in").read_text())
    assert sorted(menu) == sorted(path.name for path in (EXTERNAL / "package").iterdir())


def test_boards_differ_in_their_hardware_only():
    common = {
        path.name: {line for line in path.read_text().splitlines() if not BOARD.match(line)} for path in DEFCONFIGS
    }
    assert len(common) == 6
    everywhere = set.intersection(*common.values())
    assert {name: lines - everywhere for name, lines in common.items() if lines != everywhere} == {}


def test_shell_scripts_are_clean():
    scripts = [path for path in tracked("buildroot") if path.suffix == ".sh"]
    ran = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, timeout=60)
    assert (len(scripts), ran.stdout) == (2, "")


@each_package
def test_hash_is_the_one_that_pypi_publishes(package):
    published = json.loads(fetch(f"https://pypi.org/pypi/{package.project}/json"))["releases"][package.version]
    (sdist,) = [file for file in published if file["packagetype"] == "sdist"]
    assert sdist["filename"] == package.source
    assert sdist["digests"]["sha256"] == package.hashes[package.source]
    # The index may be a mirror with addresses of its own, the end is the same.
    path = package.variables["SITE"].removeprefix("https://files.pythonhosted.org/packages/")
    assert sdist["url"].endswith(f"/{path}/{package.source}")


@each_package
def test_licenses_have_their_hashes(package, sdist):
    files = package.variables["LICENSE_FILES"].split()
    with tarfile.open(sdist(package)) as archive:
        top = package.source.removesuffix(".tar.gz")
        found = {name: hashlib.sha256(archive.extractfile(f"{top}/{name}").read()).hexdigest() for name in files}
    assert found == {name: package.hashes.get(name) for name in files}


def requirements(package, sdist) -> list[Requirement]:
    """What a package needs at run time on a Pi."""
    with tarfile.open(sdist(package)) as archive:
        metadata = archive.extractfile(f"{package.source.removesuffix('.tar.gz')}/PKG-INFO").read()
    lines = message_from_bytes(metadata).get_all("Requires-Dist", [])
    environment = {"extra": "", "platform_system": "Linux", "sys_platform": "linux", "python_version": "3.14"}
    return [
        requirement
        for requirement in map(Requirement, lines)
        if not requirement.marker or requirement.marker.evaluate(environment)
    ]


@each_package
def test_what_it_requires_is_selected(package, sdist):
    required = {
        buildroot_name(requirement.name).upper().replace("-", "_") for requirement in requirements(package, sdist)
    }
    # Modules of Python itself are in no metadata.
    assert {name for name in package.selected if not name.startswith("PYTHON3_")} == required


@each_package
def test_what_it_requires_is_new_enough(package, sdist, buildroot):
    ours = {each.name: each.version for each in PYTHON_PACKAGES}
    for requirement in requirements(package, sdist):
        name = buildroot_name(requirement.name)
        if name in ours:
            version = ours[name]
        else:
            text = (buildroot / "package" / name / f"{name}.mk").read_text()
            version = re.search(r"^\w+_VERSION = (\S+)$", text, re.MULTILINE)[1]
        assert requirement.specifier.contains(version), f"{requirement}, but {name} is {version}"
