"""Virtual Pis: the image of a card, booted by QEMU on a private network. As root.

The network is a namespace with a bridge and a DHCP server; this machine is on it as 10.77.0.1, within the namespace.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "target" / "image"
BOOT_PARTITION = "4M"
DISK_SIZE = 4 << 30
# Seconds in which a condition is found true or false.
LONGEST_LOOK = 60
# What the console says when the system is up.
IS_UP = "Reached target multi-user.target"


def kernel_options(console: str) -> str:
    """The kernel's command line of the card, with this machine's console in place of a Pi's, and not quiet."""
    line = (ROOT / "image" / "boot" / "cmdline.txt").read_text().split()
    kept = [word for word in line if word != "quiet" and not word.startswith("console=")]
    # That an emulated Pi is slow is no fault of the system.
    patience = ["systemd.default_timeout_start_sec=900", "systemd.default_device_timeout_sec=900"]
    return " ".join([*kept, *patience, f"console={console}", f"systemd.wants=piparallel-console@{console}.service"])


def run(*command: str | Path, check: bool = True, timeout: float = 120, **more) -> str:
    """What a command printed; of one that fails or takes too long, nothing, if `check` is false."""
    try:
        ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, **more)
    except subprocess.TimeoutExpired:
        assert not check, f"{command}: not within {timeout} s"
        return ""
    assert not check or ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def until(condition, seconds: float, what: str | Callable[[], str]):
    """Poll `condition` until it is true and return its value; fail with `what` after `seconds`."""
    left = seconds
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        assert left > 0, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.5)
        # When this machine stands still, so do the virtual ones: that is no time in which something could happen.
        left -= min(time.monotonic() - began, LONGEST_LOOK)


def spoken(log: Path) -> str:
    """What a console has said, without its colours."""
    return re.sub(r"\x1b\[[\d;]*[mK]", "", log.read_text(errors="replace")) if log.exists() else ""


