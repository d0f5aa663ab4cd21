"""The card in a board of Raspberry Pi, as far as QEMU has it: kernel, initramfs and device tree are those of its boot
partition, and the system comes from the card slot. What the firmware does before that is not seen here."""

import gzip
import time
from pathlib import Path

import pytest
from lab import BOOT_PARTITION, IMAGES, IS_UP, Network, Pi, run, until
from pool import Pool

PATIENCE = 1500


class Pi3(Pi):
    """A Pi 3 B. Its Ethernet is on USB, where the emulator has another one."""

    tree = "bcm2837-rpi-3-b.dtb"
    # The emulator has no graphics processor that would answer the first driver, which then takes the kernel down.
    # Its watchdog bites when it is told to watch.
    lacks = "modprobe.blacklist=vchiq,bcm2835_wdt"

    def machine(self, files: Path, options: str, drive: str, log: Path) -> list[str | Path]:
        for name in ("kernel.img", "initrd.img", self.tree):
            run("mcopy", "-n", "-i", f"{self.card}@@{BOOT_PARTITION}", f"::{name}", self.directory)
        kernel = self.directory / "kernel"
        kernel.write_bytes(gzip.decompress((self.directory / "kernel.img").read_bytes()))
        return [
            *("qemu-system-aarch64", "-M", "raspi3b", "-dtb", self.directory / self.tree),
            *("-kernel", kernel, "-initrd", self.directory / "initrd.img", "-append", f"{options} {self.lacks}"),
            *("-drive", f"{drive},format=raw,if=sd"),
            *("-netdev", f"tap,id=lan,ifname={self.tap},script=no,downscript=no"),
            *("-device", f"usb-net,netdev=lan,mac={self.mac}", "-display", "none", "-monitor", "none", "-no-reboot"),
            # The port that Bluetooth has on the board, and that of the header.
            *("-serial", "null", "-serial", f"file:{log}"),
        ]

    def address(self) -> str | None:
        # Of the emulator's Ethernet on USB the Pi makes up the hardware address; nobody else is on this network.
        leases = self.network.leases
        return leases.read_text().split()[2] if leases.exists() and leases.read_text() else None


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


def test_a_pi_3_boots_from_its_card_and_becomes_a_pool(network, tmp_path, times):
    pi = Pi3(network, 1, tmp_path, 'pool = "lab"\nrole = "controller"\n', port="ttyS1")
    try:
        began = time.monotonic()
        pi.power_on().wait_for(IS_UP, PATIENCE)
        times["raspi3b: power on → multi-user"] = time.monotonic() - began
        until(pi.address, PATIENCE, lambda: f"it has an address: {pi.console()[-3000:]}")
        pi.wait_for("controller of lab", PATIENCE)
        assert "Machine model: Raspberry Pi 3" in pi.console()
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
