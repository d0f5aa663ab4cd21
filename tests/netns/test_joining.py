"""Who gets into a pool, and how it is cut off."""

import json
import signal
import subprocess
import time

from lab import until
from node import new_key, nodes_of, seen_from, wait_nodes, wait_role, wait_said


def test_nodes_with_the_key_join_and_a_laptop_works_with_their_engines(pool):
    key = new_key()
    controller = pool.start_controller(join_key=key)
    pool.start_engines("pi-2", "pi-3", "pi-4", join_key=key)
    wait_nodes(controller, pi_2="joined", pi_3="joined", pi_4="joined")
    laptop = pool.connect(controller)
    said = laptop.python("engines(4); print(len(set(rc[:].apply_sync(os.getpid))))")
    assert said == "4"
    listed = nodes_of(controller)
    assert listed["pi-3"]["address"] == pool.nodes[2].machine.address
    assert listed["pi-3"]["versions"]["python"] == listed["pi-1"]["versions"]["python"]
    assert listed["laptop"]["kind"] == "client"
    text = controller.run("nodes").stdout
    assert "1 of 1" in text and "controller" in text


def test_engines_work_as_soon_as_the_controller_has_an_ipv4_address(pool):
    """A pool can find itself over IPv6 before a DHCP server has answered, and engines speak IPv4 only."""
    key = new_key()
    controller = pool.node("pi-1", role="controller", join_key=key)
    machine = controller.machine
    machine("ip -4 address flush dev eth0")
    controller.start()
    wait_role(controller, "controller")
    (node,) = pool.start_engines("pi-2", join_key=key)
    assert wait_nodes(controller, pi_2="joined")["pi-2"]["address"].startswith("fe80::")
    until(lambda: "has no IPv4 address" in node.tail(), 10, lambda: f"the node says what it waits for: {node.tail()}")
    machine(f"ip address add {machine.address}/24 dev eth0")
    assert pool.connect(controller).python("engines(2); print(rc.ids)") == "[0, 1]"
    machine(f"ip address del {machine.address}/24 dev eth0")
    machine("ip address add 10.77.77.99/24 dev eth0")
    until(
        lambda: "10.77.77.99:7373" in str(seen_from(node)),
        20,
        lambda: f"the new address is announced; {pool.logs()}",
    )
    assert pool.connect(controller, "other").python("engines(2); print(len(rc.ids))") == "2"


def test_a_blank_card_is_approved_by_its_fingerprint(pool):
    controller = pool.start_controller()
    (blank,) = pool.start_engines("pi-2")
    wait_nodes(controller, pi_2="pending")
    fingerprint = blank.json("state")["fingerprint"]
    assert fingerprint in blank.json("state")["state"], "the node itself says what to type"
    assert fingerprint in controller.run("pending").stdout
    assert blank.json("state")["engines"]["running"] == 0
    refused = controller.run("approve", "AAAA-BBBB", check=False)
    assert refused.returncode == 1 and "piparallel nodes" in refused.stderr
    controller.run("approve", fingerprint[:9].lower())
    wait_nodes(controller, pi_2="joined")
    blank.stop()
    blank.start()
    wait_nodes(controller, pi_2="joined")


def test_a_pairing_window_lets_in_so_many_and_closes(pool):
    controller = pool.start_controller()
    controller.run("pair", "--minutes=5", "--count=1")
    pool.start_engines("pi-2")
    wait_nodes(controller, pi_2="joined")
    pool.start_engines("pi-3")
    wait_nodes(controller, pi_3="pending")
    controller.run("pair", "--minutes=0")
    pool.start_engines("pi-4")
    wait_nodes(controller, pi_4="pending")
    controller.run("pair")
    wait_nodes(controller, pi_3="joined", pi_4="joined")


def test_a_wrong_key_is_refused_with_a_clear_line_on_both_sides(pool):
    controller = pool.start_controller(join_key=new_key())
    (stranger,) = pool.start_engines("pi-2", join_key=new_key())
    wait_said(stranger, "join_key in piparallel.toml")
    until(lambda: "may not join" in controller.log.read_text(), 5, "the controller's log says it")
    assert "pi-2" not in nodes_of(controller)
    assert stranger.json("state")["role"] == "looking"


