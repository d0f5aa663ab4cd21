"""Put another program in the place of every `python -m ipyparallel.controller`.

ipyparallel's tests start a controller as a subprocess, through a launcher, through `ipcluster` and
through `ipp.Cluster`; all of these end in that one command line. With this directory on PYTHONPATH each
such start is written to the file COMPAT_STARTS and then becomes COMPAT_CONTROLLER (a command as a shell
would split it; the stock controller where it is unset), with the same process id and arguments.
"""

import os
import shlex
import sys


def replace_controller() -> None:
    words = sys.orig_argv
    if "-m" not in words:
        return
    at = words.index("-m")
    if words[at + 1 : at + 2] != ["ipyparallel.controller"]:
        return
    arguments = words[at + 2 :]
    command = shlex.split(os.environ.get("COMPAT_CONTROLLER", ""))
    with open(os.environ["COMPAT_STARTS"], "a") as starts:
        starts.write(shlex.join((command or ["stock"]) + arguments) + "\n")
    if command:
        os.execvp(command[0], command + arguments)


replace_controller()
