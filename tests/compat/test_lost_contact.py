"""Engines that die, freeze or lose their network; controllers that die and come back."""

import json
import os
import signal
import time

import ipyparallel as ipp
import pytest
from peers import FakeEngine, RawClient
from proxy import Proxy
from subject import is_open, stock_defect, until

# With these a silent engine is given up after a second or so.
IMPATIENT = ("--ping=100", "--HeartMonitor.max_heartmonitor_misses=5")


@pytest.fixture
def impatient(new_controller):
    return new_controller(*IMPATIENT).start()


@pytest.fixture
def proxied(impatient):
    """A real engine behind a network that can be cut: the client, the network."""
    proxy = Proxy(impatient.ports())
    file = impatient.home / "through-the-proxy.json"
    file.write_text(json.dumps(proxy.translate(impatient.info("engine"))))
    impatient.spawn_engine(f"--file={file}")
    client = impatient.client()
    client.wait_for_engines(1, timeout=30)
    yield client, proxy
    proxy.close()


def pid_when_back(client):
    """Wait until an engine is listed again and does its work; its process id, to see that it is the same one."""
    until(lambda: client.ids, 10, "the engine is listed again")
    return client[client.ids[0]].apply_async(os.getpid).get(timeout=10)


@stock_defect("an engine that was given up stays deaf for ever")
def test_an_engine_that_was_frozen_comes_back(impatient):
    client = impatient.start_engines(1)
    pid = client[0].apply_sync(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not client.ids, 15, "the frozen engine is given up")
    os.kill(pid, signal.SIGCONT)
    assert pid_when_back(client) == pid


@pytest.mark.parametrize("how", ["cut", "swallow"])
@stock_defect("an engine that was given up stays deaf for ever")
def test_an_engine_whose_network_was_cut_comes_back(proxied, how):
    client, proxy = proxied
    pid = client[0].apply_sync(os.getpid)
    getattr(proxy, how)()
    until(lambda: not client.ids, 15, "the engine is given up")
    proxy.mend()
    assert pid_when_back(client) == pid


def test_a_short_gap_goes_unnoticed(new_controller):
    controller = new_controller("--ping=200").start()
    proxy = Proxy(controller.ports())
    file = controller.home / "through-the-proxy.json"
    file.write_text(json.dumps(proxy.translate(controller.info("engine"))))
    controller.spawn_engine(f"--file={file}")
    client = controller.client()
    client.wait_for_engines(1, timeout=30)
    result = client.load_balanced_view().apply_async(time.sleep, 2)
    time.sleep(0.3)
    proxy.swallow()
    time.sleep(0.4)
    # Only silence, no broken connection: packets were late, and none was lost.
    proxy.state = "whole"
    result.get(timeout=10)
    assert client.ids == [0]
    proxy.close()


def test_a_busy_engine_is_not_given_up(impatient, new_peer):
    client = impatient.start_engines(1)
    onlooker = new_peer(RawClient, impatient.info("client"))
    notification = onlooker.listen("notification")
    result = client[0].apply_async(hold_the_interpreter, 5)
    result.get(timeout=20)
    assert onlooker.engines().keys() == {"0"}
    # That it came may be repeated to who has just subscribed.
    while (news := onlooker.read(notification, 0.2)) is not None:
        assert news.type != "unregistration_notification"


@ipp.interactive
def hold_the_interpreter(seconds):
    """Sleep without letting any other Python thread of the process run."""
    import ctypes

    ctypes.PyDLL(None).sleep(seconds)


@stock_defect("gives it up after 35 seconds")
def test_a_silent_engine_is_given_up_within_three_seconds_by_default(new_controller, new_peer):
    controller = new_controller().start()
    client = new_peer(RawClient, controller.info("client"))
    engine = new_peer(FakeEngine, controller.info("engine"))
    assert engine.register() is not None
    until(client.engines, 10, "the engine is announced")
    engine.beating.clear()
    until(lambda: not client.engines(), 3.2, "the silent engine is given up")


