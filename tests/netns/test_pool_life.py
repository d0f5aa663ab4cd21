"""A pool that lives: nodes come and go while work runs, the controller restarts, the network falls apart and heals."""

import time

import pytest
from lab import until
from node import new_key, nodes_of, wait_nodes, wait_role, wait_state

# A load-balanced map of naps that goes on until the test says so: the user's engines come and go meanwhile.
WORK = """
view = rc.load_balanced_view()
view.retries = 3
engines({engines})
print('in', flush=True)
begun = time.time()
results = []
while not os.path.exists('enough') or len(results) % 20:
    results.append(view.apply_async(where, len(results)))
    if len(results) == 1: print('begun', flush=True)
    time.sleep(0.04)
got = [r.get(timeout=60) for r in results]
assert [n for n, host in got] == list(range(len(got))), got
print('done', len(got), sorted(set(host for n, host in got[-20:])), sorted(set(host for n, host in got)), flush=True)
"""


def work(laptop, engines: int):
    """Starts it; `enough(laptop)` lets it come to its end."""
    session = laptop.start(WORK.format(engines=engines))
    session.wait_said("begun")
    return session


def enough(laptop, session) -> str:
    (laptop.home / "enough").touch()
    return session.wait().split("done ")[1]


def start_pool(pool, engines: int):
    """A controller without engines, and engine nodes pi-2, pi-3 and so on; a laptop that is connected."""
    key = new_key()
    controller = pool.start_controller(join_key=key, engines__on_controller=False)
    hosts = [f"pi-{n + 2}" for n in range(engines)]
    nodes = pool.start_engines(*hosts, join_key=key)
    wait_nodes(controller, **{host.replace("-", "_"): "joined" for host in hosts})
    return controller, nodes, pool.connect(controller)


def test_all_nodes_at_once_end_with_one_controller(pool):
    key = new_key()
    nodes = [pool.node(f"pi-{n}", join_key=key) for n in range(1, 5)]
    for node in nodes:
        node.start()

    def roles():
        found = [node.run("state", "--json", check=False).stdout for node in nodes]
        return sorted("controller" if '"role": "controller"' in text else text and "engine" for text in found)

    until(lambda: roles() == ["controller", "engine", "engine", "engine"], 30, lambda: f"one controller: {roles()}")
    (controller,) = [node for node in nodes if node.json("state")["role"] == "controller"]
    wait_nodes(controller, pi_1="joined", pi_2="joined", pi_3="joined", pi_4="joined")
    pool.connect(controller).python("engines(4)")
    time.sleep(3)
    assert roles() == ["controller", "engine", "engine", "engine"], "and it stays so"


def test_a_node_that_is_plugged_in_while_work_runs_takes_part(pool):
    controller, nodes, laptop = start_pool(pool, 2)
    session = work(laptop, 2)
    key = nodes[0].options["join_key"]
    pool.start_engines("pi-4", join_key=key)
    wait_nodes(controller, pi_4="joined")
    laptop.python("engines(3)")
    time.sleep(1)
    assert "pi-4" in enough(laptop, session)


@pytest.mark.parametrize("how", ["link down", "power cut"])
def test_a_node_that_is_pulled_while_work_runs_costs_no_task(pool, how):
    controller, nodes, laptop = start_pool(pool, 3)
    session = work(laptop, 3)
    pulled = nodes[0]
    if how == "link down":
        pulled.machine.unplug()
    else:
        pulled.machine.cut_power()
    wait_nodes(controller, pi_2="away")
    laptop.python("engines(2)")
    said = enough(laptop, session)
    assert "pi-2" not in said.split("]")[0], "the last tasks ran elsewhere"
    if how == "link down":
        pulled.machine.plug_back()
    else:
        pulled.start()
    wait_nodes(controller, pi_2="joined")
    laptop.python("engines(3)")


def test_a_node_that_is_stopped_finishes_its_tasks_first(pool):
    controller, nodes, laptop = start_pool(pool, 2)
    session = laptop.start(
        "engines(2)\n"
        "slow = rc[:].apply_async(nap_long)\n"
        "time.sleep(0.5); print('begun', flush=True)\n"
        "print('results', slow.get(timeout=60), flush=True)\n"
        "engines(1)\n"
        "print('one left', rc.load_balanced_view().apply_sync(os.uname).nodename, flush=True)"
    )
    session.wait_said("begun")
    assert nodes[0].stop() == 0
    said = session.wait()
    assert "results ['rested', 'rested']" in said
    assert "one left pi-3" in said
    assert nodes_of(controller)["pi-2"]["state"] == "away"
    nodes[0].start()
    wait_nodes(controller, pi_2="joined")
    laptop.python("engines(2)")


@pytest.mark.parametrize("work", ["rc[:].apply_async(nap_long)", "rc.load_balanced_view().apply_async(nap_long)"])
def test_a_controller_that_is_stopped_finishes_the_tasks_of_its_own_engines_first(pool, work):
    controller = pool.start_controller(engines__count=1)
    session = pool.connect(controller).start(
        f"engines(1); task = {work}; time.sleep(0.5); print('begun', flush=True); print('result', task.get(timeout=60))"
    )
    session.wait_said("begun")
    assert controller.stop() == 0
    assert "rested" in session.wait()


