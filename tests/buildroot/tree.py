"""What buildroot/ says, read from its files, and the Buildroot that it is for."""

import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXTERNAL = ROOT / "buildroot"
DEFCONFIGS = sorted((EXTERNAL / "configs").iterdir())
# As Buildroot arranges what it downloads, so that it finds there what was fetched here.
DOWNLOADS = ROOT / "target" / "buildroot" / "dl"


def tracked(*directories: str) -> list[Path]:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", *directories], check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split()]


@dataclass(frozen=True)
class PythonPackage:
    """A Python package of ours."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def symbol(self) -> str:
        return self.name.upper().replace("-", "_")

    @cached_property
    def variables(self) -> dict[str, str]:
        """Of its .mk, without the prefix."""
        text = (self.directory / f"{self.name}.mk").read_text()
        found = dict(re.findall(rf"^{self.symbol}_(\w+) = (.*)$", text, re.MULTILINE))
        return {name: value.replace(f"$({self.symbol}_VERSION)", found["VERSION"]) for name, value in found.items()}

    @property
    def version(self) -> str:
        return self.variables["VERSION"]

    @property
    def source(self) -> str:
        return self.variables["SOURCE"]

    @property
    def project(self) -> str:
        """Its name on PyPI."""
        return self.source.removesuffix(f"-{self.version}.tar.gz")

    @property
    def hashes(self) -> dict[str, str]:
        lines = (self.directory / f"{self.name}.hash").read_text().splitlines()
        fields = [line.split() for line in lines if not line.startswith("#")]
        return {name: value for kind, value, name in fields if kind == "sha256"}

    @property
    def selected(self) -> set[str]:
        text = (self.directory / "Config.in").read_text()
        return set(re.findall(r"^\tselect BR2_PACKAGE_(\w+)", text, re.MULTILINE))


PYTHON_PACKAGES = [PythonPackage(path) for path in sorted((EXTERNAL / "package").glob("python-*"))]


def buildroot_name(project: str) -> str:
    """What Buildroot calls a project of PyPI."""
    return "python-" + re.sub(r"[-_.]+", "-", project.lower()).removeprefix("python-")