def test_a_revoked_node_is_cut_off_within_a_second(pool):
    key = new_key()
    controller = pool.start_controller(join_key=key, engines__on_controller=False)
    bad, _ = pool.start_engines("pi-2", "pi-3", join_key=key)
    wait_nodes(controller, pi_2="joined", pi_3="joined")
    laptop = pool.connect(controller)
    session = laptop.start(
        "engines(2); print('both', flush=True)\n"
        "while len(rc.ids) == 2: time.sleep(0.01)\n"
        "print('gone', time.time(), rc.ids, flush=True)"
    )
    session.wait_said("both")
    began = time.time()
    controller.run("revoke", "pi-2")
    gone = float(session.wait().split("gone ")[1].split()[0])
    assert gone - began < 1.5, "with the command's own time"
    assert nodes_of(controller)["pi-2"]["state"] == "revoked"
    wait_said(bad, "revoked")
    bad.stop()
    bad.start()
    wait_said(bad, "revoked")
    assert laptop.python("time.sleep(3); print(len(rc.ids))") == "1"
    controller.run("approve", "pi-2")
    wait_nodes(controller, pi_2="joined")
    laptop.python("engines(2)")


def test_a_rotated_key_is_known_to_joined_nodes_and_the_old_one_opens_nothing(pool):
    old = new_key()
    controller = pool.start_controller(join_key=old)
    (joined,) = pool.start_engines("pi-2", join_key=old)
    wait_nodes(controller, pi_2="joined")
    new = controller.json("rotate-key")["key"]
    (late,) = pool.start_engines("pi-3", join_key=old)
    wait_said(late, "join_key")
    for node in (joined, controller):
        node.stop()
        node.start()
    wait_role(controller, "controller")
    wait_nodes(controller, pi_2="joined")
    late.stop()
    late.configure(join_key=new)
    late.start()
    wait_nodes(controller, pi_3="joined")


def test_two_pools_on_one_network_stay_apart(pool):
    keys = {"a": new_key(), "b": new_key()}
    controllers = {p: pool.start_controller(f"{p}-1", pool=p, join_key=keys[p]) for p in keys}
    for p in keys:
        pool.start_engines(f"{p}-2", pool=p, join_key=keys[p])
    for p, other in (("a", "b"), ("b", "a")):
        wait_nodes(controllers[p], **{f"{p}_2": "joined"})
        assert not [name for name in nodes_of(controllers[p]) if name.startswith(other)]
    laptop = pool.laptop()
    refused = laptop.run("connect", check=False)
    assert refused.returncode == 1 and "a, b" in refused.stderr
    key = laptop.home / "key"
    key.write_text(controllers["b"].json("client-key")["key"])
    laptop.run("connect", "b", f"--key-file={key}")
    assert laptop.python("engines(2); print('ok')") == "ok"


def test_a_static_address_needs_no_multicast(pool):
    key = new_key()
    controller = pool.start_controller(join_key=key, network__multicast=False)
    where = controller.machine.address
    pool.start_engines("pi-2", join_key=key, network__multicast=False, controller=where)
    wait_nodes(controller, pi_2="joined")
    laptop = pool.laptop()
    key = laptop.home / "key"
    key.write_text(controller.json("client-key")["key"])
    laptop.run("connect", f"--controller={where}:7373", f"--key-file={key}")
    assert laptop.python("engines(2); print('ok')") == "ok"


def test_a_laptop_waits_for_approval_works_and_disconnects(pool):
    controller = pool.start_controller()
    laptop = pool.laptop()
    with (laptop.home / "connect.log").open("w") as log:
        waiting = subprocess.Popen(
            laptop.machine.command(pool.binary, "connect"), env=laptop.env, stdout=log, stderr=log
        )
    laptop.running.append(waiting)
    said = lambda: (laptop.home / "connect.log").read_text()  # noqa: E731
    until(lambda: "piparallel approve" in said(), 15, lambda: f"it says what to type: {said()}")
    fingerprint = said().split("piparallel approve ")[1].split()[0]
    assert fingerprint in controller.run("pending").stdout
    controller.run("approve", fingerprint)
    assert waiting.wait(20) == 0, said()
    assert laptop.file.stat().st_mode & 0o777 == 0o600
    assert laptop.python("engines(1); print(rc[0].apply_sync(lambda: 6 * 7))") == "42"
    assert json.loads(laptop.run("status", "--json").stdout)["engines"]
    laptop.run("disconnect")
    assert not laptop.file.exists()
    refused = laptop.run("disconnect", check=False)
    assert refused.returncode == 1 and "piparallel connect" in refused.stderr


