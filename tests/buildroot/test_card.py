"""The scripts that make a card of what Buildroot has built, with files in the place of kernel and system."""

import json
import os
import re
import shutil
import subprocess

import pytest
from tree import EXTERNAL, ROOT

DISK = "70697061"


def run(*command, **options) -> str:
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **options)
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture
def target(tmp_path):
    """A system as Buildroot hands it to its post-build script: packages, with the overlay over them."""
    target = tmp_path / "target"
    run(ROOT / "image/install-data", "-", target)
    (target / "etc/ssh").mkdir(parents=True)
    (target / "etc/ssh/sshd_config").write_text("Subsystem sftp /usr/libexec/sftp-server\n")
    # Buildroot runs the script again whenever it makes the system anew.
    for _ in range(2):
        run("cp", "-a", f"{ROOT}/image/overlay/.", target)
        run(EXTERNAL / "board/post-build.sh", target)
    return target


def kept() -> dict[str, str]:
    """The directories of the data partition, and where the first script of a boot mounts them."""
    script = (ROOT / "image/initramfs/scripts/init-bottom/card").read_text()
    places = re.search("<<-'PLACES'\n(.*?)\tPLACES", script, re.DOTALL)[1]
    return dict(line.split() for line in places.splitlines())


def test_every_directory_that_is_mounted_is_there(target):
    places = ["boot/firmware", "data", "tmp", *kept().values()]
    assert len(places) > 3
    assert [place for place in places if not (target / place).is_dir()] == []


def test_ssh_is_as_on_the_card_image(target):
    assert (target / "etc/ssh/sshd_config").read_text().splitlines()[0] == "Include /etc/ssh/sshd_config.d/*.conf"
    assert (target / "etc/systemd/system/sshd.service.d/card.conf").exists()
    assert "\nenable sshd.service\n" in (target / "usr/lib/systemd/system-preset/80-card.preset").read_text()


def test_nobody_else_writes_sudoers(target):
    assert (target / "etc/sudoers.d/card").stat().st_mode & 0o777 == 0o440


def test_units_come_without_what_only_the_program_writes(target):
    assert (target / "usr/lib/systemd/system/piparallel.service").exists()
    assert not (target / "usr/share").exists()


def test_first_program_makes_etc_and_var_writable(target, tmp_path):
    assert run("shellcheck", "--shell=sh", target / "usr/lib/piparallel/init") == ""
    # The tools of this machine, and in the place of systemd a script that says what it sees.
    (target / "sbin").mkdir()
    (target / "sbin/init").write_text(
        "#!/bin/sh\n"
        "touch /etc/new /var/new && echo writable\n"
        "touch /new 2>/dev/null || echo read-only\n"
        "cat /etc/machine-id /etc/hostname\n"
        'echo "$@"\n'
    )
    (target / "sbin/init").chmod(0o755)
    (target / "etc/hostname").write_text("pi\n")
    (target / "etc/machine-id").touch()
    for directory in ("proc", "sys", "tools"):
        (target / directory).mkdir()
    for name in ("bin", "lib", "lib64"):
        (target / name).symlink_to(f"tools/{name}")
    boot = """
        set -e
        mount --bind "$1" "$1"
        mount --bind /usr "$1/tools"
        ip link add eth9 address 02:00:00:00:00:01 type bridge
        mount -o remount,bind,ro "$1"
        cd "$1"
        PATH=/tools/bin exec /usr/sbin/chroot . /usr/lib/piparallel/init quiet splash
    """
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *as_root, "--mount", "--net", "--pid", "--fork"]
    seen = run(*unshare, "sh", "-c", boot, "boot", target).splitlines()
    assert seen[:2] == ["writable", "read-only"]
    identity, name, arguments = seen[2:]
    assert len(identity) == 32 and name == f"pi-{identity[:6]}"
    assert arguments == "quiet splash"
    # Nothing of it is in the system.
    assert (target / "etc/hostname").read_text() == "pi\n"


@pytest.fixture(params=["Image", "zImage"])
def card(request, tmp_path):
    """A card of a kernel in 64 or 32 bit: its kernel's name, and the image."""
    binaries = tmp_path / "images"
    (binaries / "rpi-firmware/overlays").mkdir(parents=True)
    for name in ("config.txt", "cmdline.txt"):
        shutil.copy(EXTERNAL / "board/raspberrypi" / name, binaries / "rpi-firmware")
    (binaries / "rpi-firmware/overlays/some.dtbo").write_text("overlay")
    (binaries / "bcm2711-rpi-4-b.dtb").write_text("device tree")
    (binaries / request.param).write_text("kernel")
    (binaries / "rootfs.squashfs").write_text("system")
    tools = tmp_path / "host"
    for name, directory in {"fakeroot": "bin", "mkfs.ext4": "sbin"}.items():
        (tools / directory).mkdir(parents=True)
        (tools / directory / name).symlink_to(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"))
    env = os.environ | {
        "HOST_DIR": str(tools),
        "BUILD_DIR": str(tmp_path),
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
    }
    # The second run is the one after a change.
    for _ in range(2):
        run(EXTERNAL / "board/post-image.sh", binaries, env=env)
    return request.param, binaries / "sdcard.img"


def test_card_has_the_partitions_of_the_card_image(card):
    _, image = card
    table = json.loads(run("/usr/sbin/sfdisk", "--json", image))["partitiontable"]
    assert table["id"] == f"0x{DISK}"
    # image/build has the same numbers.
    mebibyte = 2048
    found = [(part["start"] // mebibyte, part["size"] // mebibyte, part["type"]) for part in table["partitions"]]
    assert found == [(4, 256, "c"), (260, 512, "83"), (772, 512, "83"), (1284, 64, "83")]
    cmdline = (EXTERNAL / "board/raspberrypi/cmdline.txt").read_text()
    assert f"root=PARTUUID={DISK}-02 rootfstype=squashfs ro" in cmdline
    assert len(cmdline.splitlines()) == 1


def test_card_has_a_boot_partition_for_its_firmware_and_its_user(card):
    kernel, image = card
    boot = f"{image}@@4M"
    listed = run("mdir", "-/", "-b", "-i", boot).split()
    assert {name.removeprefix("::/") for name in listed} >= {
        "kernel.img",
        "config.txt",
        "cmdline.txt",
        "bcm2711-rpi-4-b.dtb",
        "piparallel.toml",
        "overlays/some.dtbo",
    }
    assert run("mtype", "-i", boot, "::/kernel.img") == "kernel"
    config = run("mtype", "-i", boot, "::/config.txt").splitlines()
    assert config.count("arm_64bit=1") == (1 if kernel == "Image" else 0)


def test_data_partition_has_what_is_mounted_and_belongs_to_root(card, tmp_path):
    _, image = card
    listed = run("/usr/sbin/debugfs", "-R", "ls -p /", image.parent / "data.ext4")
    lines = [line.split("/") for line in listed.split()]
    entries = {name: (mode, uid, gid) for _, _, mode, uid, gid, name, *_ in lines}
    mounted = kept().keys()
    assert mounted and mounted <= entries.keys()
    assert {entries[name][1:] for name in mounted} == {("0", "0")}
    assert entries["piparallel"][0] == "040700"
