"""Large data and slow readers: nothing grows without a bound, and nobody waits for somebody else."""

import gc
import time

import ipyparallel as ipp
import numpy as np
import zmq
from peers import RawClient
from subject import stock_defect, until

MEGABYTE = 1 << 20


@ipp.interactive
def talk(megabytes):
    import sys

    for _ in range(megabytes):
        sys.stdout.write("x" * (1 << 20))
        sys.stdout.flush()


@stock_defect("keeps up to a gigabyte of buffers, and holds copies of them")
def test_large_transfers_are_let_go_again(new_controller):
    controller = new_controller("--ping=500").start()
    client = controller.start_engines(2)
    view = client[:]
    view.push({"data": np.zeros(50 * MEGABYTE // 8)}, block=True)
    assert sum(len(part) for part in view.pull("data", block=True)) == 2 * 50 * MEGABYTE // 8
    client.purge_everything()
    gc.collect()
    until(lambda: controller.memory() < 50 * MEGABYTE, 10, "below 50 MB when the transfers are done")


@stock_defect("queues without a bound for a client that does not read")
def test_what_waits_for_a_slow_reader_is_bounded(controller, new_peer, raw_client, new_engine):
    slow = new_peer(RawClient, controller.info("client"))
    iopub = slow.socket(zmq.SUB, subscribe=True, receive_limit=1)
    iopub.setsockopt(zmq.RCVBUF, 65536)
    iopub.connect(slow.url(slow.info["iopub"]))
    quick = raw_client.listen("iopub")
    engine = new_engine()
    started = {"data": 0}

    def publish(number):
        text = "x" * MEGABYTE
        for _ in range(number):
            engine.session.send(
                engine.iopub, "stream", content={"name": "stdout", "text": text}, parent={"msg_id": "x"}
            )

    until(lambda: publish(1) or quick.poll(100), 10, "output reaches a client")
    engine.run(publish, 400)
    deadline = time.monotonic() + 60
    while started["data"] < 400 and time.monotonic() < deadline and quick.poll(3000):
        quick.recv_multipart()
        started["data"] += 1
        slowest = time.monotonic()
        if started["data"] % 50 == 0:
            assert raw_client.engines()
            assert time.monotonic() - slowest < 1, "a slow reader delays others"
    assert started["data"] >= 390, "a client that reads got everything"
    grown = controller.memory()
    assert grown < 200 * MEGABYTE, f"{grown >> 20} MB are held for one slow reader"


def test_a_client_that_stops_reading_delays_nobody(controller, new_peer, raw_client, new_engine):
    engine = new_engine()
    slow = new_peer(RawClient, controller.info("client"))
    stuck = slow.socket(zmq.DEALER, receive_limit=1)
    stuck.setsockopt(zmq.RCVBUF, 65536)
    stuck.connect(slow.url(slow.info["mux"]))
    for _ in range(30):
        stuck.send_multipart(slow.signed_frames("apply_request", to=engine.uuid))
    for _ in range(30):
        engine.reply(engine.request(), buffers=[bytes(MEGABYTE)])
    for _ in range(20):
        began = time.monotonic()
        raw_client.send("mux", "apply_request", to=engine.uuid)
        engine.reply(engine.request())
        assert raw_client.receive("mux") is not None
        assert time.monotonic() - began < 1


def test_an_engine_that_stops_reading_delays_nobody(controller, new_peer, raw_client, new_engine):
    """A frozen engine with a hundred megabytes before it; the other engine works on."""
    stuck, working = new_engine(), new_engine()
    stuck.shell.setsockopt(zmq.RCVHWM, 1)
    for _ in range(100):
        raw_client.send("mux", "apply_request", to=stuck.uuid, buffers=[bytes(MEGABYTE)])
    for _ in range(20):
        began = time.monotonic()
        raw_client.send("mux", "apply_request", to=working.uuid)
        working.reply(working.request())
        assert raw_client.receive("mux") is not None
        assert time.monotonic() - began < 2


def test_ten_thousand_tasks_and_their_records_fit(controller, new_peer, raw_client, new_engine):
    engine = new_engine().serve()
    client = new_peer(RawClient, controller.info("client"))
    for _ in range(10_000):
        client.send("mux", "apply_request", to=engine.uuid)
    for _ in range(10_000):
        assert client.receive("mux", 30) is not None
    until(
        lambda: len(raw_client.ask("history_request", seconds=30).content["history"]) <= 1024, 60, "the oldest are gone"
    )
