"""Whatever anyone on the network sends: an answer or a line in the log, no growth, and no harm to the others."""

import random
import resource
import socket
import struct
import time

import pytest
from peers import CHANNELS, FakeEngine, RawClient
from subject import stock_defect, until

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MEGABYTE = 1 << 20
# What one bad peer may cost the controller, everything that Python and libzmq do not return included.
GROWTH_BYTES_MAX = 64 * MEGABYTE


def ready(socket_type: bytes) -> bytes:
    """The NULL mechanism's READY command."""
    body = (
        b"\x05READY" + bytes([len(b"Socket-Type")]) + b"Socket-Type" + struct.pack(">I", len(socket_type)) + socket_type
    )
    return b"\x04" + bytes([len(body)]) + body


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 5)
    sock.settimeout(5)
    return sock


def send_all(port: int, data: bytes) -> None:
    """Send what the peer will take."""
    with connect(port) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(0.2)
            while sock.recv(65536):
                pass
        except OSError:
            pass


class Unharmed:
    """A controller with an engine and a client at work, to be checked before and after."""

    def __init__(self, controller, client, engine):
        self.controller, self.client, self.engine = controller, client, engine
        self.check()
        self.memory_before, self.descriptors_before = controller.memory(), controller.descriptors()

    def check(self, seconds=2.0):
        """Every channel answers, and soon."""
        for channel, to in (("hub", None), ("mux", self.engine.uuid), ("task", None)):
            kind = "connection_request" if channel == "hub" else "apply_request"
            began = time.monotonic()
            msg_id = self.client.send(channel, kind, to=to)
            reply = self.client.receive(channel, 10)
            assert reply is not None and reply.parent["msg_id"] == msg_id, f"no answer on {channel}"
            assert time.monotonic() - began < seconds, f"{channel} took {time.monotonic() - began:.1f} s to answer"
        assert self.controller.process.poll() is None

    def check_size(self):
        grown = self.controller.memory() - self.memory_before
        assert grown < GROWTH_BYTES_MAX, f"grown by {grown >> 20} MB"
        until(lambda: self.controller.descriptors() <= self.descriptors_before + 20, 5, "the connections are closed")


@pytest.fixture
def unharmed(controller, raw_client, new_engine):
    return Unharmed(controller, raw_client, new_engine().serve())


def test_random_bytes(unharmed):
    noise = random.Random(20)
    for port in unharmed.controller.ports():
        for _ in range(10):
            send_all(port, noise.randbytes(noise.randrange(1, 4000)))
        send_all(port, GREETING + noise.randbytes(1000))
        send_all(port, GREETING + ready(b"DEALER") + noise.randbytes(1000))
    unharmed.check()
    unharmed.check_size()


def test_handshakes_and_frames_that_break_off(unharmed):
    whole = GREETING + ready(b"DEALER") + b"\x01\x03abc\x02" + struct.pack(">Q", 1000) + bytes(500)
    for port in unharmed.controller.ports():
        for length in range(0, len(whole), 41):
            send_all(port, whole[:length])
    unharmed.check()
    unharmed.check_size()


@pytest.mark.parametrize("size", [2**63 - 1, 2**40, 2**32])
def test_frames_that_claim_to_be_huge(unharmed, size):
    held = []
    for port in unharmed.controller.ports():
        sock = connect(port)
        sock.sendall(GREETING + ready(b"DEALER") + b"\x02" + struct.pack(">Q", size) + bytes(10_000))
        held.append(sock)
    time.sleep(0.5)
    unharmed.check()
    grown = unharmed.controller.memory() - unharmed.memory_before
    assert grown < GROWTH_BYTES_MAX, f"grown by {grown >> 20} MB"
    for sock in held:
        sock.close()