class Network:
    """A namespace with a bridge on which DHCP is served."""

    def __init__(self):
        self.name = f"pis-{os.getpid()}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "lan", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        self.ip("address", "add", "10.77.0.1/24", "dev", "lan")
        self.ip("link", "set", "lan", "up")
        self.ip("route", "add", "default", "via", "10.77.0.1", check=False)
        self.taps = 0
        self.leases = Path(f"/run/{self.name}.leases")
        self.dhcp = self.spawn(
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=lan",
            "--bind-interfaces",
            "--dhcp-range=10.77.0.50,10.77.0.200,1h",
            f"--dhcp-leasefile={self.leases}",
        )

    def ip(self, *arguments: str, check: bool = True) -> str:
        return run("ip", "-n", self.name, *arguments, check=check)

    def inside(self, *command: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", self.name, *command]

    def spawn(self, *command: str | Path, **more) -> subprocess.Popen:
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
        return subprocess.Popen(self.inside(*command), **more)

    def new_tap(self) -> str:
        self.taps += 1
        tap = f"tap{self.taps}"
        self.ip("tuntap", "add", "dev", tap, "mode", "tap")
        self.ip("link", "set", tap, "master", "lan", "up")
        return tap

    def address_of(self, mac: str) -> str | None:
        """The address that the machine with this hardware address has."""
        for line in self.leases.read_text().splitlines() if self.leases.exists() else []:
            _, its_mac, address, *_ = line.split()
            if its_mac == mac:
                return address
        return None

    def close(self):
        self.dhcp.kill()
        self.dhcp.wait()
        run("ip", "netns", "delete", self.name, check=False)
        self.leases.unlink(missing_ok=True)


@dataclass
class Pi:
    """A virtual Pi with a card of its own."""

    network: Network
    number: int
    directory: Path
    options: str
    arch: str = "arm64"
    # What its card begins with, if that is not Debian.
    base: str = ""
    memory: int = 512
    # More would wait for each other: there are no cores for them here.
    cores: int = 1
    process: subprocess.Popen | None = None
    boots: int = 0
    # Whether something is plugged into its HDMI socket.
    screen: bool = False
    # Its console, and what else its kernel is told.
    port: str = "ttyAMA0"
    more_options: str = ""

    def __post_init__(self):
        self.mac = f"52:54:00:77:00:{self.number:02x}"
        self.card = self.directory / f"pi{self.number}.img"
        self.tap = self.network.new_tap()
        self.new_card()

    def new_card(self):
        """Put a card in that was never used. The Pi has to be off."""
        run("cp", "--sparse=always", IMAGES / f"piparallel-{self.flavour}.img", self.card)
        os.truncate(self.card, DISK_SIZE)
        self.write("piparallel.toml", self.options)

    @property
    def flavour(self) -> str:
        """The card's name among the images."""
        return f"{self.arch}-{self.base}" if self.base else self.arch

    def write(self, name: str, text: str):
        """Put a file onto the boot partition, as another computer would. The Pi has to be off."""
        file = self.directory / name
        file.write_text(text)
        self.put(file)

    def put(self, file: Path):
        """The same with a file that there is."""
        run("mcopy", "-o", "-i", f"{self.card}@@{BOOT_PARTITION}", file, "::")

    def read(self, name: str) -> str | None:
        """A file of the boot partition. The Pi has to be off."""
        ran = subprocess.run(
            ["mtype", "-i", f"{self.card}@@{BOOT_PARTITION}", f"::{name}"], capture_output=True, text=True
        )
        return ran.stdout if ran.returncode == 0 else None

    @property
    def log(self) -> Path:
        return self.directory / f"pi{self.number}-{self.boots}.log"

    def console(self) -> str:
        """What it has said since it was switched on."""
        return spoken(self.log)

    def power_on(self) -> "Pi":
        self.boots += 1
        options = f"{kernel_options(self.port)} {self.more_options}"
        drive = f"file={self.card},cache=writeback"
        self.process = self.network.spawn(*self.machine(IMAGES / self.flavour, options, drive, self.log))
        return self

    def machine(self, files: Path, options: str, drive: str, log: Path) -> list[str | Path]:
        """How the emulator is called: with kernel and initramfs of `files`, and a disk."""
        # The kernel of the Pi 2 has no driver for these devices on PCI.
        emulator, cpu, bus = {
            "arm64": ("qemu-system-aarch64", "cortex-a53", "pci"),
            "armhf": ("qemu-system-arm", "cortex-a7", "device"),
        }[self.arch]
        # The smallest on which the console has its usual letters.
        screen = ("-device", f"virtio-gpu-{bus},xres=640,yres=400", "-qmp", f"unix:{self.orders},server,nowait")
        return [
            *(emulator, "-M", "virt", "-cpu", cpu, "-smp", str(self.cores), "-m", str(self.memory)),
            *("-kernel", next(files.glob("vmlinuz*")), "-initrd", next(files.glob("initrd*.img")), "-append", options),
            *("-drive", f"{drive},format=raw,if=none,id=card", "-device", f"virtio-blk-{bus},drive=card"),
            *("-netdev", f"tap,id=lan,ifname={self.tap},script=no,downscript=no"),
            *("-device", f"virtio-net-{bus},netdev=lan,mac={self.mac}" + (",romfile=" if bus == "pci" else "")),
            *("-device", f"virtio-rng-{bus}", "-display", "none", "-monitor", "none", "-no-reboot"),
            *("-serial", f"file:{log}"),
            *(screen if self.screen else ()),
        ]

    @property
    def orders(self) -> Path:
        """Where the emulator takes orders."""
        return self.directory / f"pi{self.number}.qmp"

    def photograph(self, picture: Path):
        """Take a picture of its screen, as PNG."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.orders))
            orders = connection.makefile("rw")
            take = {"execute": "screendump", "arguments": {"filename": str(picture), "format": "png"}}
            orders.readline()
            for order in ({"execute": "qmp_capabilities"}, take):
                orders.write(json.dumps(order))
                orders.flush()
                answer = json.loads(orders.readline())
                assert "return" in answer, f"{order}: {answer}"

    def power_off(self):
        """Pull the plug."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def wait_for(self, words: str, seconds: float):
        """Wait until its console has said that."""
        until(
            lambda: words in self.console() or not self.is_on(),
            seconds,
            lambda: f"pi {self.number} says {words!r}; its console:\n{self.console()[-3000:]}",
        )
        assert words in self.console(), f"pi {self.number} is off:\n{self.console()[-3000:]}"

    def is_on(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def address(self) -> str | None:
        return self.network.address_of(self.mac)

    def ssh(self, key: Path, *command: str, check: bool = True, timeout: float = 120) -> str:
        """Run a command on it as user pi, by the ssh key of its card."""
        return run(*self.ssh_command(key, *command), check=check, timeout=timeout)

    def ssh_command(self, key: Path, *command: str) -> list[str | Path]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        options += ["ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=4"]
        flags = [flag for option in options for flag in ("-o", option)]
        return self.network.inside("ssh", *flags, "-i", key, f"pi@{self.address()}", *command)


def end_in_order():
    """Whatever ends this program, what it started ends with it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    # A shell has programs that it starts in the background ignore this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def count(text: str) -> int:
    """How many of something, as an argument of a command."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than one")
    return number


def require_tools():
    """Say what is missing, before something fails for want of it."""
    tools = ("ip", "dnsmasq", "mcopy", "mtype", "ssh", "ssh-keygen", "qemu-system-aarch64")
    missing = [tool for tool in tools if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin")]
    assert not missing, f"missing: {' '.join(missing)} (run tests/setup image)"
    assert os.geteuid() == 0, "virtual Pis need root, for their network"
