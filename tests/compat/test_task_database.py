"""What the hub records, how it is queried, and what it hands out again."""

import time
from datetime import datetime, timedelta, timezone

import pytest
from peers import FakeEngine, RawClient
from subject import SUBJECT, stock_defect, until

BACK_ENDS = pytest.mark.parametrize("back_end", ["--dictdb", "--sqlitedb"])


class Recorded:
    """A controller with a database of some kind, an engine that answers all, and a raw client."""

    def __init__(self, new_controller, new_peer, *arguments):
        self.controller = new_controller("--ping=100", *arguments).start()
        self.client = new_peer(RawClient, self.controller.info("client"))
        self.engine = new_peer(FakeEngine, self.controller.info("engine"))
        assert self.engine.register() is not None
        self.engine.serve()
        until(self.client.engines, 10, "the engine is announced")

    def run(self, channel, content=None, metadata=None):
        """Run one request and wait until the hub has recorded its end; its msg_id."""
        msg_id = self.client.send(
            channel, "apply_request", content, metadata, to=self.engine.uuid if channel == "mux" else None
        )
        assert self.client.receive(channel) is not None
        until(lambda: any(r["completed"] for r in self.records(msg_id)), 5, "it is recorded")
        return msg_id

    def records(self, msg_id):
        return self.query({"msg_id": msg_id}).content["records"]

    def query(self, query, keys=None):
        return self.client.ask("db_request", {"query": query, "keys": keys})

    def find(self, query):
        """The ids of the records that match."""
        reply = self.query(query, ["msg_id"])
        assert reply is not None and reply.content["status"] == "ok", reply
        return [record["msg_id"] for record in reply.content["records"]]


@pytest.fixture
def recorded(new_controller, new_peer):
    def make(*arguments):
        return Recorded(new_controller, new_peer, *arguments)

    return make


@pytest.mark.parametrize("back_end", [pytest.param("--dictdb", marks=stock_defect("$gt acts as $lt")), "--sqlitedb"])
def test_greater_and_less(recorded, back_end):
    it = recorded(back_end)
    msg_id = it.run("mux")
    past, future = (
        (datetime.now(timezone.utc) + timedelta(hours=h)).isoformat().replace("+00:00", "Z") for h in (-1, 1)
    )
    assert it.find({"submitted": {"$lt": future}}) == [msg_id]
    assert it.find({"submitted": {"$gt": past}}) == [msg_id]
    assert it.find({"submitted": {"$gt": past, "$lt": future}}) == [msg_id]
    assert it.find({"submitted": {"$lt": past}}) == []
    assert it.find({"submitted": {"$gt": future}}) == []


@pytest.mark.parametrize(
    "back_end", [pytest.param("--dictdb", marks=stock_defect("compares all with the last value")), "--sqlitedb"]
)
def test_two_keys_that_must_be_equal(recorded, back_end):
    it = recorded(back_end)
    by_mux, by_task = it.run("mux"), it.run("task")
    assert it.find({"queue": "mux", "engine_uuid": it.engine.uuid}) == [by_mux]
    assert it.find({"queue": "task", "msg_id": by_task}) == [by_task]
    assert it.find({"queue": "task", "msg_id": by_mux}) == []


@BACK_ENDS
def test_operators_on_lists_and_patterns(recorded, back_end):
    it = recorded(back_end)
    first, second = it.run("mux", metadata={"label": "mean"}), it.run("task", metadata={"label": "median"})
    assert it.find({"msg_id": {"$in": [first, "unknown"]}}) == [first]
    assert it.find({"msg_id": {"$nin": [first]}}) == [second]
    assert it.find({"msg_id": {"$ne": first}}) == [second]
    assert it.find({"label": {"$glob": "me[d]?"}}) == []
    assert it.find({"label": {"$glob": "me[ad]n"}}) == [first]
    assert sorted(it.find({"label": {"$glob": "me*"}})) == sorted([first, second])
    assert it.find({"resubmitted": {"$ne": None}}) == []


def test_an_unknown_operator_is_an_error(recorded):
    it = recorded()
    it.run("mux")
    reply = it.query({"msg_id": {"$like": "x"}})
    assert reply is not None and reply.content["status"] == "error"


def test_without_a_database_queries_are_refused(new_controller, new_peer):
    controller = new_controller("--nodb").start()
    reply = new_peer(RawClient, controller.info("client")).ask("db_request", {"query": {}, "keys": None})
    assert reply is not None and reply.content["status"] == "error"
    assert reply.content["ename"] == "NoData"


