"""Engines that are run by a service apart from the node, as a user who can read none of its keys."""

import os
import subprocess
import tempfile

import pytest
from lab import until
from node import ENGINE_USER, new_key, nodes_of, wait_nodes

LOOK = """
def look(files):
    import os
    def reads(path):
        try:
            return bool(open(path, "rb").read())
        except OSError:
            return False
    return os.getpid(), os.getuid(), [f for f in files if reads(f)]
"""


@pytest.fixture
def node(pool):
    """A controller without engines, and a node whose engines are run apart; nobody runs them yet."""
    key = new_key()
    pool.controller = pool.start_controller(join_key=key, engines__on_controller=False)
    (node,) = pool.start_engines("pi-2", join_key=key, engines__apart=True)
    wait_nodes(pool.controller, pi_2="joined")
    # As systemd does it for the real service.
    node.run_dir.chmod(0o755)
    return node


def start_service(pool, node, user: str) -> subprocess.Popen:
    home = tempfile.mkdtemp(prefix="pp-engines-")
    subprocess.run(["chown", user, home], check=True)
    become = ["setpriv", f"--reuid={user}", "--clear-groups", "--no-new-privs"]
    options = [f"--run-dir={node.run_dir}", f"--dir={home}", "--log-level=debug"]
    log = (node.home / f"engines-{user}.log").open("w")
    command = node.machine.command(*become, pool.binary, "engines", *options)
    process = subprocess.Popen(command, env=node.env, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    pool.started.append(process)
    return process


def test_they_read_no_key_and_go_on_while_the_node_starts_anew(pool, node):
    problem = lambda: nodes_of(pool.controller)["pi-2"]["problem"]  # noqa: E731
    until(lambda: "systemctl start piparallel-engines" in str(problem()), 10, lambda: f"it says why: {problem()}")
    service = start_service(pool, node, ENGINE_USER)
    laptop = pool.connect(pool.controller)
    secrets = [str(p) for n in pool.nodes for p in [n.config, *n.home.glob("state/**/*")] if p.is_file()]
    assert len([s for s in secrets if s.endswith("node.key")]) == 2
    ask = LOOK + f"engines(1); print(*rc[0].apply_sync(look, {secrets!r}))"
    pid, uid, read = laptop.python(ask).split(maxsplit=2)
    assert uid == str(subprocess.check_output(["id", "-u", ENGINE_USER], text=True).strip()) and read == "[]"
    assert problem() is None
    session = laptop.start(
        "engines(1); task = rc[0].apply_async(nap_long); print('begun', flush=True); print(task.get())"
    )
    session.wait_said("begun")
    node.kill()
    node.start()
    wait_nodes(pool.controller, pi_2="joined")
    assert "rested" in session.wait()
    assert laptop.python(ask).split()[0] == pid, "it is the same process"
    node.stop()
    laptop.python("engines(0)")
    assert service.poll() is None, "it waits for the next node"
    node.start()
    laptop.python("engines(1)")
    service.terminate()
    assert service.wait(10) == 0
    laptop.python("engines(0)")


def test_another_user_gets_no_orders(pool, node):
    stranger = start_service(pool, node, "daemon")
    log = node.home / "engines-daemon.log"
    until(lambda: "sent away" in node.log.read_text(), 20, lambda: node.tail() + log.read_text())
    assert node.json("state")["engines"]["running"] == 0
    stranger.terminate()
    assert stranger.wait(10) == 0
    assert os.stat(node.run_dir / "control.sock").st_mode & 0o077 == 0o060, "nobody else may command the node"
