"""A stretch of network between an engine and its controller that can be cut and mended."""

import select
import socket
import threading


class Proxy:
    """Forwards TCP connections to `ports` on this machine, from ports of its own in `mapping`."""

    def __init__(self, ports: list[int]):
        self.listeners = {socket.create_server(("127.0.0.1", 0)): port for port in ports}
        self.mapping = {port: listener.getsockname()[1] for listener, port in self.listeners.items()}
        self.peers: dict[socket.socket, socket.socket] = {}
        self.state = "whole"
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def translate(self, info: dict) -> dict:
        """A connection file's content that leads through this proxy."""

        def through(value):
            if isinstance(value, list):
                return [through(v) for v in value]
            return self.mapping.get(value, value) if type(value) is int else value

        return {key: through(value) for key, value in info.items()}

    def cut(self) -> None:
        """Break every connection and accept none: the engine sees a controller that is gone."""
        self.state = "cut"

    def swallow(self) -> None:
        """Keep the connections and let nothing through: a pulled cable, a board without power."""
        self.state = "swallowing"

    def mend(self) -> None:
        """Let everything through again; connections that swallowed something are broken first."""
        self.state = "mending" if self.state == "swallowing" else "whole"

    def run(self) -> None:
        while not self.closing.is_set():
            if self.state in ("cut", "mending"):
                self.break_all()
                self.state = "whole" if self.state == "mending" else self.state
            if self.state == "swallowing":
                self.closing.wait(0.05)
                continue
            ready, _, _ = select.select([*self.listeners, *self.peers], [], [], 0.05)
            for sock in ready:
                if sock in self.listeners:
                    self.accept(sock)
                elif sock in self.peers:
                    self.forward(sock)

    def accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        if self.state != "whole":
            near.close()
            return
        try:
            far = socket.create_connection(("127.0.0.1", self.listeners[listener]), 2)
        except OSError:
            near.close()
            return
        self.peers |= {near: far, far: near}

    def forward(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
            if data:
                self.peers[sock].sendall(data)
                return
        except OSError:
            pass
        other = self.peers.pop(sock)
        self.peers.pop(other, None)
        sock.close()
        other.close()

    def break_all(self) -> None:
        for sock in self.peers:
            sock.close()
        self.peers.clear()

    def close(self) -> None:
        self.closing.set()
        self.thread.join()
        self.break_all()
        for listener in self.listeners:
            listener.close()
