"""The machines that programs are built for, and how their programs run here."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Machine:
    arch: str
    emulator: tuple[str, ...]
    elf_class: str
    elf_machine: str

    @property
    def built(self) -> Path:
        return ROOT / "target" / "cross" / self.arch

    @property
    def program(self) -> Path:
        return self.built / "piparallel"

    def command(self, *arguments: str, page: int | None = None) -> list[str]:
        """The command line for this machine's program, with pages of `page` bytes."""
        pages = ("-p", str(page)) if page and self.emulator else ()
        return [*self.emulator, *pages, str(self.program), *arguments]

    def run(self, *arguments: str, page: int | None = None) -> str:
        return subprocess.run(
            self.command(*arguments, page=page), check=True, capture_output=True, text=True, timeout=60
        ).stdout


# The processors of the Pi 3 and the Pi 2: the oldest of each kind.
EVERY = [
    Machine("arm64", ("qemu-aarch64-static", "-cpu", "cortex-a53"), "ELF64", "AArch64"),
    Machine("armhf", ("qemu-arm-static", "-cpu", "cortex-a7"), "ELF32", "ARM"),
    Machine("amd64", (), "ELF64", "Advanced Micro Devices X86-64"),
]

# `make cross-test ARCH=arm64` tests what it built.
CHOSEN = os.environ.get("ARCH", "arm64 armhf amd64").split()
MACHINES = [machine for machine in EVERY if machine.arch in CHOSEN]
