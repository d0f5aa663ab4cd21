"""Nodes find one another by multicast DNS, whatever happens to the links."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from lab import until
from node import wait_seen

# Joins the group on port 5353 as avahi and systemd-resolved do, and says what instances are announced or taken back.
RESPONDER = """
import socket, struct, sys
listen = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listen.bind(("", 5353))
member = struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton(sys.argv[1]))
listen.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
print("listening", flush=True)
def name(packet, at):
    labels, end = [], None
    while packet[at]:
        if packet[at] >= 192:
            end = end or at + 2
            at = (packet[at] & 63) << 8 | packet[at + 1]
        else:
            labels.append(packet[at + 1:at + 1 + packet[at]])
            at += 1 + packet[at]
    return b".".join(labels).decode(), end or at + 1
while True:
    packet = listen.recv(9000)
    flags, questions, answers = struct.unpack("!2x3H", packet[:8])
    if not flags & 0x8000:
        continue
    at = 12
    for _ in range(questions):
        at = name(packet, at)[1] + 4
    for _ in range(answers):
        owner, at = name(packet, at)
        kind, _, ttl, length = struct.unpack("!HHIH", packet[at:at + 10])
        at += 10
        if owner == "_piparallel._tcp.local" and kind == 12:
            print("there" if ttl else "gone", name(packet, at)[0], flush=True)
        if kind == 16:
            print("txt", length, packet[at:at + length], flush=True)
        at += length
"""


@pytest.fixture
def responder(pool):
    """`responder(machine)`: a responder on that machine, as a list of what it has said so far."""
    started = []

    def start(machine):
        process = subprocess.Popen(
            machine.command(sys.executable, "-c", RESPONDER, machine.address), stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "listening\n"
        said = []
        threading.Thread(target=lambda: said.extend(iter(process.stdout.readline, "")), daemon=True).start()
        return said

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def pool(pool):
    """Nodes without engines: they have only to be seen."""
    pool.defaults["engines.count"] = 0
    return pool


def addresses(entry: dict) -> list[str]:
    return entry["addresses"]


def test_nodes_see_one_another_and_say_goodbye(pool):
    first, second = pool.node("pi-1").start(), pool.node("pi-2").start()
    seen = wait_seen(first, {"pi-1", "pi-2"})
    assert f"{second.machine.address}:7373" in addresses(seen["pi-2"])
    assert seen["pi-2"]["txt"]["pool"] == "piparallel"
    second.stop()
    # Without the goodbye it would be known for two minutes.
    wait_seen(first, {"pi-1"})


def test_two_machines_with_one_name_are_two(pool):
    nodes = [pool.node(f"twin-{n}", name="raspberrypi").start() for n in (1, 2)]

    def instances():
        found = nodes[0].json("discover", "--seconds=1.5")["nodes"]
        return {entry["instance"] for entry in found}

    until(lambda: len(instances()) == 2, 10, lambda: f"both are seen; {pool.logs()}")


@pytest.mark.parametrize("away", [1, 6])
def test_a_cable_that_is_pulled_and_plugged_back(pool, away):
    """Also for longer than the library's own look at the addresses takes."""
    first, second = pool.node("pi-1").start(), pool.node("pi-2").start()
    wait_seen(first, {"pi-1", "pi-2"})
    first.machine.unplug()
    time.sleep(away)
    first.machine.plug_back()
    wait_seen(first, {"pi-1", "pi-2"})
    wait_seen(second, {"pi-1", "pi-2"})


def test_an_address_that_is_taken_away_and_given_back(pool):
    """As when the network is configured anew (mdns-sd's issue 416)."""
    first, second = pool.node("pi-1").start(), pool.node("pi-2").start()
    wait_seen(second, {"pi-1", "pi-2"})
    first.machine(f"ip address del {first.machine.address}/24 dev eth0")
    first.machine(f"ip address add {first.machine.address}/24 dev eth0")
    third = pool.node("pi-3").start()
    seen = wait_seen(third, {"pi-1", "pi-2", "pi-3"})
    assert f"{first.machine.address}:7373" in addresses(seen["pi-1"])


