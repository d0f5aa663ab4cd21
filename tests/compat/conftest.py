"""Fixtures of the black-box tests: controllers, raw peers, and an end to everything they started."""

import pytest
from peers import FakeEngine, Peer, RawClient
from subject import BINARY, COMMAND, SUBJECT, Controller, until


def pytest_report_header(config):
    return f"controller under test: {SUBJECT} ({COMMAND[0]})"


def pytest_sessionstart(session):
    if SUBJECT == "ours" and not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: run make build, or name the binary in PIPARALLEL_BIN", returncode=2)


def new_controllers(tmp_path):
    """Yield a function that makes controllers, each in a directory of its own; end them all after the test."""
    made = []

    def make(*arguments, **more):
        made.append(Controller(tmp_path / f"pool{len(made)}", *arguments, **more))
        return made[-1]

    yield make
    left = [process for controller in made for process in controller.close().values()]
    assert SUBJECT == "stock" or not left, f"left behind after SIGTERM: {left}"


@pytest.fixture
def new_controller(tmp_path):
    """`new_controller(*arguments)`: a controller that is not started yet."""
    yield from new_controllers(tmp_path)


@pytest.fixture
def controller(new_controller):
    """A running controller with fast heartbeats."""
    return new_controller("--ping=100").start()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A controller with three real engines, shared by a module, and a client of it."""
    for make in new_controllers(tmp_path_factory.mktemp("pool")):
        yield make("--ping=100").start().start_engines(3)


@pytest.fixture
def new_peer():
    """`new_peer(RawClient or FakeEngine, info)`: a raw peer that is closed after the test."""
    made: list[Peer] = []

    def make(kind, info, **more):
        made.append(kind(info, **more))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def raw_client(controller, new_peer):
    return new_peer(RawClient, controller.info("client"))


@pytest.fixture
def new_engine(controller, new_peer, raw_client):
    """`new_engine()`: a raw engine that the hub has registered and announced."""

    def make(**more):
        engine = new_peer(FakeEngine, controller.info("engine"))
        reply = engine.register(**more)
        assert reply is not None and reply.content["status"] == "ok", reply
        until(lambda: engine.uuid in raw_client.engines().values(), 10, "a registered engine is listed")
        return engine

    return make
