"""The card in a board of Raspberry Pi, as far as QEMU has it: kernel, initramfs and device tree are those of its boot
partition, and the system comes from the card slot. What the firmware does before that is not seen here."""

import gzip
import time
from pathlib import Path

import pytest
from lab import BOOT_PARTITION, IMAGES, IS_UP, ROOT, Network, Pi, run, until
from pool import Pool

PATIENCE = 1500


class Board(Pi):
    """A board of the maker. An Ethernet adapter is in one of its USB sockets: the emulator has no other of a Pi."""

    emulator: tuple[str | Path, ...] = ("qemu-system-aarch64",)
    card_for = "arm64"
    model: str
    tree: str
    # That of its header; the other one is Bluetooth's.
    serial_port = "ttyS1"
    # The emulator has no graphics processor that would answer the first driver, which then takes the kernel down.
    # Its watchdog bites when it is told to watch.
    lacks = "modprobe.blacklist=vchiq,bcm2835_wdt"

    def machine(self, files: Path, options: str, drive: str, log: Path) -> list[str | Path]:
        for name in ("kernel.img", "initrd.img", self.tree):
            run("mcopy", "-n", "-i", f"{self.card}@@{BOOT_PARTITION}", f"::{name}", self.directory)
        kernel, tree = self.directory / "kernel.img", self.directory / self.tree
        if self.arch == "arm64":
            # As the firmware does; one of 32 bit unpacks itself.
            kernel.write_bytes(gzip.decompress(kernel.read_bytes()))
        self.take_out_of(tree)
        return [
            *(*self.emulator, "-M", self.model, "-dtb", tree),
            *("-kernel", kernel, "-initrd", self.directory / "initrd.img", "-append", f"{options} {self.lacks}"),
            *("-drive", f"{drive},format=raw,if=sd"),
            *("-netdev", f"tap,id=lan,ifname={self.tap},script=no,downscript=no"),
            *("-device", f"usb-net,netdev=lan,mac={self.mac}", "-display", "none", "-monitor", "none", "-no-reboot"),
            *(("-serial", "null") if self.port == "ttyS1" else ()),
            *("-serial", f"file:{log}"),
        ]

    def take_out_of(self, tree: Path):
        """What would take the kernel down, for the emulator lacks it."""

    def address(self) -> str | None:
        # Of the emulator's Ethernet on USB the Pi makes up the hardware address; nobody else is on this network.
        leases = self.network.leases
        return leases.read_text().split()[2] if leases.exists() and leases.read_text() else None


class Pi2(Board):
    card_for = "armhf"
    model = "raspi2b"
    tree = "bcm2836-rpi-2-b.dtb"
    serial_port = "ttyAMA0"


class Pi3(Board):
    model = "raspi3b"
    tree = "bcm2837-rpi-3-b.dtb"


class Pi4(Board):
    """QEMU has it since 9.0; Debian 12's is older, and Debian 13's is run in its place."""

    newer = ROOT / "target" / "qemu" / "usr"
    emulator = (
        *(newer / "lib64/ld-linux-x86-64.so.2", "--library-path", newer / "lib/x86_64-linux-gnu"),
        newer / "bin/qemu-system-aarch64",
    )
    model = "raspi4b"
    tree = "bcm2711-rpi-4-b.dtb"

    def take_out_of(self, tree: Path):
        # All that makes pictures for HDMI.
        for node in run("fdtget", "-l", tree, "/soc").split():
            if "@7ef0" in node:
                run("fdtput", "-t", "s", tree, f"/soc/{node}", "status", "disabled")
        # The card is where a Pi has its radio, which a pin would switch on first.
        run("fdtput", "-d", tree, "/soc/mmc@7e300000", "mmc-pwrseq")


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


@pytest.mark.parametrize("board", [Pi2, Pi3, Pi4])
def test_a_board_boots_from_its_card_and_becomes_a_pool(board, network, tmp_path, times):
    options = 'pool = "lab"\nrole = "controller"\n'
    pi = board(network, 1, tmp_path, options, arch=board.card_for, port=board.serial_port)
    try:
        began = time.monotonic()
        pi.power_on().wait_for(IS_UP, PATIENCE)
        times[f"{pi.model}: power on → multi-user"] = time.monotonic() - began
        until(pi.address, PATIENCE, lambda: f"it has an address: {pi.console()[-3000:]}")
        pi.wait_for("controller of lab", PATIENCE)
        assert f"Machine model: Raspberry Pi {pi.model[5]}" in pi.console()
    finally:
        pi.power_off()


WORK = """
import ipyparallel as ipp
def work():
    import platform
    import numpy
    return platform.machine(), float(numpy.ones(1000).sum())
print(ipp.Client(timeout=60)[:].apply_sync(work))
"""


def test_the_card_for_32_bit_boots_on_its_machine_and_works(tmp_path, times):
    assert (IMAGES / "piparallel-armhf.img").exists(), "there is no card for armhf: make image ARCH=armhf"
    pool = Pool(tmp_path, size=1, arch="armhf")
    pi = pool.controller
    try:
        began = time.monotonic()
        pi.power_on().wait_for(IS_UP, PATIENCE)
        times["armhf: power on → multi-user"] = time.monotonic() - began
        pool.wait_for_ssh(pi, PATIENCE)
        pool.connect()
        until(lambda: pool.engines() == 1, PATIENCE, lambda: f"an engine: {pi.console()[-3000:]}")
        assert pool.python(WORK) == "[('armv7l', 1000.0)]\n"
        assert pool.on(pi, "systemctl", "--failed", "--no-legend", "--plain") == ""
    finally:
        pool.close()
