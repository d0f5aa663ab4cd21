"""Real ZeroMQ peers for the tests of the transport: one behaviour per name, output line by line."""

import os
import sys
import time

import zmq


def say(*words):
    print(*words, flush=True)


def socket(kind, port, identity=b"", curve=None, **options):
    s = zmq.Context.instance().socket(kind)
    s.linger = 0
    s.rcvtimeo = s.sndtimeo = 20000
    for name, value in options.items():
        setattr(s, name, value)
    if identity:
        s.identity = identity
    if curve:
        _, secret = zmq.curve_keypair()
        secret = os.environ.get("CLIENT_SECRET", "").encode() or secret
        s.curve_publickey, s.curve_secretkey = zmq.curve_public(secret), secret
        s.curve_serverkey = curve.encode()
    s.connect(f"tcp://127.0.0.1:{port}")
    return s


def echo(port, kind, identity, curve=None):
    """Sends messages of many shapes, checks that they come back."""
    s = socket(getattr(zmq, kind), port, identity.encode(), curve)
    if kind == "ROUTER":
        time.sleep(0.5)
    for frames in (
        [b"one"],
        [b"a", b"", b"b" * 255, b"c" * 256, b"d" * 20000],
        [os.urandom(3_000_000), b"end"],
        [b"%d" % i for i in range(2000)],
    ):
        if kind == "ROUTER":
            frames = [b"mux_in", *frames]
        s.send_multipart(frames)
        got = s.recv_multipart()
        assert got == frames, (len(got), len(frames))
    say("echoed")


def large(port, size, count, curve=None):
    s = socket(zmq.DEALER, port, b"large", curve)
    payload = os.urandom(1 << 20) * (int(size) >> 20)
    for _ in range(int(count)):
        s.send_multipart([b"head", payload, b"tail"])
        head, got, tail = s.recv_multipart()
        assert (head, tail) == (b"head", b"tail") and got == payload
    say("echoed")


def flood(port, size, count):
    """Sends without reading."""
    s = socket(zmq.DEALER, port, b"flood", sndhwm=1)
    for _ in range(int(count)):
        s.send(bytes(int(size)))
    s.linger = 20000
    s.close()
    zmq.Context.instance().term()
    say("sent")


def subscribe(port, topic, count, curve=None):
    s = socket(zmq.SUB, port, curve=curve)
    s.subscribe(topic)
    for _ in range(int(count)):
        say(*[f.decode() for f in s.recv_multipart()])
    s.unsubscribe(topic)
    s.subscribe("other")
    say(*[f.decode() for f in s.recv_multipart()])


def publish(port, kind, curve=None):
    """An engine's output socket: must be subscribed to before anything arrives."""
    s = socket(getattr(zmq, kind), port, b"engine", curve)
    if kind == "XPUB":
        say("topic", s.recv())
    else:
        time.sleep(0.5)
    s.send_multipart([b"stream", b"hello"])
    say(sys.stdin.readline().strip())


def handshake(port, curve=None):
    """Prints what libzmq says of the handshake."""
    s = zmq.Context.instance().socket(zmq.DEALER)
    s.linger = 0
    m = s.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_DISCONNECTED
    )
    if curve:
        s.curve_publickey, s.curve_secretkey = zmq.curve_keypair()
        s.curve_serverkey = curve.encode()
    s.connect(f"tcp://127.0.0.1:{port}")
    from zmq.utils.monitor import recv_monitor_message

    event = recv_monitor_message(m)
    say(zmq.Event(event["event"]).name, event["value"])


def silent(port, kind, curve=None):
    """Connects, says that it is there, and reads nothing until told to."""
    s = socket(getattr(zmq, kind), port, b"silent", curve, rcvhwm=1)
    if kind == "SUB":
        s.subscribe("")
    else:
        s.send(b"here")
    say("silent")
    sys.stdin.readline()
    got = 0
    while True:
        frames = s.recv_multipart()
        got += 1
        if frames[-1] == b"end":
            break
    say(got)


def reconnect(port, rounds):
    for i in range(int(rounds)):
        context = zmq.Context()
        s = context.socket(zmq.DEALER)
        s.identity = b"again"
        s.linger = 0
        s.rcvtimeo = 20000
        s.connect(f"tcp://127.0.0.1:{port}")
        s.send(b"%d" % i)
        assert s.recv() == b"%d" % i
        s.close()
        context.term()
    say("done")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    os._exit(0)
