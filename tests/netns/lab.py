"""A network in namespaces: a switch with two halves, and machines on it, each with interfaces of its own.

Every namespace lives as long as a process that reads from a pipe of ours, so nothing is left behind however
the tests end. Links are veth pairs; a link that should lose or delay packets is a pair of TAP interfaces with
`wire.py` between them, because netem is a module that many kernels do not have.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from reachable import UNLOCK, private_directories

COMMAND_SECONDS = 10
HOLD = UNLOCK + "echo $1 >/proc/sys/kernel/hostname; echo held; exec cat >/dev/null"


def until(condition, seconds: float, what):
    """Poll `condition` until it is true and return its value; fail after `seconds` with `what`, called if it can be."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.05)
    return value


class Namespace:
    """A network namespace with a host name of its own, held by a process that ends with us. Engines' users can reach
    this Python in it."""

    def __init__(self, name: str):
        self.name = name
        self.hold()

    def hold(self):
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--", "sh", "-ec", HOLD, private_directories(), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        said = self.holder.stdout.readline()
        assert said == b"held\n", "no network namespace can be made here: run as root, or through `make netns`"
        self("ip link set lo up")

    def command(self, *arguments: str) -> list[str]:
        """The command that runs `arguments` in here."""
        of = f"/proc/{self.holder.pid}/ns"
        enter = ["nsenter", f"--net={of}/net", f"--uts={of}/uts", f"--mount={of}/mnt"]
        # Whoever enters a mount namespace is at its root, unless this says otherwise.
        return [*enter, "--wd=.", "--", *map(str, arguments)]

    def __call__(self, command: str) -> str:
        """Run a short command in here and return what it prints."""
        done = subprocess.run(
            self.command(*shlex.split(command)), capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        assert done.returncode == 0, f"{self.name}: {command}: {done.stderr.strip()}"
        return done.stdout

    def processes(self) -> list[int]:
        """All that run in here, but for the holder."""
        network = os.stat(f"/proc/{self.holder.pid}/ns/net")
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), network):
                    found.append(int(pid))
            except OSError:
                pass  # It has ended.
        return [pid for pid in found if pid != self.holder.pid]

    def close(self):
        if self.holder:
            self.holder.stdin.close()
            self.holder.stdout.close()
            self.holder.wait(COMMAND_SECONDS)


class Machine(Namespace):
    """A machine on the network. Interface `eth0` is there from the start unless `links` says otherwise."""

    def __init__(self, lab: "Lab", name: str, number: int):
        super().__init__(name)
        self.lab = lab
        self.number = number

    @property
    def address(self) -> str:
        """The IPv4 address of eth0."""
        return self.lab.address(self.number)

    def plug(self, interface: str = "eth0", *, subnet: int = 77):
        """Connect a new interface to the switch."""
        port = self.lab.port(self, interface)
        self(f"ip link add {interface} type veth peer name {port} netns {self.lab.switch.holder.pid}")
        self.lab.attach(port)
        self.configure(interface, subnet)

    def plug_bad_wire(self, interface: str = "eth0", *, loss: float = 0.0, delay: float = 0.0):
        """Connect a new interface by a wire that loses and delays packets, each way."""
        port = self.lab.port(self, interface)
        wire = Path(__file__).with_name("wire.py")
        arguments = [port, str(self.holder.pid), interface, loss, delay]
        process = subprocess.Popen(
            self.lab.switch.command(sys.executable, wire, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.lab.wires.append(process)
        assert process.stdout.readline() == b"ready\n", "the wire did not come up"
        self.lab.attach(port)
        self.configure(interface, 77)

    def configure(self, interface: str, subnet: int):
        # The same one whenever this machine starts.
        mark = sum(interface.encode()) & 255
        self(f"ip link set {interface} address 02:00:00:{subnet:02x}:{mark:02x}:{self.number:02x}")
        self(f"ip link set {interface} up")
        self(f"ip address add {self.lab.address(self.number, subnet)}/24 broadcast + dev {interface}")
        self(f"ip route replace 224.0.0.0/4 dev {interface}")

    def unplug(self, interface: str = "eth0"):
        """Pull the cable: the interface is there and has no carrier."""
        self.lab.switch(f"ip link set {self.lab.port(self, interface)} down")

    def plug_back(self, interface: str = "eth0"):
        self.lab.switch(f"ip link set {self.lab.port(self, interface)} up")

    def cut_power(self):
        """All processes end at once, and nothing of it is seen on the network."""
        self.unplug()
        while processes := self.processes():
            for pid in processes:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)
        # Its network goes with it: no kernel is left that would close the connections.
        for port in self.lab.ports_of(self):
            self.lab.switch(f"ip link delete {port}")
        self.close()
        self.holder = None

    def power_on(self):
        """As before, with another network of the same address; nothing runs."""
        if not self.holder:
            self.hold()
            self.plug()

    def move(self, half: int):
        """Move to half 0 or 1 of the switch; between them nothing passes, and nobody's link goes down."""
        for port in self.lab.ports_of(self):
            self.lab.switch(f"ip link set {port} master br{half}")


class Lab:
    """The switch and all machines."""

    def __init__(self):
        self.machines: list[Machine] = []
        self.wires: list[subprocess.Popen] = []
        self.switch = Namespace("switch")
        for bridge in ("br0", "br1"):
            # Without snooping multicast goes to every port, as in a cheap switch.
            self.switch(f"ip link add {bridge} type bridge mcast_snooping 0 stp_state 0 forward_delay 0")
            self.switch(f"ip link set {bridge} up")

    def machine(self, name: str, *, plugged: bool = True) -> Machine:
        machine = Machine(self, name, len(self.machines) + 1)
        self.machines.append(machine)
        if plugged:
            machine.plug()
        return machine

    def address(self, number: int, subnet: int = 77) -> str:
        return f"10.77.{subnet}.{number}"

    def port(self, machine: Machine, interface: str) -> str:
        return f"p{machine.number}{interface}"[:15]

    def ports_of(self, machine: Machine) -> list[str]:
        links = json.loads(self.switch("ip -json link show"))
        return [link["ifname"] for link in links if link["ifname"].startswith(f"p{machine.number}e")]

    def attach(self, port: str):
        self.switch(f"ip link set {port} master br0")
        self.switch(f"ip link set {port} up")

    def close(self):
        for wire in self.wires:
            wire.stdin.close()
            wire.stdout.close()
            wire.wait(COMMAND_SECONDS)
        for namespace in [*self.machines, self.switch]:
            namespace.close()


def can_make_namespaces() -> str:
    """Why no lab can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "not root: run `make netns`, which asks for a user namespace where it can"
    done = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""
