"""What happens to the files of one directory, in order: the kernel's own account, so nothing is missed."""

import ctypes
import os
import struct
from pathlib import Path

KINDS = {0x2: "changed", 0x4: "mode changed", 0x80: "moved here", 0x100: "created"}


class Watch:
    """Events of `directory` from the moment that this is made."""

    def __init__(self, directory: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0 or libc.inotify_add_watch(self.fd, os.fsencode(directory), sum(KINDS)) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {directory}")

    def events(self) -> list[tuple[str, str]]:
        """What happened since the last call: file name and one of `KINDS`."""
        found = []
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return found
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            name = data[16 : 16 + length].rstrip(b"\0").decode()
            found += [(name, kind) for bit, kind in KINDS.items() if mask & bit]
            data = data[16 + length :]
        return found

    def close(self) -> None:
        os.close(self.fd)
