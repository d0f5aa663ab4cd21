"""Fixtures of the network lab. Where no lab can be made the run ends with an error, not with skipped tests."""

import pytest
from lab import Lab, can_make_namespaces
from node import BINARY, Pool


def pytest_report_header(config):
    return f"program under test: {BINARY}"


def pytest_sessionstart(session):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: run make build, or name the binary in PIPARALLEL_BIN", returncode=2)
    if why := can_make_namespaces():
        pytest.exit(f"no network namespaces here: {why}", returncode=2)


@pytest.fixture
def lab():
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def pool(lab, tmp_path):
    """Nodes on machines of the lab; what they leave behind after SIGTERM fails the test."""
    pool = Pool(lab, tmp_path)
    yield pool
    left = pool.close()
    assert not left, f"left behind after SIGTERM: {left}"
