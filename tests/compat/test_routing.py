"""Requests that cannot be delivered are answered; those that can are not changed on their way."""

import pytest
from peers import FakeEngine, RawClient
from subject import stock_defect, until


@pytest.mark.parametrize("channel", ["mux", "control"])
@stock_defect("drops the request, and the client waits for ever")
def test_a_request_for_an_unknown_engine_is_answered(raw_client, new_engine, channel):
    new_engine()
    msg_id = raw_client.send(channel, "apply_request", to="no-such-engine")
    reply = raw_client.receive(channel, 2)
    assert reply is not None, "no answer"
    assert reply.parent["msg_id"] == msg_id
    assert reply.type == "apply_reply"
    assert reply.content["status"] == "error"
    assert {"ename", "evalue", "traceback", "engine_info"} <= set(reply.content)
    assert "no-such-engine" in reply.content["evalue"]


@stock_defect("drops the request, and the client waits for ever")
def test_a_request_for_an_engine_that_has_left_is_answered(raw_client, new_engine):
    engine = new_engine()
    raw_client.send("hub", "unregistration_request", {"id": engine.id})
    until(lambda: not raw_client.engines(), 5, "the engine has left")
    engine.close()
    raw_client.send("mux", "apply_request", to=engine.uuid)
    reply = raw_client.receive("mux", 2)
    assert reply is not None and reply.content["status"] == "error"


@pytest.mark.parametrize("channel", ["mux", "task"])
def test_frames_reach_the_engine_unchanged(raw_client, new_engine, channel):
    engine = new_engine()
    frames = raw_client.signed_frames(
        "apply_request", {"b": 1, "a": [1.0, None]}, {"x": 1}, to=engine.uuid if channel == "mux" else None
    )
    frames += [b"buffer", b""]
    raw_client.sockets[channel].send_multipart(frames)
    assert engine.shell.poll(5000)
    got = engine.shell.recv_multipart()
    delimiter = b"<IDS|MSG>"
    assert got[got.index(delimiter) :] == frames[frames.index(delimiter) :]


def test_a_reply_without_a_parent_harms_nobody(raw_client, new_engine):
    engine = new_engine()
    raw_client.send("task", "apply_request")
    request = engine.request()
    engine.session.send(engine.shell, "apply_reply", content={"status": "ok"}, ident=request.idents)
    engine.reply(request)
    until(lambda: (r := raw_client.receive("task")) and r.parent.get("msg_id") == request.id, 5, "the true reply")


@pytest.mark.parametrize(
    "metadata, error",
    [
        ({"after": ["unknown"]}, "InvalidDependency"),
        ({"targets": ["no-such-engine"]}, "ImpossibleDependency"),
        ({"after": ["unknown"], "follow": ["unknown"], "timeout": 60}, "InvalidDependency"),
    ],
)
def test_a_task_that_can_never_run_is_answered(raw_client, new_engine, metadata, error):
    new_engine()
    msg_id = raw_client.send("task", "apply_request", metadata=metadata)
    reply = raw_client.receive("task")
    assert reply is not None and reply.parent["msg_id"] == msg_id
    assert (reply.content["status"], reply.content["ename"]) == ("error", error)


def test_a_task_that_waits_too_long_times_out(raw_client, new_engine):
    engine = new_engine()
    blocking = raw_client.send("task", "apply_request")
    assert engine.request() is not None
    raw_client.send("task", "apply_request", metadata={"after": [blocking], "timeout": 0.5})
    reply = raw_client.receive("task")
    assert reply is not None and reply.content["ename"] == "TaskTimeout"


def test_tasks_without_engines_wait_for_one(raw_client, new_engine):
    raw_client.send("task", "apply_request")
    engine = new_engine()
    engine.reply(engine.request())
    assert raw_client.receive("task") is not None


@pytest.mark.parametrize("scheme", ["leastload", "lru", "plainrandom", "twobin", "weighted", "pure"])
def test_every_scheme_runs_every_task_once(new_controller, new_peer, scheme):
    controller = new_controller("--ping=100", f"--scheme={scheme}").start()
    client = new_peer(RawClient, controller.info("client"))
    engines = [new_peer(FakeEngine, controller.info("engine")) for _ in range(3)]
    for engine in engines:
        assert engine.register() is not None
    until(lambda: len(client.engines()) == 3, 10, "three engines")
    for engine in engines:
        engine.serve()
    sent = {client.send("task", "apply_request") for _ in range(60)}
    got = [client.receive("task").parent["msg_id"] for _ in range(60)]
    assert sorted(got) == sorted(sent)
    assert sorted(r.id for e in engines for r in e.served) == sorted(sent)


def test_the_limit_of_tasks_per_engine_holds(new_controller, new_peer):
    controller = new_controller("--ping=100", "--hwm=2").start()
    client = new_peer(RawClient, controller.info("client"))
    engine = new_peer(FakeEngine, controller.info("engine"))
    assert engine.register() is not None
    until(client.engines, 10, "the engine is announced")
    for _ in range(5):
        client.send("task", "apply_request")
    held = [engine.request(), engine.request()]
    assert None not in held
    assert engine.request(0.5) is None
    engine.reply(held[0])
    assert engine.request() is not None
    assert engine.request(0.5) is None
