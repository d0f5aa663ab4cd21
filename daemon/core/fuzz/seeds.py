#!/usr/bin/env python3
"""Write the seeds of the corpus: what stock ipyparallel and libzmq really send.

Needs ipyparallel and pyzmq. Seeds begin with "seed-"; everything else in the corpus was found by the fuzzer.
"""

import json
import socket
import struct
import threading
from pathlib import Path

import zmq
from jupyter_client.session import Session

CORPUS = Path(__file__).parent / "corpus"
UUID = "a1b2c3d4-0123456789abcdef01234567"


def write(target, name, data):
    path = CORPUS / target / f"seed-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def chunk(data):
    return struct.pack(">H", len(data)) + data


# message: frames with their lengths


def messages():
    session = Session(key=b"key", packer="json")
    apply = {"after": [], "follow": [], "timeout": None, "targets": [UUID], "retries": 1, "label": None}
    broadcast = {"targets": [[UUID, 0]], "is_broadcast": True, "is_coalescing": True}
    kinds = {
        "apply_request": ({}, apply, [b"pickled function", b"", b"array"]),
        "apply_reply": ({"status": "ok"}, {"status": "ok", "engine": UUID, "dependencies_met": True}, [b"result"]),
        "execute_request": ({"code": "1/0", "silent": False}, broadcast, []),
        "registration_request": ({"uuid": UUID, "id": 3}, {}, []),
        "unregistration_request": ({"id": 3}, {}, []),
        "queue_request": ({"targets": None, "verbose": True}, {}, []),
        "result_request": ({"msg_ids": ["a", "b"], "status_only": False}, {}, []),
        "db_request": ({"query": {"completed": None}, "keys": None}, {}, []),
        "stream": ({"name": "stdout", "text": "hello\n"}, {}, []),
        "shutdown_request": ({}, {}, []),
    }
    for kind, (content, metadata, buffers) in kinds.items():
        parent = session.msg_header("parent_request")
        message = session.msg(kind, content=content, metadata=metadata, parent={"header": parent})
        frames = [UUID.encode()] + session.serialize(message) + buffers
        write("message", kind, b"".join(chunk(bytes(frame)) for frame in frames))


# zmtp: what libzmq says to a peer that answers like libzmq


def greeting(mechanism):
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def ready(socket_type):
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type
    return b"\x04" + bytes([len(body)]) + body