@stock_defect("announces it two heartbeats later")
def test_an_engine_is_announced_within_half_a_second_of_its_registration(new_controller, new_peer):
    controller = new_controller().start()
    client = new_peer(RawClient, controller.info("client"))
    notification = client.listen("notification")
    client.engines()
    engine = new_peer(FakeEngine, controller.info("engine"))
    began = time.monotonic()
    assert engine.register() is not None
    seen = client.read(notification, 10)
    assert seen is not None and seen.type == "registration_notification"
    assert time.monotonic() - began < 0.5


@ipp.interactive
def note_and_sleep(path, seconds):
    """Leave the process id in a file, sleep, and return it."""
    import os
    import time
    from pathlib import Path

    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.parametrize("retries", [0, 1])
@stock_defect("waits five seconds for late results")
def test_the_task_of_a_killed_engine_fails_or_moves_at_once(impatient, tmp_path, retries):
    client = impatient.start_engines(2)
    view = client.load_balanced_view()
    note = tmp_path / "pid"
    with view.temp_flags(retries=retries):
        result = view.apply_async(note_and_sleep, str(note), 1)
    pid = int(until(lambda: note.exists() and note.read_text(), 5, "the task runs"))
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    if retries:
        assert result.get(timeout=15) != pid
    else:
        with pytest.raises(ipp.error.RemoteError, match="EngineError"):
            result.get(timeout=15)
    assert time.monotonic() - began < 1 + retries * 1


def test_the_task_of_a_killed_engine_is_retried_elsewhere(impatient, new_peer):
    client = new_peer(RawClient, impatient.info("client"))
    engines = [new_peer(FakeEngine, impatient.info("engine")) for _ in range(2)]
    for engine in engines:
        assert engine.register() is not None
    until(lambda: len(client.engines()) == 2, 10, "two engines")
    client.send("task", "apply_request", metadata={"retries": 1})
    first = until(lambda: next((e for e in engines if e.shell.poll(50)), None), 5, "an engine gets the task")
    second = engines[1 - engines.index(first)]
    first.close()
    request = second.request(15)
    assert request is not None, "the task never reached the other engine"
    second.reply(request)
    reply = client.receive("task")
    assert reply is not None and reply.content["status"] == "ok"


@pytest.mark.parametrize(
    "sig", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=stock_defect("its children keep the ports"))]
)
def test_a_controller_starts_again_on_the_same_ports(new_controller, sig):
    controller = new_controller("--ping=100", "--reuse").start()
    client = controller.start_engines(1)
    pid = client[0].apply_sync(os.getpid)
    ports = controller.ports()
    controller.process.send_signal(sig)
    controller.process.wait(10)
    assert controller.left() == {}
    assert not [port for port in ports if is_open(port)]
    controller.start("--restore")
    assert controller.ports() == ports
    again = controller.client()
    again.wait_for_engines(1, timeout=10)
    assert again[0].apply_async(os.getpid).get(timeout=10) == pid


@stock_defect("lists it for ever")
def test_restoring_drops_engines_that_died_meanwhile(new_controller, new_peer):
    controller = new_controller(*IMPATIENT, "--reuse").start()
    client = new_peer(RawClient, controller.info("client"))
    stays, dies = (new_peer(FakeEngine, controller.info("engine")) for _ in range(2))
    for engine in (stays, dies):
        assert engine.register() is not None
    until(lambda: len(client.engines()) == 2, 10, "two engines")
    controller.stop()
    dies.close()
    controller.start("--restore")
    again = new_peer(RawClient, controller.info("client"))
    until(lambda: again.engines() == {str(stays.id): stays.uuid}, 10, "only the living engine is listed")


def test_many_engines_at_once_all_get_in(new_controller, new_peer):
    controller = new_controller("--ping=1000").start()
    client = new_peer(RawClient, controller.info("client"))
    engines = [new_peer(FakeEngine, controller.info("engine")) for _ in range(150)]
    for engine in engines:
        engine.request_registration()
    for engine in engines:
        reply = engine.read(engine.registration, 5)
        assert reply is not None, "an engine gives up after 5 s without an answer"
        engine.id = reply.content["id"]
        engine.connect()
    until(lambda: len(client.engines()) == 150, 15, "all engines are in")
