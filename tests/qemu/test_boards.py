"""The card in a board of Raspberry Pi, as far as QEMU has it: kernel, initramfs and device tree are those of its boot
partition, and the system comes from the card slot. What the firmware does before that is not seen here."""

import gzip
import time
from pathlib import Path

import pytest
from lab import BOOT_PARTITION, IS_UP, Network, Pi, run, until

PATIENCE = 1500


class Pi3(Pi):
    """A Pi 3 B. Its Ethernet is on USB, where the emulator has another one."""

    tree = "bcm2837-rpi-3-b.dtb"

    def machine(self, files: Path, options: str, drive: str, log: Path) -> list[str | Path]:
        for name in ("kernel.img", "initrd.img", self.tree):
            run("mcopy", "-n", "-i", f"{self.card}@@{BOOT_PARTITION}", f"::{name}", self.directory)
        kernel = self.directory / "kernel"
        kernel.write_bytes(gzip.decompress((self.directory / "kernel.img").read_bytes()))
        return [
            *("qemu-system-aarch64", "-M", "raspi3b", "-dtb", self.directory / self.tree),
            *("-kernel", kernel, "-initrd", self.directory / "initrd.img", "-append", options),
            *("-drive", f"{drive},format=raw,if=sd"),
            *("-netdev", f"tap,id=lan,ifname={self.tap},script=no,downscript=no"),
            *("-device", f"usb-net,netdev=lan,mac={self.mac}", "-display", "none", "-monitor", "none", "-no-reboot"),
            # The port that Bluetooth has on the board, and that of the header.
            *("-serial", "null", "-serial", f"file:{log}"),
        ]


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
