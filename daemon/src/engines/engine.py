"""An engine's process, from its fork to its end: stock `ipyparallel.engine`, but for the nanny."""

import atexit
import ctypes
import json
import os
import random
import signal
import sys
import time
import traceback

# As the engine itself does before its imports: a warning that is for users of a debugger.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

from ipyparallel.engine.app import IPEngine

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
NANNY_ANSWER = 10  # seconds

libc = ctypes.CDLL(None)


def set_name(name):
    """What `ps` and `top` show."""
    libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def die_with_parent(number):
    """With which signal this process ends when its parent does; 0: with none."""
    libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def become(name):
    """A session and a name of its own, and no life without the warm parent."""
    parent = os.getppid()
    os.setsid()
    set_name(name)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


def run(settings, slot, connection, channel, output):
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
        try:
            app.start()
        except RuntimeError as e:
            # So an event loop says that it was asked to stop.
            if "Event loop stopped" not in str(e):
                raise
        # A last reply is written by a thread of ZeroMQ, which nobody can ask whether it has done so.
        time.sleep(0.1)
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
        keys = ("curve_serverkey", "curve_publickey", "curve_secretkey")
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
                **{key: getattr(engine, key).decode("ascii") for key in keys},
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