def captured(socket_type, answer_type, talk, mechanism=b"NULL", prepare=lambda s: None):
    """The bytes that a libzmq socket sends until `talk` is done."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    received = bytearray()

    def serve():
        peer, _ = listener.accept()
        peer.sendall(greeting(mechanism))
        if mechanism == b"NULL":
            peer.sendall(ready(answer_type))
        peer.settimeout(1)
        try:
            while data := peer.recv(65536):
                received.extend(data)
        except TimeoutError:
            pass
        peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    context = zmq.Context()
    client = context.socket(socket_type)
    client.linger = 0
    prepare(client)
    client.connect(f"tcp://127.0.0.1:{port}")
    talk(client)
    thread.join()
    client.close()
    context.term()
    listener.close()
    return bytes(received)


ROUTER, _, PUB, SUB = range(4)


def connections():
    def identify(client):
        client.identity = UUID.encode()

    def send(client):
        client.send_multipart([b"", b"small", b"x" * 300])

    def beat(client):
        client.heartbeat_ivl = 100

    def subscribe(client):
        client.subscribe(b"")
        client.subscribe(b"topic")
        client.unsubscribe(b"topic")

    def encrypt(client):
        server, _ = zmq.curve_keypair()
        client.curve_serverkey = server
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()

    nothing = lambda client: None
    dealer = captured(zmq.DEALER, b"ROUTER", send, prepare=identify)
    write("zmtp", "dealer", bytes([0, ROUTER, 255]) + dealer)
    write("zmtp", "dealer-bytewise", bytes([0, ROUTER, 0]) + dealer)
    write("zmtp", "ping", bytes([0, ROUTER, 9]) + captured(zmq.DEALER, b"ROUTER", send, prepare=beat))
    write("zmtp", "sub", bytes([0, PUB, 255]) + captured(zmq.SUB, b"PUB", subscribe))
    write("zmtp", "pub", bytes([0, SUB, 255]) + captured(zmq.PUB, b"SUB", nothing))
    hello = captured(zmq.DEALER, b"ROUTER", nothing, mechanism=b"CURVE", prepare=encrypt)
    write("zmtp", "curve-hello", bytes([1, ROUTER, 255]) + hello)
    # Between two ends of ours: both send two frames and a ping, again and again.
    talk = (bytes([0x46]) + chunk(b"first") + chunk(b"second" * 50)) * 20
    for mode, name in [(2, "null"), (3, "curve")]:
        write("zmtp", f"between-{name}", bytes([mode]) + bytes(8) + talk)
        write("zmtp", f"between-{name}-flipped", bytes([mode]) + bytes(12) + talk[:40] + b"\x21\x05" + talk)


# db_query


def queries():
    for name, content in {
        "all": {},
        "null": {"query": {"completed": None}, "keys": None},
        "pending": {"query": {"completed": None, "engine_uuid": {"$ne": None}}, "keys": ["msg_id", "buffers"]},
        "ids": {"query": {"msg_id": {"$in": ["m-0", "m-1", "nobody"]}}, "keys": ["result_buffers"]},
        "dates": {"query": {"submitted": {"$gte": "2026-01-01T00:00:01Z", "$lt": "2026-01-01T00:00:03.5+01:00"}}},
        "glob": {"query": {"msg_id": {"$glob": "m-[!0]*?"}}},
        "mod": {"query": {"engine_uuid": {"$exists": True}, "msg_id": {"$mod": [2, 1]}}},
        "nested": {"query": {"header": {"msg_id": "m-1"}, "metadata": {"$all": ["a"]}}},
        "not": {"query": {"stdout": {"$nin": ["", "x"]}, "queue": {"$eq": "mux"}}},
        "wrong": {"query": {"header.msg_id": 1}, "keys": "no field"},
    }.items():
        write("db_query", name, json.dumps(content).encode())


# task_metadata: scheme, hwm, then (engine, step, ...)


def metadata():
    def task(id, **metadata):
        return bytes([0, 5, id]) + chunk(json.dumps(metadata).encode())

    add = lambda engine: bytes([engine, 0])
    leave = lambda engine: bytes([engine, 1])
    reply = lambda at, outcome: bytes([0, 3, at, outcome])
    wait = lambda n: bytes([0, 4, n])
    pool = bytes([0, 1]) + add(0) + add(1)
    stock = {"after": [], "follow": [], "timeout": None, "targets": [], "retries": 0, "label": None}
    for name, steps in {
        "plain": task(0) + task(1, **stock) + reply(0, 0) + reply(0, 1),
        "after": task(0) + task(1, after=["m-0"]) + task(2, after={"dependencies": ["m-1"], "failure": True}) + reply(0, 0) + reply(0, 1),
        "follow": task(0) + task(1, follow="m-0") + task(2, follow={"dependencies": ["m-0", "m-1"], "all": False}) + reply(0, 0) + leave(0),
        "retries": task(0, retries=2) + reply(0, 1) + reply(0, 2) + leave(1) + reply(0, 1),
        "refused": task(0, targets=["u-0", "u-1"]) + reply(0, 3) + reply(0, 3),
        "timeout": task(0) + task(1) + task(2, timeout=1.5) + task(3, timeout=1e308) + wait(40),
        "targets": task(0, targets=["u-1"]) + task(1, targets=["u-1"]) + leave(1) + task(2, targets=["nobody"]),
        "invalid": task(0, after=["m-0"]) + task(1, after=["nobody"]) + task(2, retries="x") + task(3, after={"dependencies": ["m-0"], "success": False}),
    }.items():
        write("task_metadata", name, pool + steps)


# controller: a byte for the database, then steps

CHANNELS = "Registration ControlEngine MuxEngine TaskEngine IopubEngine HbPing HbPong BroadcastEngine".split()
CHANNELS += "ControlClient MuxClient TaskClient IopubClient Notification BroadcastClient".split()
TYPES = "apply_request execute_request apply_reply execute_reply registration_request unregistration_request".split()
TYPES += "connection_request queue_request load_request result_request history_request db_request".split()
TYPES += "purge_request resubmit_request shutdown_request become_dask_request stop_distributed_request".split()
TYPES += "status_request stream".split()
# The peers that one engine step connects, in order.
REGISTRATION, MUX, TASK, BROADCAST, CONTROL, IOPUB, PONG = range(7)
NO_PARENT = bytes([10, 23, 0])


def controllers():
    def connect(channel, identity=0):
        return bytes([0, CHANNELS.index(channel), identity])

    def message(peer, kind, id=0, routing=(), metadata=0, content=0, parent=NO_PARENT):
        header = bytes([id, TYPES.index(kind), 0])
        routing = bytes([len(routing), *routing])
        return bytes([13, peer]) + routing + header + parent + bytes([metadata, content, 0])

    def reply(peer, request, metadata=1):
        return bytes([11, peer, request, metadata, 0])

    wait = lambda n: bytes([2, n])
    gone = lambda peer: bytes([4, peer])

    def engine(n, first):
        register = message(first, "registration_request", metadata=0, content=5 + n)
        return bytes([1, n]) + register + bytes([9, first + PONG])

    two = engine(0, 0) + engine(1, 7)
    client = 14
    gathering, plain = 10, 11
    for name, steps in {
        "mux": connect("MuxClient") + message(client, "apply_request", routing=[1]) + reply(MUX, 0),
        "control": connect("ControlClient") + message(client, "apply_request", routing=[1]) + reply(CONTROL, 0),
        "task": connect("TaskClient") + message(client, "apply_request", id=1) + reply(TASK, 0),
        "retry": connect("TaskClient") + message(client, "apply_request", id=1, metadata=17) + reply(TASK, 0, 2) + gone(TASK) + wait(20),
        "gathering": connect("BroadcastClient") + message(client, "apply_request", metadata=gathering) + reply(BROADCAST, 0) + reply(7 + BROADCAST, 1),
        "gathering-left": connect("BroadcastClient") + message(client, "apply_request", metadata=gathering) + reply(BROADCAST, 0) + gone(7 + BROADCAST) + wait(20),
        "broadcast": connect("BroadcastClient") + message(client, "execute_request", metadata=plain) + reply(BROADCAST, 0) + wait(250),
        "output": message(IOPUB, "stream", content=27, parent=bytes([0, 0, 0])),
        "claim": connect("MuxEngine", 1) + bytes([7, MUX]) + connect("TaskEngine", 1) + wait(110),
        "leave": message(REGISTRATION, "unregistration_request", content=8) + wait(10),
        "silent": wait(100) + wait(100) + bytes([9, PONG]) + wait(10),
        "congested": connect("TaskClient") + bytes([5, TASK]) + message(client, "apply_request", metadata=14) + bytes([6, TASK]),
    }.items():
        write("controller", name, bytes([0]) + two + steps)
        write("controller", f"{name}-disk", bytes([1]) + two + steps + bytes([3, 0, 0]))
    questions = [("connection", 0), ("queue", 19), ("queue", 20), ("load", 0), ("result", 21), ("history", 0)]
    questions += [("db", 24), ("db", 25), ("purge", 23), ("resubmit", 22), ("become_dask", 26), ("status", 0), ("shutdown", 0)]
    task = connect("TaskClient") + message(client, "apply_request") + reply(TASK, 0) + connect("Registration")
    for disk in [0, 1]:
        steps = b"".join(message(client + 1, f"{kind}_request", id=2, content=content) + bytes([3, 0, 0]) for kind, content in questions)
        write("controller", f"queries-{disk}", bytes([disk]) + two + task + steps)


# join: what comes to a connection, between two ends, and to a door


def joins():
    opening = lambda mode: b"piparallel\x01" + mode + b"\x03lab"
    for mode in (b"C", b"J", b"K", b"P", b"?"):
        write("join", f"stranger-{mode.decode().replace('?', 'none')}", b"\0\x20" + opening(mode) + b"\0\0\x30" + bytes(range(48)) * 3)
    write("join", "stranger-refuses", b"\1\1\xff\x01\0\x04nope")
    write("join", "stranger-version", b"\0\xffpiparallel\x09J\x03lab")
    talk = b"".join(bytes([0, 5]) + b"hello" for _ in range(8))
    for mode in range(4):
        write("join", f"between-{mode}", bytes([2, mode]) + bytes(6) + talk)
        write("join", f"between-{mode}-flipped", bytes([2, mode, 0, 0, 1, 40, 3]) + talk)
    hello = lambda kind: json.dumps({"say": "hello", "kind": kind, "name": "pi-2", "model": "Raspberry Pi 5"}).encode()
    say = lambda link, text: bytes([link, 3]) + chunk(text)
    come = lambda link, mode, node, kind: bytes([0, 0, link, link, 1, mode, 0, link, 2, node]) + say(link, hello(kind))
    report = json.dumps({"say": "report", "engines_running": 4, "load": 0.5, "versions": {"python": "3.13.5"}}).encode()
    wait = lambda units: bytes([0, 6, units])
    for name, steps in {
        "key": come(1, 1, 2, "node") + say(1, report) + say(1, b'{"say": "leaving"}'),
        "laptop": come(1, 0, 2, "client") + wait(100),
        "approved": come(1, 3, 2, "node") + bytes([0, 7, 0]) + bytes([0, 8, 0]),
        "window": bytes([0, 9, 5, 1]) + come(1, 3, 2, "node") + come(2, 3, 3, "node") + wait(120),
        "known": come(1, 1, 2, "node") + bytes([1, 5]) + come(2, 2, 2, "node") + bytes([0, 10, 0]),
        "wrong-key": bytes([0, 0, 7, 1, 1, 1, 0, 1, 4]) * 9,
        "twice": come(1, 1, 2, "node") + come(2, 1, 2, "node") + say(1, b'{"say": "stopping"}'),
    }.items():
        write("join", f"door-{name}", bytes([3]) + steps)


# txt: announcements


def announcements():
    entry = lambda key, value: bytes([key, len(value)]) + value
    good = [b"1", b"lab", b"controller", b"0123456789abcdef" * 2, b"K7QM-2FXD-ABCD-EFGH", b"7"]
    record = lambda values: b"".join(entry(key, value) for key, value in enumerate(values))
    write("txt", "controller", record(good))
    write("txt", "unknown-keys", entry(7, b"x") + record(good))
    write("txt", "capitals", record(good[:2]) + entry(6, b"engine") + b"".join(entry(n + 3, v) for n, v in enumerate(good[3:])))
    for name, at, value in [("version", 0, b"2\x1b[2J"), ("pool", 1, b"a\nb"), ("role", 2, b"king"), ("id", 3, b"zz"), ("epoch", 5, b"99999999999999999999")]:
        write("txt", f"bad-{name}", record(good[:at] + [value] + good[at + 1 :]))


messages()
connections()
queries()
metadata()
controllers()
joins()
announcements()
