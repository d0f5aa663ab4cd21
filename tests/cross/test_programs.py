"""The programs for the Pi and for servers: what they are made of, and whether they run."""

import json
import re
import subprocess

from machines import ROOT

MEGABYTE = 1_000_000
PAGE_OF_PI_5 = 16 << 10


def readelf(machine, *options: str) -> str:
    return subprocess.run(
        ["readelf", "--wide", *options, machine.program], check=True, capture_output=True, text=True
    ).stdout


def version() -> str:
    return re.search(r'(?m)^version = "(.+)"', (ROOT / "Cargo.toml").read_text())[1]


def test_it_is_for_its_machine(machine):
    header = readelf(machine, "--file-header")
    assert re.search(rf"Class: +{machine.elf_class}\n", header)
    assert re.search(rf"Machine: +{machine.elf_machine}\n", header)
    if machine.arch == "armhf":
        assert "hard-float ABI" in header


def test_it_needs_no_interpreter_and_no_library(machine):
    assert "INTERP" not in readelf(machine, "--program-headers")
    assert "NEEDED" not in readelf(machine, "--dynamic")


def test_it_is_stripped(machine):
    sections = readelf(machine, "--section-headers")
    assert ".text" in sections
    assert ".symtab" not in sections and ".debug" not in sections


def test_it_names_no_place_of_the_machine_that_built_it(machine):
    content = machine.program.read_bytes()
    assert str(ROOT).encode() not in content
    assert b".cargo/registry" not in content


def test_it_is_small(machine):
    assert machine.program.stat().st_size < 8 * MEGABYTE


def test_its_segments_fit_pages_of_16_kib(machine):
    if machine.arch == "amd64":
        return
    loads = re.findall(r"LOAD +(0x\w+) +(0x\w+) .*(0x\w+)\n", readelf(machine, "--program-headers"))
    assert loads
    for offset, address, alignment in ((int(n, 16) for n in load) for load in loads):
        assert alignment >= PAGE_OF_PI_5
        assert offset % PAGE_OF_PI_5 == address % PAGE_OF_PI_5


def test_it_says_its_version(machine):
    assert machine.run("--version") == f"piparallel {version()}\n"


def test_dates_after_2038_survive(machine, tmp_path):
    said = subprocess.run(
        [*machine.emulator, machine.built / "piparallel-probe", tmp_path / "file"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert said == ["time_t=8", "std=4000000000", "c=4000000000"]


def test_a_controller_works(machine, new_controller):
    controller = new_controller().start()
    client = controller.start_engines(1)
    assert client[:].apply_sync(abs, -42) == [42]
    files = f"--profile-dir={controller.profile}"
    status = json.loads(machine.run("status", "--json", files))
    assert len(status["engines"]) == 1


def test_a_controller_works_with_pages_of_16_kib(machine, new_controller):
    controller = new_controller(page=PAGE_OF_PI_5).start()
    client = controller.start_engines(1)
    # Large enough for memory of its own, and for its return to the system.
    assert client[:].apply_sync(len, bytes(20 << 20)) == [20 << 20]
    assert client[:].apply_sync(bytes, 20 << 20) == [bytes(20 << 20)]