def test_tasks_that_take_too_long_are_not_waited_for(pool):
    controller, nodes, laptop = start_pool(pool, 1)
    nodes[0].stop()
    nodes[0].configure(engines__drain_timeout="1s")
    nodes[0].start()
    wait_nodes(controller, pi_2="joined")
    session = laptop.start(
        "engines(1)\n"
        "slow = rc[:].apply_async(time.sleep, 600)\n"
        "time.sleep(0.5); print('begun', flush=True)\n"
        "try: slow.get(timeout=60)\n"
        "except ipp.error.CompositeError as e: print('lost', e, flush=True)"
    )
    session.wait_said("begun")
    assert nodes[0].stop() == 0
    assert "EngineError" in session.wait().split("lost ")[1]


def test_drained_nodes_get_no_more_work_until_they_are_resumed(pool):
    controller, _, laptop = start_pool(pool, 2)
    hosts = "print(sorted({host for _, host in rc.load_balanced_view().map_sync(where, range(8))}))"
    assert laptop.python("engines(2); " + hosts) == "['pi-2', 'pi-3']"
    controller.run("drain", "pi-2")
    laptop.python("engines(1)")
    assert laptop.python(hosts) == "['pi-3']"
    assert "drained" in controller.run("nodes").stdout
    controller.run("resume", "pi-2")
    laptop.python("engines(2)")
    assert laptop.python(hosts) == "['pi-2', 'pi-3']"
    before = laptop.python("print(sorted(rc[:].apply_sync(os.getpid)))")
    controller.run("restart-engines", "pi-3")
    # A client may still know the engine that leaves.
    pids = "engines(2)\ntry: print(sorted(rc[:].apply_sync(os.getpid)))\nexcept ipp.error.CompositeError: pass"
    until(lambda: laptop.python(pids) not in ("", before), 30, "one engine is another process")
    refused = controller.run("restart-engines", controller.machine.name, check=False)
    assert refused.returncode == 1
    assert f"{controller.machine.name} runs no engines" in refused.stderr


@pytest.mark.parametrize("how", ["stopped", "killed", "power cut"])
def test_a_controller_that_restarts_under_load(pool, how):
    controller, _, laptop = start_pool(pool, 2)
    session = laptop.start(
        "view = rc.load_balanced_view(); engines(2)\n"
        "lost = done = 0\n"
        "while not os.path.exists('enough'):\n"
        "    try: view.apply_async(where, 1).get(timeout=2); done += 1\n"
        "    except TimeoutError: lost += 1\n"
        "    if done == 5: print('begun', flush=True)\n"
        "    if os.path.exists('restarted') and done:\n"
        "        lost = done = 0; os.remove('restarted'); print('again', flush=True)\n"
        "    if done == 50: print('goes on', flush=True)\n"
        "print(sorted(set(where for _, where in rc[:].apply_sync(where, 1))), flush=True)"
    )
    session.wait_said("begun")
    if how == "stopped":
        assert controller.stop() == 0
    elif how == "killed":
        controller.kill()
    else:
        controller.machine.cut_power()
    controller.start()
    wait_role(controller, "controller")
    (laptop.home / "restarted").touch()
    session.wait_said("again")
    session.wait_said("goes on")
    wait_nodes(controller, pi_2="joined", pi_3="joined")
    (laptop.home / "enough").touch()
    assert "['pi-2', 'pi-3']" in session.wait(), "the client that was connected sees both"
    laptop.python("engines(2)")


def test_halves_of_a_network_become_one_pool_again(pool):
    """Each half has a controller while it is alone; healed, one gives way and its nodes follow."""
    key = new_key()
    options = {"join_key": key, "takeover_after": "3s"}
    first = pool.node("pi-1", **options).start()
    wait_role(first, "controller")
    others = [pool.node(f"pi-{n}", **options).start() for n in (2, 3, 4)]
    wait_nodes(first, pi_2="joined", pi_3="joined", pi_4="joined")
    laptop = pool.connect(first)
    laptop.python("engines(4)")
    apart = others[1:]
    for node in apart:
        node.machine.move(1)
    wait_nodes(first, pi_2="joined", pi_3="away", pi_4="away")

    def controllers():
        return [n for n in [first, *others] if n.json("state")["role"] == "controller"]

    until(lambda: len(controllers()) == 2, 40, lambda: f"each half has one: {controllers()}")
    second = next(n for n in controllers() if n is not first)
    wait_nodes(second, **{node.machine.name.replace("-", "_"): "joined" for node in apart})
    assert laptop.python("engines(2); print('the first half works')")
    for node in apart:
        node.machine.move(0)
    until(lambda: controllers() == [first], 40, lambda: f"one gives way: {controllers()}")
    wait_nodes(first, pi_2="joined", pi_3="joined", pi_4="joined")
    laptop.python("engines(4)")


def test_what_a_pool_knows_survives_a_power_cut_at_any_moment(pool):
    """Whoever was let in and whoever was shut out stays so, whenever the controller's power goes."""
    controller = pool.start_controller(engines__on_controller=False)
    nodes = pool.start_engines("pi-2", "pi-3")
    wait_nodes(controller, pi_2="pending", pi_3="pending")
    fingerprint = controller.json("state")["fingerprint"]
    controller.run("approve", "pi-2")
    controller.machine.cut_power()
    controller.start()
    wait_role(controller, "controller")
    wait_nodes(controller, pi_2="joined")
    controller.run("revoke", "pi-2")
    controller.machine.cut_power()
    controller.start()
    wait_role(controller, "controller")
    wait_state(nodes[0], lambda state: "revoked" in state["state"], "is still revoked")
    assert controller.json("state")["fingerprint"] == fingerprint