@stock_defect("sends the task again with empty metadata")
def test_resubmitting_keeps_what_the_task_asked_for(recorded):
    it = recorded()
    msg_id = it.run("task", metadata={"label": "mean", "retries": 2, "timeout": 60, "targets": [it.engine.uuid]})
    reply = it.client.ask("resubmit_request", {"msg_ids": [msg_id]})
    assert reply is not None and reply.content["status"] == "ok"
    new = reply.content["resubmitted"][msg_id]
    again = until(
        lambda: next((r for r in it.engine.served if r.id == new), None), 5, "the task reaches the engine again"
    )
    assert {k: again.metadata.get(k) for k in ("label", "retries")} == {"label": "mean", "retries": 2}
    assert again.metadata.get("targets") == [it.engine.uuid]
    assert it.query({"msg_id": new}, ["label"]).content["records"][0]["label"] == "mean"


def test_resubmitting_reaches_the_result_of_the_new_task(recorded):
    it = recorded()
    msg_id = it.run("task")
    new = it.client.ask("resubmit_request", {"msg_ids": [msg_id]}).content["resubmitted"][msg_id]

    def result():
        return it.client.ask("result_request", {"msg_ids": [new], "status_only": False}).content

    got = until(lambda: new in (r := result()).get("completed", []) and r, 5, "the new task is done")
    assert got[new]["result_content"]["status"] == "ok"
    assert it.query({"msg_id": msg_id}, ["resubmitted"]).content["records"][0]["resubmitted"] == new


def test_the_memory_of_the_database_is_bounded(recorded):
    it = recorded("--dictdb", "--DictDB.record_limit=100")
    for _ in range(300):
        it.client.send("mux", "apply_request", to=it.engine.uuid)
    for _ in range(300):
        assert it.client.receive("mux") is not None
    until(
        lambda: 50 <= len(it.client.ask("history_request").content["history"]) <= 100, 5, "at most 100 records are kept"
    )


def test_the_result_of_a_record_that_is_gone_is_an_error(recorded):
    it = recorded("--dictdb", "--DictDB.record_limit=20")
    first = it.run("mux")
    for _ in range(60):
        it.run("mux")
    reply = it.client.ask("result_request", {"msg_ids": [first], "status_only": False})
    assert reply is not None, "no answer, so the client would wait for ever"
    assert reply.content["status"] == "error"


@stock_defect("commits every two seconds, and not when it ends")
def test_records_on_disk_survive_a_restart(recorded, new_peer):
    it = recorded("--sqlitedb")
    msg_id = it.run("mux")
    assert it.controller.stop() == 0
    it.controller.start()
    client = new_peer(RawClient, it.controller.info("client"))
    reply = client.ask("db_request", {"query": {"msg_id": msg_id}, "keys": ["completed", "result_content"]})
    assert [r["result_content"]["status"] for r in reply.content["records"]] == ["ok"]


@stock_defect("looks in its memory only, and says that it knows no such message")
def test_a_result_on_disk_is_found_after_a_restart(recorded, new_peer):
    it = recorded("--sqlitedb")
    msg_id = it.run("mux")
    if SUBJECT == "stock":
        time.sleep(2.5)  # until it has committed
    it.controller.stop()
    it.controller.start()
    client = new_peer(RawClient, it.controller.info("client"))
    reply = client.ask("result_request", {"msg_ids": [msg_id], "status_only": False})
    assert reply is not None and reply.content.get("completed") == [msg_id], reply
    assert reply.content[msg_id]["result_content"]["status"] == "ok"


def test_purging_forgets_what_is_done_and_refuses_what_is_pending(recorded):
    it = recorded()
    done = it.run("mux")
    it.client.send("mux", "apply_request", to=it.engine.uuid)
    it.client.receive("mux")
    waiting = it.client.send(
        "task", "apply_request", metadata={"targets": [], "after": [], "timeout": None, "follow": []}
    )
    it.client.receive("task")
    assert it.client.ask("purge_request", {"msg_ids": [done], "engine_ids": []}).content["status"] == "ok"
    assert done not in it.client.ask("history_request").content["history"]
    until(lambda: it.find({"msg_id": waiting}), 5, "the task is recorded")
    assert it.client.ask("purge_request", {"msg_ids": "all", "engine_ids": []}).content["status"] == "ok"
    assert it.client.ask("history_request").content["history"] == []
