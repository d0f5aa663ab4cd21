"""A network cable that loses and delays packets.

    wire.py PORT PID INTERFACE LOSS DELAY

Makes the TAP interface PORT here and INTERFACE in the network namespace of process PID, and carries frames
between them: each is lost with probability LOSS, and comes DELAY seconds later, up to half as much again. Says
`ready`, and ends with its standard input.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x0002 | 0x1000
CLONE_NEWNET = 0x40000000
# A frame of a network without jumbo frames, with room for its headers.
FRAME_MAX = 2048
# Frames under way at a time; a real switch drops too.
QUEUE_MAX = 2000


def tap(name: str) -> int:
    """A new TAP interface in the namespace of this process; it lives as long as the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP_NO_PI))
    return fd


def enter(pid: str):
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def carry(ends: list[int], loss: float, delay: float):
    """Carry frames until standard input ends."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    queue: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        readable, _, _ = select.select([*ends, 0], [], [], wait)
        if 0 in readable:
            return
        for end in readable:
            try:
                frame = os.read(end, FRAME_MAX)
            except OSError:  # the interface is down
                continue
            if random.random() >= loss and len(queue) < QUEUE_MAX:
                count += 1
                due = time.monotonic() + delay * random.uniform(1, 1.5)
                heapq.heappush(queue, (due, count, other[end], frame))
        while queue and queue[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(queue)
            try:
                os.write(end, frame)
            except OSError:  # likewise
                pass


def main():
    port, pid, interface, loss, delay = sys.argv[1:]
    ends = [tap(port)]
    enter(pid)
    ends.append(tap(interface))
    print("ready", flush=True)
    carry(ends, float(loss), float(delay))


if __name__ == "__main__":
    main()
