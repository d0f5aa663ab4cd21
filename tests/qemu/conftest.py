"""Fixtures: a pool of virtual Pis that one module shares, for a boot under emulation takes minutes."""

import time

import pytest
from lab import IMAGES, IS_UP, require_tools
from pool import Pool

PATIENCE = 900


def pytest_sessionstart(session):
    try:
        require_tools()
    except AssertionError as why:
        pytest.exit(str(why), returncode=2)
    if not (IMAGES / "piparallel-arm64.img").exists():
        pytest.exit("there is no image: run make image ARCH=arm64", returncode=2)


MEASURED: dict[str, float] = {}


def pytest_terminal_summary(terminalreporter):
    for what, seconds in MEASURED.items():
        terminalreporter.write_line(f"{what}: {seconds:.0f} s")


@pytest.fixture(scope="session")
def times():
    """What took how long; printed at the end."""
    return MEASURED


@pytest.fixture(scope="module")
def pool(tmp_path_factory, times):
    limited = 'count = 2\nmemory_limit = "120M"'
    pool = Pool(tmp_path_factory.mktemp("pis"), size=3, screens=1, engines={2: limited})
    try:
        began = time.monotonic()
        for pi in pool.pis:
            pi.power_on()
        for pi in pool.pis:
            pi.wait_for(IS_UP, PATIENCE)
            pool.wait_for_address(pi, PATIENCE)
        times["power on → all three are up"] = time.monotonic() - began
        yield pool
    finally:
        pool.close()
