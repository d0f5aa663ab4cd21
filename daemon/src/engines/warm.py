"""The warm parent: a Python that has imported everything, and forks one engine per order.

Orders come from the supervisor and events go to it, one JSON object a line, over the socket that the first argument
names (their shapes are in the program's `engines::message`). With an order to start an engine comes the descriptor
that its output goes to.

An engine is stock `ipyparallel.engine` but for its nanny: one process, forked from here too, serves all engines.
Here is no thread, no ZeroMQ context and no event loop: they do not survive a fork.

When the supervisor is gone, however it ended, the socket says so, and nothing that was started here is left.
"""

import array
import gc
import importlib
import json
import os
import platform
import selectors
import signal
import socket
import sys
import time
from importlib import metadata

import piparallel_engine
import piparallel_nanny

# What an engine would import at its start, in several versions of several packages.
ALSO = """
    IPython.core.completer IPython.core.completerlib IPython.core.history IPython.core.magics IPython.core.oinspect
    IPython.core.payloadpage IPython.core.pylabtools IPython.extensions.storemagic asyncio.events
    concurrent.futures.thread ipykernel.comm.manager ipykernel.control ipykernel.debugger ipykernel.displayhook
    ipykernel.gui ipykernel.heartbeat ipykernel.iostream ipykernel.subshell_manager ipyparallel.engine.datapub
    ipyparallel.serialize sqlite3 tornado.platform.asyncio zmq.asyncio zmq.devices zmq.eventloop.zmqstream
""".split()

# Packages whose versions the pool compares.
TOLD = ("ipyparallel", "ipykernel", "pyzmq", "numpy")

SIGKILL = int(signal.SIGKILL)
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 2.5  # seconds for the nanny to tell the hub of the last engines
# Seconds until the next nanny starts: none, unless several end soon after their start.
NANNY_PAUSES = (0, 0.5, 2, 10)
NANNY_IS_WELL = 30  # seconds that a nanny ran, after which its end is no repetition


class Lines:
    """A stream socket that carries one JSON object a line."""

    def __init__(self, sock):
        self.socket = sock
        self.rest = b""
        self.descriptors = []

    def say(self, message):
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self):
        """The messages that have come with one read; None at the end."""
        size = socket.CMSG_SPACE(4 * 16)
        data, ancillary, _, _ = self.socket.recvmsg(65536, size, socket.MSG_CMSG_CLOEXEC)
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors = array.array("i")
                descriptors.frombytes(value[: len(value) - len(value) % 4])
                self.descriptors += descriptors
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Child:
    """An engine process, as its parent sees it."""

    def __init__(self, pid, slot, channel):
        self.pid = pid
        self.slot = slot
        self.channel = channel
        self.registration = None
        self.asked = None


