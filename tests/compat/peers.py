"""A client and an engine made of plain sockets, to say what the stock ones never would."""

import threading
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone

import zmq
from jupyter_client.session import Session


@dataclass
class Message:
    """A received message; `idents` are its routing frames."""

    idents: list[bytes]
    header: dict
    parent: dict
    metadata: dict
    content: dict
    buffers: list[bytes]

    @property
    def type(self) -> str:
        return self.header["msg_type"]

    @property
    def id(self) -> str:
        return self.header["msg_id"]


class Peer:
    """Sockets to one controller, and a session that signs as its connection file says.

    Like the stock peers it has one CURVE key pair, for all of its connections.
    """

    def __init__(self, info: dict, curve_keys: tuple[bytes, bytes] | None = None):
        self.info = info
        self.context = zmq.Context()
        # One pair for all sockets of a peer, as stock clients and engines have.
        self.curve_keys = curve_keys or zmq.curve_keypair()
        self.session = Session(
            key=info["key"].encode(),
            signature_scheme=info["signature_scheme"],
            packer=info["pack"],
            unpacker=info["unpack"],
        )

    def url(self, port: int) -> str:
        interface = self.info["interface"].replace("*", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")
        return f"{interface}:{port}"

    def socket(
        self, kind: int, *ports: int, identity: str = "", subscribe: bool = False, receive_limit: int = 0
    ) -> zmq.Socket:
        sock = self.context.socket(kind)
        sock.linger = 0
        sock.set_hwm(0)
        if receive_limit:
            sock.rcvhwm = receive_limit
        if identity:
            sock.identity = identity.encode()
        if subscribe:
            sock.subscribe = b""
        if self.info.get("curve_serverkey"):
            sock.curve_serverkey = self.info["curve_serverkey"].encode()
            sock.curve_publickey, sock.curve_secretkey = self.curve_keys
        for port in ports:
            sock.connect(self.url(port))
        return sock

    def read(self, sock: zmq.Socket, seconds: float) -> Message | None:
        """The next message within `seconds`, or None."""
        if not sock.poll(seconds * 1000):
            return None
        idents, message = self.session.recv(sock, copy=True)
        return Message(
            idents,
            message["header"],
            message["parent_header"],
            message["metadata"],
            message["content"],
            [bytes(b) for b in message["buffers"]],
        )

    def close(self) -> None:
        self.context.destroy(linger=0)


# A client's channels, and the ports they have in the connection file.
CHANNELS = {"hub": "registration", "mux": "mux", "task": "task", "broadcast": "broadcast", "control": "control"}


class RawClient(Peer):
    """A client's sockets: `hub`, `mux`, `task`, `broadcast`, `control`, and on demand the two it listens on."""

    def __init__(self, info: dict):
        super().__init__(info)
        self.sockets = {name: self.socket(zmq.DEALER, info[key]) for name, key in CHANNELS.items()}

    def listen(self, key: str, receive_limit: int = 0) -> zmq.Socket:
        """Subscribe to `notification` or `iopub`."""
        return self.socket(zmq.SUB, self.info[key], subscribe=True, receive_limit=receive_limit)

    def send(self, channel: str, kind: str, content=None, metadata=None, to: str | None = None, buffers=()) -> str:
        """Send a request, on `mux` and `control` to the engine with uuid `to`; its msg_id."""
        ident = [to.encode()] if to is not None else None
        sent = self.session.send(
            self.sockets[channel],
            kind,
            content=content or {},
            metadata=metadata or {},
            ident=ident,
            buffers=list(buffers),
        )
        return sent["header"]["msg_id"]

    def signed_frames(self, kind: str, content=None, metadata=None, to: str | None = None) -> list[bytes]:
        """The frames of a request as they would be sent, to be altered or sent twice."""
        message = self.session.msg(kind, content=content or {}, metadata=metadata or {})
        return self.session.serialize(message, ident=[to.encode()] if to is not None else None)

    def receive(self, channel: str, seconds: float = 5) -> Message | None:
        return self.read(self.sockets[channel], seconds)

    def ask(self, kind: str, content=None, seconds: float = 5) -> Message | None:
        """Ask the hub; its answer."""
        self.send("hub", kind, content)
        return self.receive("hub", seconds)

    def engines(self) -> dict[str, str]:
        """Engine ids (as text) to uuids, as the hub tells a new client."""
        reply = self.ask("connection_request")
        assert reply is not None, "no answer to a connection_request"
        return reply.content["engines"]


class FakeEngine(Peer):
    """An engine's sockets. It beats by itself; what it answers is up to the test.

    A `receive_limit` set before it registers is how many requests it takes before it reads them.
    """

    def __init__(self, info: dict, name: str = "", curve_keys: tuple[bytes, bytes] | None = None):
        super().__init__(info, curve_keys)
        self.uuid = name or str(uuid.uuid4())
        self.id: int | None = None
        self.receive_limit = 0
        self.beating = threading.Event()
        self.beating.set()
        self.closing = threading.Event()
        self.threads: list[threading.Thread] = []
        self.registration = self.socket(zmq.DEALER, info["registration"], identity=self.uuid)

    def request_registration(self, **content) -> None:
        self.session.send(self.registration, "registration_request", content={"uuid": self.uuid, **content})

    def register(self, seconds: float = 5, **content) -> Message | None:
        """Ask for registration; the answer. The other sockets are connected once it is granted."""
        self.request_registration(**content)
        reply = self.read(self.registration, seconds)
        if reply is not None and reply.content["status"] == "ok":
            self.id = reply.content["id"]
            self.connect()
        return reply

    def connect(self) -> None:
        """Connect as an engine does after it got its id, and start to beat."""
        info, leaves = self.info, self.info["broadcast"]
        leaf = leaves[(self.id or 0) % len(leaves)]
        self.shell = self.socket(
            zmq.ROUTER, info["mux"], info["task"], leaf, identity=self.uuid, receive_limit=self.receive_limit
        )
        self.control = self.socket(zmq.ROUTER, info["control"], identity=self.uuid)
        self.iopub = self.socket(zmq.PUB, info["iopub"], identity=self.uuid)
        self.run(self.beat)

    def run(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def beat(self) -> None:
        ping = self.socket(zmq.SUB, self.info["hb_ping"], subscribe=True)
        pong = self.socket(zmq.DEALER, self.info["hb_pong"], identity=self.uuid)
        while not self.closing.is_set():
            if ping.poll(100):
                frames = ping.recv_multipart()
                if self.beating.is_set():
                    pong.send_multipart(frames)
        ping.close()
        pong.close()

    def request(self, seconds: float = 5) -> Message | None:
        """The next request on the shell socket."""
        return self.read(self.shell, seconds)

    def reply(self, request: Message, status: str = "ok", content: dict | None = None, buffers=(), **metadata) -> None:
        """Answer as an engine does; by default with success."""
        failed = {"ename": "ValueError", "evalue": "told to fail", "traceback": ["told to fail"], "engine_info": {}}
        copied = {
            k: request.metadata[k]
            for k in ("is_broadcast", "is_coalescing", "original_msg_id", "label")
            if k in request.metadata
        }
        told = {"status": status, "engine": self.uuid, "dependencies_met": True, "started": now()}
        self.session.send(
            self.shell,
            request.type.replace("_request", "_reply"),
            content={"status": status} | (failed if status == "error" else {}) | (content or {}),
            parent=request.header,
            metadata=told | copied | metadata,
            ident=request.idents,
            buffers=list(buffers),
        )

    def serve(self) -> "FakeEngine":
        """Answer every request with success, in the background, and list them in `served`."""
        self.served: list[Message] = []
        self.run(self.answer_all)
        return self

    def answer_all(self) -> None:
        while not self.closing.is_set():
            try:
                request = self.request(0.1)
            except (ValueError, TypeError):
                continue  # an engine drops what is not signed, not well-formed, or came before
            if request is not None:
                self.served.append(request)
                self.reply(request)

    def close(self) -> None:
        self.closing.set()
        for thread in self.threads:
            thread.join()
        super().close()


def now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
