"""Fixtures: a pool of virtual Pis that one module shares, for a boot under emulation takes minutes."""

import time

import pytest
from lab import IMAGES, require_tools
from pool import Pool


def pytest_sessionstart(session):
    try:
        require_tools()
    except AssertionError as why:
        pytest.exit(str(why), returncode=2)
    if not (IMAGES / "piparallel-arm64.img").exists():
        pytest.exit("there is no image: run make image ARCH=arm64", returncode=2)


@pytest.fixture(scope="session")
def times():
    """What took how long; printed at the end."""
    measured: dict[str, float] = {}
    yield measured
    for what, seconds in measured.items():
        print(f"\n{what}: {seconds:.0f} s", end="")


@pytest.fixture(scope="module")
def pool(tmp_path_factory, times):
    pool = Pool(tmp_path_factory.mktemp("pis"), size=3)
    try:
        for pi in pool.pis:
            began = time.monotonic()
            pi.power_on()
            pool.wait_for_address(pi, 900)
            times[f"pi {pi.number}: power on → address"] = time.monotonic() - began
        yield pool
    finally:
        pool.close()