@stock_defect("collects frames for as long as more are announced")
def test_a_message_without_an_end(unharmed):
    sock = connect(unharmed.controller.info("client")["registration"])
    sock.sendall(GREETING + ready(b"DEALER"))
    frames = b"\x01\x00" * 500_000
    try:
        for _ in range(6):
            sock.sendall(frames)
    except OSError:
        pass  # refused
    for _ in range(20):
        unharmed.check()
        unharmed.check_size()
        time.sleep(0.1)
    sock.close()


def test_a_thousand_half_open_connections(unharmed):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    info = unharmed.controller.info("engine")
    held = []
    for port in (info["registration"], info["task"]):
        held += [connect(port) for _ in range(300)]
        for _ in range(200):
            held.append(connect(port))
            held[-1].sendall(GREETING[:11])
    unharmed.check(5)
    for sock in held:
        sock.close()
    unharmed.check_size()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "channel",
    [
        *("hub", "mux", "task", "broadcast"),
        pytest.param("control", marks=stock_defect("nothing anywhere says why there is no answer")),
    ],
)
def test_a_wrong_signature_is_answered_or_logged(unharmed, channel):
    to = unharmed.engine.uuid if channel in ("mux", "control") else None
    kind = "connection_request" if channel == "hub" else "apply_request"
    targets = {"targets": [[unharmed.engine.uuid, 0]], "is_broadcast": True, "is_coalescing": False}
    frames = unharmed.client.signed_frames(kind, metadata=targets if channel == "broadcast" else {}, to=to)
    at = frames.index(b"<IDS|MSG>") + 1
    frames[at] = bytes(reversed(frames[at]))
    log_before = unharmed.controller.log.stat().st_size
    unharmed.client.sockets[channel].send_multipart(frames)

    def told():
        reply = unharmed.client.receive(channel, 0.1)
        if reply is not None:
            assert reply.content["status"] == "error"
            return reply.content["evalue"]
        return [
            line
            for line in unharmed.controller.log.read_text()[log_before:].lower().splitlines()
            if "signature" in line
        ]

    until(told, 2, "an answer, or a line in the log that speaks of the signature")
    unharmed.check()


@stock_defect("gives the task to an engine, which drops it and counts as busy for ever")
def test_a_message_sent_twice_is_acted_on_once(unharmed):
    frames = unharmed.client.signed_frames("apply_request")
    before = len(unharmed.engine.served)
    unharmed.client.sockets["task"].send_multipart(frames)
    assert unharmed.client.receive("task") is not None
    unharmed.client.sockets["task"].send_multipart(frames)
    second = unharmed.client.receive("task", 1)
    assert second is None or second.content["status"] == "error"
    assert len(unharmed.engine.served) == before + 1
    unharmed.check()


def test_a_question_replayed_by_someone_else_is_not_answered(unharmed, new_peer):
    frames = unharmed.client.signed_frames("connection_request")
    unharmed.client.sockets["hub"].send_multipart(frames)
    assert unharmed.client.receive("hub") is not None
    stranger = new_peer(RawClient, unharmed.controller.info("client"))
    stranger.sockets["hub"].send_multipart(frames)
    reply = stranger.receive("hub", 1)
    assert reply is None or reply.content["status"] == "error"
    unharmed.check()


ODD_CONTENTS = [
    ("hub", "registration_request", {}),
    ("hub", "registration_request", {"uuid": ["a", 1]}),
    ("hub", "registration_request", {"uuid": "odd-id", "id": "seven"}),
    ("hub", "unregistration_request", {"id": {"a": 1}}),
    ("hub", "unregistration_request", {}),
    ("hub", "queue_request", {"targets": {"x": 1}}),
    ("hub", "queue_request", {"targets": [None, [], -1, 10**30, "x"]}),
    ("hub", "result_request", {"msg_ids": 7}),
    ("hub", "result_request", {}),
    ("hub", "db_request", {"query": [1, 2]}),
    ("hub", "db_request", {"query": {"msg_id": {"$in": 4}}, "keys": "x"}),
    ("hub", "db_request", {"query": {"submitted": {"$lt": []}}}),
    ("hub", "db_request", {"query": {"label": {"$glob": "[" * 500}}}),
    ("hub", "purge_request", {"msg_ids": {"a": 1}, "engine_ids": "x"}),
    ("hub", "resubmit_request", {"msg_ids": None}),
]