def test_an_address_that_changes(pool):
    first, second = pool.node("pi-1").start(), pool.node("pi-2").start()
    wait_seen(second, {"pi-1", "pi-2"})
    first.machine(f"ip address del {first.machine.address}/24 dev eth0")
    first.machine("ip address add 10.77.77.99/24 dev eth0")
    until(
        lambda: "10.77.77.99:7373" in addresses(wait_seen(second, {"pi-1", "pi-2"})["pi-1"]),
        15,
        lambda: f"the new address is seen; {pool.logs()}",
    )


def test_without_ipv4_there_is_ipv6(pool):
    nodes = [pool.node(f"pi-{n}") for n in (1, 2)]
    for node in nodes:
        node.machine("ip -4 address flush dev eth0")
        node.start()
    seen = wait_seen(nodes[0], {"pi-1", "pi-2"}, 15)
    assert addresses(seen["pi-2"])[0].startswith("[fe80::")
    assert "%" in addresses(seen["pi-2"])[0], "a link-local address is of no use without its interface"


def test_several_interfaces_on_one_subnet(pool):
    first, second = pool.node("pi-1"), pool.node("pi-2").start()
    first.machine.number += 100
    first.machine.plug("eth1")
    first.machine.number -= 100
    first.start()
    seen = wait_seen(second, {"pi-1", "pi-2"})
    assert {"10.77.77.1:7373", "10.77.77.101:7373"} <= set(addresses(seen["pi-1"]))
    first.machine("ip link set eth0 down")
    until(
        lambda: addresses(wait_seen(second, {"pi-1", "pi-2"})["pi-1"])[0] == "10.77.77.101:7373",
        15,
        lambda: f"only the other interface is announced; {pool.logs()}",
    )


def test_interfaces_of_containers_and_tunnels_are_left_out(pool):
    first = pool.node("pi-1")
    for number, name in enumerate(("docker0", "veth12ab", "wg0", "br-0a1b")):
        first.machine(f"ip link add {name} type veth peer name veth{number}")
        first.machine(f"ip link set veth{number} up")
        first.machine(f"ip address add 172.30.{number}.1/24 dev {name}")
        first.machine(f"ip link set {name} up")
    first.start()
    second = pool.node("pi-2").start()
    seen = wait_seen(second, {"pi-1", "pi-2"})
    assert not [a for a in addresses(seen["pi-1"]) if a.startswith("172.30.")]


def test_with_a_responder_on_the_port_already(pool, responder):
    """The responder hears what is announced, and the goodbye; TXT keeps within its bound."""
    first, second = pool.node("pi-1"), pool.node("pi-2")
    said = responder(first.machine)
    first.start()
    second.start()
    wait_seen(second, {"pi-1", "pi-2"})
    instance = wait_seen(second, {"pi-1", "pi-2"})["pi-1"]["instance"]
    there = f"there {instance}._piparallel._tcp.local\n"
    until(lambda: there in said, 10, lambda: f"{there!r} among {said}")
    sizes = [int(line.split()[1]) for line in said if line.startswith("txt")]
    assert sizes and max(sizes) <= 400
    first.stop(signal.SIGTERM)
    gone = f"gone {instance}._piparallel._tcp.local\n"
    until(lambda: gone in said, 5, lambda: f"{gone!r} among {said}")


def test_through_loss_and_delay(pool):
    bad = pool.lab.machine("bad", plugged=False)
    bad.plug_bad_wire(loss=0.2, delay=0.1)
    first, second = pool.node("pi-1").start(), pool.node("bad", machine=bad).start()
    wait_seen(first, {"pi-1", "bad"}, 30)
    wait_seen(second, {"pi-1", "bad"}, 30)


def test_an_interface_that_comes_later(pool):
    late = pool.lab.machine("late", plugged=False)
    node = pool.node("late", machine=late).start()
    other = pool.node("pi-1").start()
    wait_seen(other, {"pi-1"})
    late.plug()
    wait_seen(other, {"pi-1", "late"}, 15)
    wait_seen(node, {"pi-1", "late"}, 15)
