"""The warm parent: a Python that has imported everything, and forks one engine per order.

Orders come from the supervisor and events go to it, one JSON object a line, over the socket that the first argument
names (their shapes are in the program's `engines::message`). With an order to start an engine comes the descriptor
that its output goes to.

An engine is stock `ipyparallel.engine` but for its nanny: one process, forked from here too, serves all engines.
Here is no thread, no ZeroMQ context and no event loop: they do not survive a fork.

When the supervisor is gone, however it ended, the socket says so, and nothing that was started here is left.
"""

import array
import atexit
import ctypes
import gc
import importlib
import json
import os
import platform
import random
import selectors
import signal
import socket
import sys
import time
import traceback
from importlib import metadata

# As the engine itself does before its imports: a warning that is for users of a debugger.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

import piparallel_nanny  # noqa: E402
from ipyparallel.engine.app import IPEngine  # noqa: E402

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
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
PATIENCE = 2.5  # seconds for the nanny to tell the hub of the last engines
NANNY_ANSWER = 10  # seconds

libc = ctypes.CDLL(None)


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
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.is_over = False
        while not self.is_over:
            for key, _ in self.selector.select():
                key.data()
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
        libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
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
            run_engine(self.settings, slot, connection, Lines(theirs), output)
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
            become("nanny")
            piparallel_nanny.run(theirs)
        theirs.close()
        self.nanny = Lines(ours)
        self.selector.register(ours, selectors.EVENT_READ, self.from_nanny)
        for child in self.children.values():
            if child.registration:
                self.to_nanny(child.registration)

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
                print("the nanny of the engines ended, another one starts", file=sys.stderr)
                if self.nanny.socket.fileno() in self.selector.get_map():
                    self.selector.unregister(self.nanny.socket)
                self.nanny.socket.close()
                self.start_nanny()

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
            self.until_children(lambda: not is_child(self.nanny_pid), deadline)
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


def become(name):
    """A session and a name of its own, and no life without the warm parent."""
    parent = os.getppid()
    os.setsid()
    libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


def run_engine(settings, slot, connection, channel, output):
    """The life of an engine's process."""
    try:
        become(f"ipengine-{slot}")
        try:
            with open("/proc/self/oom_score_adj", "w") as score:
                score.write(str(settings["oom_score_adj"]))
        except PermissionError:
            # It is higher already, and lowering it is not for everybody.
            pass
        os.nice(settings["nice"])
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        # Parents and children are not to draw the same numbers; `random` itself sees to that.
        if numpy := sys.modules.get("numpy.random"):
            numpy.seed()
        random.seed()
        app = prepare(settings, connection, channel)
        app.start()
    except SystemExit as e:
        leave(e.code if isinstance(e.code, int) else 0 if e.code is None else 1)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        leave(1)
    leave(0)


def leave(code):
    """As the interpreter would: what user code registered for its end is called."""
    try:
        atexit._run_exitfuncs()
        sys.__stdout__.flush()
        sys.__stderr__.flush()
    finally:
        os._exit(code)


def prepare(settings, connection, channel):
    def start_nanny(engine, control_url):
        """In place of a process for this engine alone."""
        text = {k: getattr(engine, k).decode("ascii") for k in ("curve_serverkey", "curve_publickey", "curve_secretkey")}
        channel.say(
            {
                "id": engine.id,
                "uuid": engine.ident,
                "control_url": control_url,
                "registration_url": engine.registration_url,
                "key": engine.session.key.decode("latin-1"),
                "signature_scheme": engine.session.signature_scheme,
                "packer": engine.session.packer,
                "unpacker": engine.session.unpacker,
                **text,
            }
        )
        channel.socket.settimeout(NANNY_ANSWER)
        while not (answer := channel.read()):
            if answer is None:
                raise RuntimeError("the warm parent is gone")
        if answer[0]["event"] != "listening":
            raise RuntimeError(f"the nanny has no connection for this engine: {answer[0]['cause']}")
        return f"tcp://127.0.0.1:{answer[0]['port']}", channel

    sys.argv = ["ipengine"]
    IPEngine.start_nanny = start_nanny
    app = IPEngine.instance()
    app.connection_info_env = json.dumps(connection)
    # A pool may give the engines of each node a key of their own.
    for key in ("curve_publickey", "curve_secretkey"):
        if connection.get(key):
            setattr(app, key, connection[key].encode("ascii"))
    app.initialize([f"--profile-dir={settings['profile']}", "--log-level=WARN"])
    return app


def main():
    gc.disable()
    # Warnings about threads at a fork: those of OpenBLAS stop for it by themselves.
    sys.warnoptions.clear()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    libc.prctl(PR_SET_NAME, b"engines", 0, 0, 0)
    parent = Parent(Lines(control))
    parent.run()
