"""One nanny for all engines of a machine.

For clients it is what the stock nanny of each engine is: it holds the engine's control connection to the
controller, delivers signals, passes everything else on to the engine, and tells the hub when the engine has
ended. Unlike stock it shows the engine's own CURVE keys on that connection, as a controller that admits known
engines only wants to see them.

It is forked from the warm parent, which tells it of engines that came and went, and starts another one with
the same engines and ports if it ends. One JSON object a line, both ways.
"""

import json
import os
import signal
import sys
import traceback

import psutil
import zmq
from ipyparallel import error, util
from jupyter_client.session import Session

LINGER_MS = 2000  # a hub that is there has taken the message by then
BURST = 100  # messages of one socket before the others have their turn


class Engine:
    """The control connection of one engine, and the way to the engine."""

    def __init__(self, nanny, info):
        self.nanny = nanny
        self.info = info
        self.process = psutil.Process(info["pid"])
        self.session = Session(
            key=info["key"].encode("latin-1"),
            signature_scheme=info["signature_scheme"],
            packer=info["packer"],
            unpacker=info["unpacker"],
        )
        curve = {k: info[k].encode("ascii") for k in ("curve_serverkey", "curve_publickey", "curve_secretkey")}
        self.curve = curve if curve["curve_serverkey"] else {}
        self.control = self._socket(zmq.ROUTER)
        self.control.identity = info["uuid"].encode()
        util.connect(self.control, info["control_url"], **self.curve)
        self.relay = self._socket(zmq.DEALER)
        if self.curve:
            self.relay.curve_server = True
            self.relay.curve_secretkey = self.curve["curve_secretkey"]
        if info.get("port"):
            # A nanny was there before: the engine comes back to this port by itself.
            self.port = info["port"]
            self.relay.bind(f"tcp://127.0.0.1:{self.port}")
        else:
            self.port = self.relay.bind_to_random_port("tcp://127.0.0.1")

    def _socket(self, kind):
        socket = self.nanny.context.socket(kind)
        socket.linger = LINGER_MS
        return socket

    def from_controller(self):
        for frames in received(self.control):
            try:
                self._dispatch(frames)
            except Exception:
                traceback.print_exc()

    def _dispatch(self, frames):
        idents, parts = self.session.feed_identities(frames)
        message = self.session.deserialize(parts)
        kind = message["header"]["msg_type"]
        if kind == "signal_request":
            reply = self._signal(message["content"])
            self.session.send(self.control, "signal_reply", ident=idents, content=reply, parent=message)
            return
        if kind == "shutdown_request":
            # The exit code does not tell it from a failure.
            asked = "restart" if message["content"].get("restart") else "end"
            self.nanny.say({"event": "asked", "pid": self.info["pid"], "asked": asked})
        try:
            self.relay.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            print(f"{kind} is lost: the engine takes no control messages", file=sys.stderr)

    def _signal(self, content):
        try:
            name = content["sig"]
            self.process.send_signal(getattr(signal, name) if isinstance(name, str) else name)
        except Exception:
            return error.wrap_exception()
        return {"status": "ok"}

    def from_engine(self):
        for frames in received(self.relay):
            self.control.send_multipart(frames)

    def ended(self):
        """Tell the hub."""
        with self._socket(zmq.DEALER) as socket:
            util.connect(socket, self.info["registration_url"], **self.curve)
            self.session.send(socket, "unregistration_request", content={"id": self.info["id"]})
        self.close()

    def close(self):
        self.control.close()
        # Nobody is there to read what was meant for the engine.
        self.relay.close(linger=0)


class Nanny:
    """The engines, and what the warm parent says of them."""

    def __init__(self, channel):
        self.channel = channel
        self.context = zmq.Context()
        self.poller = zmq.Poller()
        self.engines = {}
        self.handlers = {}

    def say(self, event):
        self.channel.sendall(json.dumps(event).encode() + b"\n")

    def run(self):
        """Until the warm parent closes the channel."""
        fd = self.channel.fileno()
        self.poller.register(fd, zmq.POLLIN)
        rest = b""
        while True:
            for source, _ in self.poller.poll():
                if source == fd:
                    data = self.channel.recv(65536)
                    if not data:
                        self.context.term()
                        return
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self.told(json.loads(line))
                elif handler := self.handlers.get(source):
                    handler()

    def told(self, order):
        pid = order["pid"]
        if order["order"] == "engine":
            try:
                engine = Engine(self, order)
            except Exception as e:
                self.say({"event": "failed", "pid": pid, "cause": f"{type(e).__name__}: {e}"})
                return
            self.engines[pid] = engine
            self._listen(engine.control, engine.from_controller)
            self._listen(engine.relay, engine.from_engine)
            self.say({"event": "listening", "pid": pid, "port": engine.port})
        elif order["order"] == "ended" and (engine := self.engines.pop(pid, None)):
            for socket in (engine.control, engine.relay):
                self.poller.unregister(socket)
                del self.handlers[socket]
            engine.ended()

    def _listen(self, socket, handler):
        self.poller.register(socket, zmq.POLLIN)
        self.handlers[socket] = handler


def received(socket):
    """What has come, without waiting, and not for ever."""
    for _ in range(BURST):
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def run(channel):
    """The life of the nanny's process."""
    # An interrupt of a terminal, or a signal to all of a service, is not for it: it ends last.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    util._disable_session_extract_dates()
    try:
        Nanny(channel).run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
