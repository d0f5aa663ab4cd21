"""Cards that begin with what Raspberry Pi makes. Not every machine can have that, so these are stand-ins of the same
shape: an archive with kernels of Raspberry Pi's names, signed with a key of its own, and an image with two partitions,
FAT and ext4. What is in them is Debian's."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
from lab import IMAGES, IS_UP, ROOT, run
from pool import Pool

PATIENCE = 900
BUILD_TIME = 3600
MiB = 1 << 20


def build(base: str | Path, **environment: str):
    run(ROOT / "image" / "build", "arm64", base, timeout=BUILD_TIME, env=os.environ | {"LEVEL": "3"} | environment)


def remove(flavour: str):
    for left in IMAGES.glob(f"*{flavour}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def on_boot_partition(flavour: str) -> set[str]:
    return {file.name for file in (IMAGES / flavour / "boot").iterdir()}


@pytest.fixture
def image_of_raspberry_pi_os(tmp_path):
    """A plain Debian with the firmware, under the name that cards of it have."""
    run(ROOT / "tests" / "qemu" / "plain-debian", timeout=BUILD_TIME)
    boot, root, image = tmp_path / "boot", IMAGES / "plain" / "root.img", tmp_path / "stand-in.img"
    with boot.open("wb") as file:
        file.truncate(256 * MiB)
    run("mkfs.vfat", "-F", "32", "-n", "BOOTFS", boot)
    run("mcopy", "-s", "-i", boot, *(IMAGES / "arm64" / "firmware").iterdir(), "::")
    size = root.stat().st_size // MiB
    with image.open("wb") as file:
        file.truncate((264 + size) * MiB)
    table = f"label: dos\nstart=8MiB, size=256MiB, type=c\nstart=264MiB, size={size}MiB, type=83\n"
    run("sh", "-c", f"printf '{table}' | sfdisk --quiet '{image}'")
    for part, place in ((boot, 8), (root, 264)):
        run("dd", f"if={part}", f"of={image}", "bs=1M", f"seek={place}", "conv=notrunc,sparse", timeout=600)
    yield image
    remove("arm64-stand-in")


def test_a_card_from_an_image_boots_and_works(image_of_raspberry_pi_os, tmp_path):
    build(image_of_raspberry_pi_os)
    assert {"bootcode.bin", "config.txt", "piparallel.toml"} < on_boot_partition("arm64-stand-in")
    pool = Pool(tmp_path, size=1, base="stand-in")
    pi = pool.controller
    try:
        pi.power_on().wait_for(IS_UP, PATIENCE)
        pi.wait_for("controller of lab", PATIENCE)
        pool.wait_for_ssh(pi, PATIENCE)
        assert pool.on(pi, "systemctl", "--failed", "--no-legend", "--plain") == ""
        imported = pool.on(pi, "python3", "-c", "'import ipyparallel, numpy, scipy, dask; print(1)'")
        assert imported == "1\n"
    finally:
        pool.close()


def stand_in_kernel(archive: Path, model: str):
    """A package with the files of Debian's kernel where Raspberry Pi's has them, and the one that depends on it."""
    debian = next((IMAGES / "arm64").glob("vmlinuz-*"))
    version = f"{debian.name.removeprefix('vmlinuz-').split('+')[0]}+rpt-rpi-{model}"
    files = archive / model
    modules = files / "usr/lib/modules" / version
    shutil.copytree(
        IMAGES / "arm64/root/usr/lib/modules" / debian.name.removeprefix("vmlinuz-"), modules, symlinks=True
    )
    trees = files / "usr/lib" / f"linux-image-{version}"
    shutil.copytree(IMAGES / "arm64/trees", trees / "broadcom")
    (trees / "overlays").mkdir()
    (trees / "overlays" / "stand-in.dtbo").write_text("a stand-in")
    (files / "boot").mkdir()
    shutil.copy(debian, files / "boot" / f"vmlinuz-{version}")
    package(files, archive, f"linux-image-{version}", "kmod")
    package(archive / f"{model}-newest", archive, f"linux-image-rpi-{model}", f"linux-image-{version}")


def package(files: Path, archive: Path, name: str, depends: str):
    (files / "DEBIAN").mkdir(parents=True)
    fields = f"Package: {name}\nVersion: 1\nArchitecture: arm64\nMaintainer: none\nDepends: {depends}\n"
    (files / "DEBIAN" / "control").write_text(f"{fields}Description: a stand-in\n")
    run("dpkg-deb", "--build", "-Znone", files, archive / f"{name}_1_arm64.deb", timeout=600)
    shutil.rmtree(files)


@pytest.fixture
def archive(tmp_path):
    """Address and key of an archive with the kernels of two models."""
    place = tmp_path / "archive"
    index = place / "dists/trixie/main/binary-arm64"
    index.mkdir(parents=True)
    for model in ("v8", "2712"):
        stand_in_kernel(place, model)
    (index / "Packages").write_text(run("dpkg-scanpackages", "--arch=arm64", ".", cwd=place, timeout=600))
    digest = run("sha256sum", index / "Packages").split()[0]
    size = (index / "Packages").stat().st_size
    release = place / "dists/trixie/Release"
    release.write_text(
        f"Suite: stable\nCodename: trixie\nComponents: main\nArchitectures: arm64\nDate: {run('date', '-Ru')}"
        f"SHA256:\n {digest} {size} main/binary-arm64/Packages\n"
    )
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "")
    run(*gpg, "--quick-generate-key", "a stand-in")
    run(*gpg, "--clearsign", "--output", release.with_name("InRelease"), release)
    (place / "raspberrypi.gpg.key").write_text(run(*gpg, "--armor", "--export"))
    fingerprint = next(
        line.split(":")[9] for line in run(*gpg, "--list-keys", "--with-colons").splitlines() if line.startswith("fpr")
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=place)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", fingerprint
        server.shutdown()
    remove("arm64-raspios")


def test_a_card_has_the_kernels_of_the_archive_under_the_names_that_the_firmware_looks_for(archive):
    mirror, fingerprint = archive
    build("raspios", RASPIOS_MIRROR=mirror, RASPIOS_KEY=fingerprint)
    expected = {"kernel8.img", "initramfs8", "kernel_2712.img", "initramfs_2712", "overlays", "bcm2712-rpi-5-b.dtb"}
    assert expected < on_boot_partition("arm64-raspios")
    options = (IMAGES / "arm64-raspios" / "boot" / "cmdline.txt").read_text()
    assert "console=serial0,115200" in options


def test_an_archive_with_another_key_is_refused(archive):
    with pytest.raises(AssertionError, match="has another key than"):
        build("raspios", RASPIOS_MIRROR=archive[0])
