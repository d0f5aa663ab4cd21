"""Wi-Fi of the card, with two radios that a driver of the kernel simulates: one is an access point, the other is the
card's. What real radios do, and on which channels, is not seen here."""

import re
from pathlib import Path

import pytest
from lab import IMAGES, run, until
from pool import Pool

PATIENCE = 900
DRIVER = "mac80211_hwsim.ko.xz"

OPTIONS = """
[wifi]
ssid = "lab at home"
passphrase = "correct horse"
country = "DE"
"""
ACCESS_POINTS = "/var/lib/iwd/ap"
ACCESS_POINT = r"[Security]\nPassphrase=correct horse\n"


def simulated_radios(directory: Path) -> Path:
    """The driver, of the card's own kernel. It is not on the card: no Pi has use for it."""
    kernel = next(IMAGES.glob("arm64/vmlinuz-*")).name.removeprefix("vmlinuz-")
    package = next((IMAGES / "packages" / "arm64").glob(f"linux-modules-{kernel}_*.deb"))
    run("dpkg-deb", "--extract", package, directory / "modules")
    return next((directory / "modules").rglob(DRIVER))


@pytest.fixture
def pi(tmp_path):
    """Runs a command on a Pi whose options name a network, as root."""
    pool = Pool(tmp_path, size=1)
    card = pool.controller
    try:
        card.write("piparallel.toml", card.options + OPTIONS)
        card.put(simulated_radios(tmp_path))
        card.power_on()
        pool.wait_for_ssh(card, PATIENCE)
        yield lambda *command: pool.on(card, "sudo", *command, check=False)
    finally:
        pool.close()


def test_a_card_joins_the_network_of_its_options_once_there_is_a_radio(pi):
    assert "cfg80211" not in pi("lsmod"), "no radio, and no driver for one"
    assert pi("systemctl", "is-active", "iwd") == "inactive\n"

    pi("modprobe", "mac80211")
    pi("insmod", f"/boot/firmware/{DRIVER}", "radios=2")
    until(lambda: pi("systemctl", "is-active", "iwd") == "active\n", PATIENCE, "udev starts iwd")
    until(lambda: "wlan1" in pi("iwctl", "device", "list"), PATIENCE, lambda: f"two radios: {pi('dmesg')}")
    assert "PowerSaveDisable" in pi("journalctl", "--unit=iwd", "--no-pager")

    pi("sh", "-c", f'\'mkdir -p {ACCESS_POINTS} && printf "{ACCESS_POINT}" >"{ACCESS_POINTS}/lab at home.ap"\'')
    pi("iwctl", "device", "wlan1", "set-property", "Mode", "ap")
    pi("iwctl", "ap", "wlan1", "start-profile", "'lab at home'")

    def station() -> str:
        return pi("iwctl", "station", "wlan0", "show")

    until(lambda: "lab at home" in station(), PATIENCE, lambda: f"it is connected: {station()}")
    assert "WPA2-Personal" in station()
    until(lambda: re.search("wlan0 .* configured", pi("networkctl")), PATIENCE, lambda: pi("networkctl"))