@pytest.mark.parametrize("channel, kind, content", ODD_CONTENTS)
def test_questions_that_make_no_sense(unharmed, channel, kind, content):
    unharmed.client.send(channel, kind, content)
    reply = unharmed.client.receive(channel, 0.5)
    assert reply is None or {"status"} <= set(reply.content)
    while reply is not None:
        reply = unharmed.client.receive(channel, 0.1)
    unharmed.check()


SWALLOWED = stock_defect("an exception in the scheduler swallows the task")
ODD_METADATA = [
    pytest.param({"after": 7}, marks=SWALLOWED),
    {"after": {"dependencies": "x", "all": []}},
    pytest.param({"follow": [["a"], None]}, marks=SWALLOWED),
    pytest.param({"timeout": "soon"}, marks=SWALLOWED),
    {"timeout": -1e308},
    {"targets": "everyone"},
    pytest.param({"targets": [None, 1]}, marks=SWALLOWED),
    {"retries": "many"},
    {"retries": -(10**40)},
]


@pytest.mark.parametrize("metadata", ODD_METADATA)
def test_tasks_that_make_no_sense_are_answered(unharmed, metadata):
    msg_id = unharmed.client.send("task", "apply_request", metadata=metadata)
    reply = unharmed.client.receive("task", 2)
    assert reply is not None, "no answer"
    assert reply.parent["msg_id"] == msg_id
    unharmed.check()


@pytest.mark.parametrize("targets", [None, 7, [], [["a"]], [["no-such-engine", 99]], [[1, 2, 3]], {"a": "b"}])
@stock_defect("an exception in the scheduler swallows the request")
def test_broadcasts_that_make_no_sense_are_answered(unharmed, targets):
    unharmed.client.send(
        "broadcast", "apply_request", metadata={"targets": targets, "is_broadcast": True, "is_coalescing": True}
    )
    assert unharmed.client.receive("broadcast", 2) is not None, "no answer"
    unharmed.check()


JAMS = stock_defect("a message of one frame jams the direct channel for everyone", strict=False)


@pytest.mark.parametrize("channel", [pytest.param(c, marks=JAMS) if c == "mux" else c for c in CHANNELS])
@pytest.mark.parametrize("frames", [[b""], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"", b"{", b"{}", b"{}", b"{}"], [b"x"] * 50])
def test_messages_without_the_right_parts(unharmed, channel, frames):
    unharmed.client.sockets[channel].send_multipart(frames)
    reply = unharmed.client.receive(channel, 0.2)
    assert reply is None or reply.content["status"] == "error"
    unharmed.check()


def test_an_engine_that_takes_the_name_of_another_gets_nothing(unharmed, new_peer):
    thief = new_peer(FakeEngine, unharmed.controller.info("engine"), name=unharmed.engine.uuid)
    thief.connect()
    time.sleep(0.5)
    unharmed.check()
    assert thief.request(0.2) is None


@stock_defect("may take seconds to answer meanwhile", strict=False)
def test_a_client_that_floods_delays_nobody(unharmed, new_peer):
    flood = new_peer(RawClient, unharmed.controller.info("client"))
    for _ in range(20_000):
        flood.send("hub", "queue_request", {"targets": None, "verbose": True})
    unharmed.check(1.0)
    unharmed.check_size()


def test_a_flood_of_tasks_that_nobody_reads_back(unharmed, new_peer):
    flood = new_peer(RawClient, unharmed.controller.info("client"))
    for _ in range(5_000):
        flood.send("mux", "apply_request", to=unharmed.engine.uuid)
    until(lambda: len(unharmed.engine.served) >= 5_000, 60, "all requests reached the engine")
    unharmed.check(5)