class Parent:
    """The loop: orders, ends of children, and what engines and nanny say."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.settings = None
        self.children = {}
        self.nanny = None
        self.nanny_pid = None
        self.nanny_ends = 0
        # When the nanny was started, or the next one is to be.
        self.nanny_time = None
        self.selector = selectors.DefaultSelector()
        # Becomes readable when a child has ended.
        self.wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.wakeup = wake
        self.selector.register(self.wake, selectors.EVENT_READ, self.reap)
        self.selector.register(supervisor.socket, selectors.EVENT_READ, self.from_supervisor)

    def run(self):
        # Only the supervisor decides when this ends; a terminal and a service signal everybody.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        piparallel_engine.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.is_over = False
        while not self.is_over:
            for key, _ in self.selector.select(self.until_nanny()):
                key.data()
            if self.until_nanny() == 0:
                self.start_nanny()
        self.end()

    # What the supervisor says

    def from_supervisor(self):
        try:
            orders = self.supervisor.read()
        except ConnectionError:
            orders = None
        if orders is None:
            self.is_over = True
            return
        for order in orders:
            getattr(self, "order_" + order.pop("order"))(**order)

    def order_warm(self, **settings):
        self.settings = settings
        os.makedirs(settings["profile"], exist_ok=True)
        failures = {}
        for name in ALSO:
            try:
                importlib.import_module(name)
            except ImportError:
                pass
        # Modules of the user's own may be in the working directory, as for an engine.
        sys.path.insert(0, "")
        for name in settings["imports"]:
            try:
                importlib.import_module(name)
            except Exception as e:
                failures[name] = f"{type(e).__name__}: {e}"
        sys.path.remove("")
        gc.collect()
        gc.freeze()
        self.start_nanny()
        # From here on the end of the socket tells that the supervisor is gone, and there is more to do then.
        piparallel_engine.die_with_parent(0)
        versions = {"python": platform.python_version()}
        for name in {*TOLD, *(name.partition(".")[0] for name in settings["imports"])}:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                pass
        self.tell({"event": "warm", "versions": versions, "failed_imports": failures})

    def order_start(self, slot, connection):
        output = self.supervisor.descriptors.pop(0)
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError as e:
            self.tell({"event": "not_started", "slot": slot, "cause": f"cannot fork: {e}"})
            for closed in (ours, theirs):
                closed.close()
            os.close(output)
            return
        if pid == 0:
            self.forget(theirs.fileno(), output)
            piparallel_engine.run(self.settings, slot, connection, Lines(theirs), output)
        theirs.close()
        os.close(output)
        self.children[pid] = child = Child(pid, slot, Lines(ours))
        self.selector.register(ours, selectors.EVENT_READ, lambda: self.from_engine(child))
        self.tell({"event": "started", "slot": slot, "pid": pid})

    def order_signal(self, pid, signal):
        # The number is that of a child which nobody has waited for, so it is nobody else's.
        if pid in self.children:
            if signal == SIGKILL:
                kill_group(pid, signal)
            else:
                # What the task has started may be what it waits for.
                os.kill(pid, signal)

    def tell(self, event):
        try:
            self.supervisor.say(event)
        except OSError:
            # The end of the socket is about to be read.
            pass

    # Engines and their nanny

    def from_engine(self, child):
        """An engine has registered, and asks the nanny for its control connection."""
        try:
            messages = child.channel.read()
        except ConnectionError:
            messages = None
        if messages is None:
            self.selector.unregister(child.channel.socket)
            return
        for message in messages:
            child.registration = message | {"order": "engine", "pid": child.pid}
            self.to_nanny(child.registration)
            self.tell(
                {
                    "event": "registered",
                    "slot": child.slot,
                    "pid": child.pid,
                    "id": message["id"],
                    "uuid": message["uuid"],
                }
            )

    def start_nanny(self):
        ours, theirs = socket.socketpair()
        self.nanny_pid = os.fork()
        if self.nanny_pid == 0:
            self.forget(theirs.fileno())
            piparallel_engine.become("nanny")
            piparallel_nanny.run(theirs)
        theirs.close()
        self.nanny_time = time.monotonic()
        self.nanny = Lines(ours)
        self.selector.register(ours, selectors.EVENT_READ, self.from_nanny)
        for child in self.children.values():
            if child.registration:
                self.to_nanny(child.registration)

    def nanny_ended(self):
        if self.nanny.socket.fileno() in self.selector.get_map():
            self.selector.unregister(self.nanny.socket)
        self.nanny.socket.close()
        self.nanny_pid = None
        now = time.monotonic()
        self.nanny_ends = 0 if now - self.nanny_time > NANNY_IS_WELL else self.nanny_ends + 1
        pause = NANNY_PAUSES[min(self.nanny_ends, len(NANNY_PAUSES) - 1)]
        self.nanny_time = now + pause
        print(f"the nanny of the engines ended, another one starts in {pause} s", file=sys.stderr)

    def until_nanny(self):
        """Seconds until the next nanny is due; None if there is one, or none is wanted yet."""
        if self.nanny is None or self.nanny_pid:
            return None
        return max(0, self.nanny_time - time.monotonic())

    def to_nanny(self, message):
        try:
            self.nanny.say(message)
        except OSError:
            # It has ended, and its successor will be told everything.
            pass

    def from_nanny(self):
        try:
            messages = self.nanny.read()
        except ConnectionError:
            messages = None
        if messages is None:
            self.selector.unregister(self.nanny.socket)
            return
        for message in messages:
            child = self.children.get(message["pid"])
            if child is None:
                continue
            if message["event"] == "asked":
                child.asked = message["asked"]
                continue
            if message["event"] == "listening":
                if child.registration.get("port"):
                    continue
                child.registration["port"] = message["port"]
            try:
                child.channel.say(message)
            except OSError:
                # It has ended; its exit status follows.
                pass

    # Ends

    def reap(self):
        os.read(self.wake, 4096)
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            pid = info.si_pid
            child = self.children.pop(pid, None)
            if child:
                # While the engine is not waited for, its number is nobody else's.
                kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if child:
                self.ended(child, info)
            elif pid == self.nanny_pid and not self.is_over:
                self.nanny_ended()

    def ended(self, child, info):
        if child.channel.socket.fileno() in self.selector.get_map():
            self.selector.unregister(child.channel.socket)
        child.channel.socket.close()
        if child.registration:
            self.to_nanny({"order": "ended", "pid": child.pid})
        by_signal = info.si_code != os.CLD_EXITED
        self.tell(
            {
                "event": "ended",
                "slot": child.slot,
                "pid": child.pid,
                "code": None if by_signal else info.si_status,
                "signal": info.si_status if by_signal else None,
                "asked": child.asked,
            }
        )

    def end(self):
        """Ends everything that was started here, and what that has started."""
        for pid in list(self.children):
            kill_group(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        if self.nanny:
            self.until_children(lambda: not self.children, deadline)
            self.nanny.socket.close()
            self.until_children(lambda: not (self.nanny_pid and is_child(self.nanny_pid)), deadline)
        while pids := children():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except (ChildProcessError, ProcessLookupError):
                    pass
                except PermissionError:
                    # A program of another user, which nothing here can end.
                    return

    def until_children(self, condition, deadline):
        while not condition() and (left := deadline - time.monotonic()) > 0:
            if any(key.fd == self.wake for key, _ in self.selector.select(min(left, 0.1))):
                self.reap()

    def forget(self, *kept):
        """In a child: nothing of the parent's is to be held open, or to happen."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self.selector.close()
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in kept:
                try:
                    os.close(fd)
                except OSError:
                    # That of the listing itself.
                    pass
        gc.enable()


def kill_group(pid, number):
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def is_child(pid):
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def children():
    pids = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as listing:
                pids += map(int, listing.read().split())
        except FileNotFoundError:
            pass
    return pids


def main():
    gc.disable()
    # Warnings about threads at a fork: those of OpenBLAS stop for it by themselves.
    sys.warnoptions.clear()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    piparallel_engine.set_name("engines")
    parent = Parent(Lines(control))
    parent.run()
