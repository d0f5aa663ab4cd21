"""What the hub says of queues and loads is what is so at the time."""

import os
import signal

import pytest
from peers import FakeEngine
from subject import stock_defect, until


def queues(client, verbose=False):
    reply = client.ask("queue_request", {"targets": None, "verbose": verbose})
    assert reply is not None and reply.content.pop("status") == "ok", reply
    return reply.content


def quiet(client, engine_id):
    entry = queues(client).get(str(engine_id))
    return entry is not None and entry["queue"] == entry["tasks"] == 0


def test_counts_what_waits_and_what_is_done(raw_client, new_engine):
    engine = new_engine()
    raw_client.send("mux", "apply_request", to=engine.uuid)
    raw_client.send("task", "apply_request")
    raw_client.send("task", "apply_request")
    until(
        lambda: queues(raw_client) == {"0": {"queue": 1, "completed": 0, "tasks": 1}, "unassigned": 1},
        5,
        "one direct request, one task assigned and one waiting",
    )
    for _ in range(3):
        engine.reply(engine.request())
    until(
        lambda: queues(raw_client) == {"0": {"queue": 0, "completed": 3, "tasks": 0}, "unassigned": 0}, 5, "all is done"
    )


def test_verbose_lists_the_ids(raw_client, new_engine):
    engine = new_engine()
    direct = raw_client.send("mux", "apply_request", to=engine.uuid)
    task = raw_client.send("task", "apply_request")
    wanted = {"queue": [direct], "completed": [], "tasks": [task]}
    until(lambda: queues(raw_client, verbose=True).get("0") == wanted, 5, "the ids of both are listed")


def test_an_unknown_target_is_an_error(raw_client):
    reply = raw_client.ask("queue_request", {"targets": [99], "verbose": False})
    assert reply is not None and reply.content["status"] == "error"


@stock_defect("lists engines that have left")
def test_leaves_out_engines_that_have_left(raw_client, new_engine):
    gone, stays = new_engine(), new_engine()
    raw_client.send("hub", "unregistration_request", {"id": gone.id})
    until(lambda: raw_client.engines() == {str(stays.id): stays.uuid}, 5, "the engine has left")
    assert set(queues(raw_client)) == {str(stays.id), "unassigned"}


@stock_defect("a retried task stays with the engine where it failed")
def test_a_retried_task_leaves_the_engine_where_it_failed(raw_client, new_engine):
    engines = [new_engine(), new_engine()]
    raw_client.send("task", "apply_request", metadata={"retries": 1})
    first = until(lambda: next((e for e in engines if e.shell.poll(50)), None), 5, "an engine gets the task")
    second = engines[1 - engines.index(first)]
    first.reply(first.request(), "error")
    second.reply(second.request())
    assert raw_client.receive("task") is not None
    until(lambda: quiet(raw_client, second.id), 5, "nothing is left at the engine that succeeded")
    until(lambda: quiet(raw_client, first.id), 2, "nothing is left at the engine that failed")


@stock_defect("a message that gets no reply is queued for ever")
def test_a_message_that_gets_no_reply_is_not_queued(raw_client, new_engine):
    engine = new_engine()
    raw_client.send("mux", "comm_msg", {"comm_id": "x", "data": {}}, to=engine.uuid)
    assert engine.request() is not None
    raw_client.send("mux", "apply_request", to=engine.uuid)
    engine.reply(engine.request())
    assert raw_client.receive("mux") is not None
    until(lambda: quiet(raw_client, engine.id), 2, "nothing is queued")


@stock_defect("names engines by the representation of byte strings")
def test_loads_are_told_by_engine(raw_client, new_engine):
    idle, busy = new_engine(), new_engine()
    raw_client.send("task", "apply_request", metadata={"targets": [busy.uuid]})
    assert busy.request() is not None

    def load():
        reply = raw_client.ask("load_request", {"targets": None})
        assert reply is not None and reply.content["status"] == "ok", reply
        return {k: v for k, v in reply.content.items() if k != "status"}

    until(lambda: load() == {str(idle.id): 0, str(busy.id): 1}, 3, "the loads are 0 and 1")


def test_an_unknown_question_is_an_error(raw_client):
    reply = raw_client.ask("no_such_request")
    assert reply is not None and reply.content["status"] == "error"


@pytest.mark.parametrize("how", ["shutdown_request", "sigint"])
def test_shutting_down_tells_clients_and_ends(controller, raw_client, how):
    notification = raw_client.listen("notification")
    raw_client.engines()
    if how == "sigint":
        os.kill(controller.process.pid, signal.SIGINT)
    else:
        reply = until(lambda: raw_client.ask("shutdown_request"), 5, "an answer")
        assert reply.content["status"] == "ok"
        assert raw_client.read(notification, 5).type == "shutdown_notification"
    assert controller.process.wait(10) == 0
    assert not any(f.exists() for f in controller.files)
    assert controller.left() == {}


def test_ids_are_given_once(raw_client, new_engine):
    first = new_engine()
    raw_client.send("hub", "unregistration_request", {"id": first.id})
    until(lambda: not raw_client.engines(), 5, "the engine has left")
    assert [new_engine().id, new_engine(id=7).id, new_engine().id, new_engine(id=7).id] == [1, 7, 8, 9]


@stock_defect("drops it without a word")
def test_an_engine_with_the_uuid_of_another_is_told_or_logged(controller, raw_client, new_peer, new_engine):
    first = new_engine()
    logged_before = controller.log.stat().st_size
    second = new_peer(FakeEngine, controller.info("engine"), name=first.uuid)
    second.request_registration()

    def refused():
        reply = second.read(second.registration, 0.1)
        assert reply is None or reply.content["status"] == "error"
        news = controller.log.read_text()[logged_before:]
        return reply is not None or "routing id" in news

    until(refused, 5, "an error for the second engine, or a line in the log")
    assert raw_client.engines() == {str(first.id): first.uuid}


def test_a_registration_with_the_uuid_of_another_in_it_is_refused(controller, new_peer, new_engine):
    first = new_engine()
    second = new_peer(FakeEngine, controller.info("engine"))
    second.uuid = first.uuid
    reply = second.register(seconds=3)
    assert reply is not None and reply.content["status"] == "error"