def test_a_revoked_laptop_is_cut_off_and_others_are_not(pool):
    controller = pool.start_controller()
    bad, good = pool.connect(controller, "bad"), pool.connect(controller, "good")
    wait = "engines(1); print('in', flush=True)\n"
    session = bad.start(wait + "while True: print(rc.queue_status(), flush=True); time.sleep(0.2)")
    session.wait_said("unassigned")
    controller.run("revoke", "bad")
    time.sleep(1)
    answers = session.said().count("unassigned")
    time.sleep(2)
    assert session.said().count("unassigned") == answers, "it gets no answers any more"
    assert good.python("engines(1); print('ok')") == "ok"
    refused = bad.run("connect", check=False)
    assert refused.returncode == 1 and "revoked" in refused.stderr


def test_an_engines_file_can_neither_submit_work_nor_ask_the_hub(pool):
    key = new_key()
    controller = pool.start_controller(join_key=key, engines__on_controller=False)
    (node,) = pool.start_engines("pi-2", join_key=key)
    wait_nodes(controller, pi_2="joined")
    until(lambda: node.json("state")["engines"]["running"] == 1, 20, "its engine runs")
    laptop = pool.connect(controller)
    stolen = json.loads(laptop.python(f"engines(1); print(rc[:].apply_sync(lambda: {WHAT_AN_ENGINE_KNOWS})[0])"))
    thief = pool.laptop("thief", machine=node.machine)
    client = json.loads(laptop.file.read_text())
    # With all that is known of the client's file but its key.
    forged = client | {k: stolen[k] for k in ("key", "curve_serverkey", "location")}
    thief.file.parent.mkdir(parents=True)
    thief.file.write_text(json.dumps(forged))
    said = thief.python("print('in')", check=False)
    assert "in\n" not in said and ("imeout" in said or "Error" in said), said
    # On the socket that both sides use, with the engine's own key pair.
    done = thief._run(["python", "-c", ASK_HUB, json.dumps(stolen)], check=False, seconds=30)
    assert "PermissionError" in done.stdout, done.stdout + done.stderr


# User code has its engine's connection file in memory: nothing else is to be had there.
WHAT_AN_ENGINE_KNOWS = """__import__("ipyparallel.engine.app").engine.app.IPEngine.instance().connection_info_env"""

ASK_HUB = """
import json, sys, zmq
from jupyter_client.session import Session
info = json.loads(sys.argv[1])
socket = zmq.Context().socket(zmq.DEALER)
for name in ("curve_serverkey", "curve_publickey", "curve_secretkey"):
    socket.setsockopt(getattr(zmq, name.upper()), info[name].encode())
socket.connect(f"tcp://{info['location']}:{info['registration']}")
session = Session(key=info["key"].encode(), signature_scheme=info["signature_scheme"])
session.send(socket, "connection_request", content={})
assert socket.poll(10000), "no answer"
print(session.recv(socket)[1]["content"])
"""


def test_somebody_elses_controller_is_not_believed(pool):
    """A machine that takes the address of the controller, and knows nothing."""
    key = new_key()
    controller = pool.start_controller(join_key=key, network__multicast=False)
    where = controller.machine.address
    (node,) = pool.start_engines("pi-2", join_key=key, network__multicast=False, controller=where)
    wait_nodes(controller, pi_2="joined")
    controller.stop()
    impostor = pool.node("impostor", machine=controller.machine, role="controller", join_key=new_key()).start()
    wait_role(impostor, "controller")
    time.sleep(6)
    assert node.json("state")["role"] != "engine"
    assert "pi-2" not in nodes_of(impostor)
    impostor.stop(signal.SIGTERM)
    controller.start()
    wait_nodes(controller, pi_2="joined")
