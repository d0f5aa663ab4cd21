"""Another user may not be able to reach the Python of this environment, below a private home directory. In a mount
namespace of its own a process sees that directory as one like any other."""

import sys
from pathlib import Path

# The directories are the first argument; then comes the command, if there is one.
UNLOCK = """
for dir in $0; do
    copy=$(mktemp -d)
    mount --bind "$dir" "$copy"
    mount -t tmpfs -o mode=755 tmpfs "$dir"
    for entry in "$copy"/* "$copy"/.[!.]*; do
        [ -d "$entry" ] || continue
        mkdir "$dir/$(basename "$entry")"
        mount --bind "$entry" "$dir/$(basename "$entry")"
    done
    umount "$copy"
    rmdir "$copy"
done
"""


def private_directories() -> str:
    """Those on the way to this Python that only their owner may enter."""
    python = Path(sys.executable).resolve()
    return " ".join(str(parent) for parent in python.parents if not parent.stat().st_mode & 0o001)


def for_everybody() -> list[str]:
    """What to put before a command so that whoever it becomes can run this Python."""
    private = private_directories()
    return ["unshare", "--mount", "sh", "-ec", UNLOCK + 'exec "$@"', private] if private else []
