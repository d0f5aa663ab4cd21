"""Connection files: whole, private, true from the first moment, and gone with their controller."""

import shutil
import signal
import socket
import stat
import subprocess
import time

import pytest
import zmq
from inotify import Watch
from peers import FakeEngine, RawClient
from subject import SUBJECT, is_open, stock_defect, until

CLIENT_KEYS = {
    *(
        "ssh",
        "interface",
        "registration",
        "control",
        "mux",
        "task",
        "task_scheme",
        "iopub",
        "notification",
        "broadcast",
    ),
    *("key", "curve_serverkey", "location", "pack", "unpack", "signature_scheme"),
}
ENGINE_KEYS = (CLIENT_KEYS - {"task_scheme", "notification"}) | {"hb_ping", "hb_pong"}

# How long after its start a controller is stopped: stock takes about a second to be ready, ours milliseconds.
STOP_DELAYS = [0.05 * n for n in range(30)] if SUBJECT == "stock" else [0.002 * n for n in range(60)]


def test_have_every_key(controller):
    assert CLIENT_KEYS <= set(controller.info("client"))
    assert ENGINE_KEYS <= set(controller.info("engine"))
    assert len(controller.info("client")["key"]) >= 32
    assert controller.info("client")["key"] == controller.info("engine")["key"]


@pytest.fixture
def events_of_start(new_controller):
    """What happened to the two connection files while a controller started, and the controller."""
    controller = new_controller()
    controller.security.mkdir(parents=True, mode=0o700)
    watch = Watch(controller.security)
    controller.start()
    names = {path.name for path in controller.files}
    yield [event for event in watch.events() if event[0] in names], controller
    watch.close()


@stock_defect("creates the file empty and writes it afterwards")
def test_appear_whole(events_of_start):
    events, controller = events_of_start
    assert sorted(events) == sorted((path.name, "moved here") for path in controller.files)


@stock_defect("creates the file for all to read and changes its mode afterwards")
def test_are_private_from_the_first_moment(events_of_start):
    events, controller = events_of_start
    assert not [event for event in events if event[1] == "mode changed"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in controller.files] == [0o600, 0o600]


@stock_defect("writes the files before its schedulers have bound their ports")
def test_name_only_ports_that_are_open(new_controller):
    controller = new_controller().spawn()
    client, engine = controller.files

    def readable():
        try:
            return client.stat().st_size and engine.stat().st_size
        except FileNotFoundError:
            return False

    until(readable, 10, "both files")
    closed = [port for port in controller.ports() if not is_open(port)]
    assert not closed


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_go_with_their_controller(controller, sig):
    time.sleep(1 if SUBJECT == "stock" else 0)
    assert controller.stop(sig) == 0
    assert not any(path.exists() for path in controller.files)
    assert controller.left() == {}


@stock_defect("before its handlers are installed SIGTERM leaves the files and up to seven processes", strict=False)
def test_stopped_at_any_moment_nothing_is_left(new_controller):
    for delay in STOP_DELAYS:
        controller = new_controller().spawn()
        time.sleep(delay)
        controller.process.terminate()
        controller.process.wait(10)
        left = [path.name for path in controller.files if path.exists()] + list(controller.left().values())
        assert not left, f"{delay:.3f} s after the start: {left}"


def test_of_a_controller_that_was_killed_are_replaced(controller, new_peer):
    old = controller.info("client")
    controller.process.kill()
    controller.process.wait()
    assert all(path.exists() for path in controller.files)
    controller.spawn()
    until(lambda: controller.info("client") != old and controller.usable(), 10, "new files")
    assert new_peer(RawClient, controller.info("client")).engines() == {}


def test_name_ports_from_the_range_asked_for(new_controller, new_peer):
    controller = new_controller("--ports=24100-24140").start()
    assert all(24100 <= port <= 24140 for port in controller.ports())
    assert new_peer(RawClient, controller.info("client")).engines() == {}


def test_a_port_that_is_taken_is_an_error_that_names_it(new_controller):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        controller = new_controller(f"--IPController.regport={port}").spawn()
        assert controller.process.wait(10) != 0
    assert "in use" in controller.log.read_text()
    assert not any(path.exists() for path in controller.files)
    assert controller.left() == {}


