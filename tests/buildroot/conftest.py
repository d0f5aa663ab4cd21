"""Where Buildroot is, and what is downloaded."""

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tree import DOWNLOADS, ROOT, PythonPackage


@pytest.fixture(scope="session")
def buildroot() -> Path:
    """Buildroot's source."""
    given = os.environ.get("BUILDROOT")
    path = Path(given) if given else ROOT / "target" / "buildroot" / "src"
    if not (path / "package/pkg-generic.mk").exists():
        pytest.skip(f"there is no Buildroot at {path} (make buildroot-test BUILDROOT=a checkout of 2026.08)")
    return path


def fetch(url: str) -> bytes:
    """What is at a URL. Skips the test where the network does not lead there."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.read()
    except urllib.error.HTTPError:
        raise
    except OSError as cause:
        pytest.skip(f"cannot reach {url}: {cause}")


@pytest.fixture(scope="session")
def sdist():
    """The source of a package of ours, as Buildroot would download it."""

    def path(package: PythonPackage) -> Path:
        path = DOWNLOADS / package.name / package.source
        if not path.exists():
            content = fetch(f"{package.variables['SITE']}/{package.source}")
            assert hashlib.sha256(content).hexdigest() == package.hashes[package.source]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path

    return path