def test_carry_the_cluster_id(new_controller):
    controller = new_controller("--cluster-id=class")
    controller.spawn()
    until(
        lambda: (controller.security / "ipcontroller-class-client.json").exists(), 10, "a file with the id in its name"
    )


def test_carry_the_key_of_the_environment(new_controller, new_peer):
    controller = new_controller(env={"IPP_SESSION_KEY": "only-a-test-key"}).start()
    assert controller.info("client")["key"] == "only-a-test-key"
    assert new_peer(RawClient, controller.info("client")).engines() == {}


# A host name that resolves to 127.0.1.1, as on Debian and Raspberry Pi OS, a second network, and no DNS.
ANOTHER_HOST = """
set -e
ip link set lo up
ip link add eth0 type veth peer name eth1 && ip link set eth1 up
ip addr add 192.0.2.7/24 dev eth0 && ip link set eth0 up
ip route add default via 192.0.2.1
hostname raspberrypi
printf '127.0.0.1 localhost\\n127.0.1.1 raspberrypi\\n' > "$1" && mount --bind "$1" /etc/hosts
printf 'hosts: files\\n' > "$2" && mount --bind "$2" /etc/nsswitch.conf
shift 2
exec "$@"
"""


def can_make_hosts() -> bool:
    if not shutil.which("unshare"):
        return False
    made = subprocess.run(["unshare", "-rmnu", "ip", "link", "add", "x", "type", "veth"], capture_output=True)
    return made.returncode == 0


@pytest.mark.skipif(
    not (shutil.which("unshare") and can_make_hosts()), reason="needs user namespaces and virtual network cards"
)
@stock_defect("names the host, which other machines resolve to themselves or not at all")
def test_open_to_the_network_give_an_address_that_others_can_use(new_controller, tmp_path):
    scratch = [str(tmp_path / name) for name in ("hosts", "nsswitch")]
    prefix = ("unshare", "-rmnu", "bash", "-c", ANOTHER_HOST, "bash", *scratch)
    controller = new_controller("--ip=*", prefix=prefix).spawn()
    until(lambda: controller.files[1].exists() and controller.files[1].stat().st_size, 10, "the engine's file")
    assert controller.info("engine")["location"] == "192.0.2.7"


def test_with_curve_carry_the_public_key_and_keep_strangers_out(new_controller, new_peer):
    controller = new_controller("--ping=100", env={"IPP_ENABLE_CURVE": "1"}).start()
    info = controller.info("client")
    assert len(info["curve_serverkey"]) == 40
    client = new_peer(RawClient, info)
    assert client.engines() == {}
    engine = new_peer(FakeEngine, controller.info("engine"))
    assert engine.register().content["status"] == "ok"
    until(client.engines, 10, "an engine over CURVE")
    for wrong in ({"curve_serverkey": None}, {"curve_serverkey": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"}):
        assert new_peer(RawClient, info | wrong).ask("connection_request", seconds=1) is None
    assert client.engines() != {}


@pytest.mark.skipif(SUBJECT == "stock", reason="stock has one key pair for both sides")
def test_engines_can_have_a_server_key_of_their_own_and_be_known_by_theirs(new_controller, new_peer):
    server, known, stranger = (zmq.curve_keypair() for _ in range(3))
    controller = new_controller(
        "--ping=100",
        f"--Piparallel.engine_curve_secretkey={server[1].decode()}",
        f"--Piparallel.engine_curve_allowed={known[0].decode()}",
        env={"IPP_ENABLE_CURVE": "1"},
    ).start()
    client_key = controller.info("client")["curve_serverkey"]
    assert controller.info("engine")["curve_serverkey"] == server[0].decode() != client_key
    client = new_peer(RawClient, controller.info("client"))
    engine = new_peer(FakeEngine, controller.info("engine"), curve_keys=known)
    assert engine.register().content["status"] == "ok"
    until(client.engines, 10, "an engine with a known key")
    other = new_peer(FakeEngine, controller.info("engine"), curve_keys=stranger)
    assert other.register(seconds=1) is None, "its key is not among those that are let in"
    # What an engine's file holds does not open the sockets of clients.
    ports = {key: controller.info("client")[key] for key in ("mux", "task", "broadcast", "control")}
    thief = new_peer(RawClient, controller.info("engine") | ports)
    thief.send("task", "apply_request")
    assert thief.receive("task", seconds=1) is None
    assert list(client.engines().values()) == [engine.uuid]
