"""Every way in which ipyparallel starts a controller, with another one put in by its configuration."""

import json
import os
import subprocess
import sys

import ipyparallel as ipp
import leftovers
import pytest
from ipyparallel.cluster.launcher import LocalControllerLauncher
from subject import COMMAND, SUBJECT, environment, only_ours, until
from traitlets.config import Config


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home directory with an ipyparallel of its own; nothing that started there outlives the test."""
    marker = leftovers.new_marker()
    env = environment(tmp_path, marker)
    for name in os.environ:
        if name.startswith(("IPP_", "IPYTHON")):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    left = leftovers.wait_gone(marker, 5)
    leftovers.end(marker)
    assert SUBJECT == "stock" or not left, f"left behind: {left}"


def use(client):
    """The pids of two engines, and the command line of the controller."""
    client.wait_for_engines(2, timeout=30)
    assert len(set(client[:].apply_sync(os.getpid))) == 2


def command_of(cluster) -> list[str]:
    return cluster.controller.process.cmdline()[: len(COMMAND)]


def test_a_cluster_with_the_command_in_its_config(home):
    config = Config()
    config.ControllerLauncher.controller_cmd = COMMAND
    with ipp.Cluster(n=2, config=config, load_profile=False) as client:
        use(client)
        assert command_of(client.cluster)[-1] == COMMAND[-1]


def test_a_cluster_with_a_launcher_of_its_own(home):
    class OurLauncher(LocalControllerLauncher):
        controller_cmd = COMMAND

    with ipp.Cluster(n=2, controller=OurLauncher, load_profile=False) as client:
        use(client)


def test_ipcluster_with_the_command_in_the_profile(home):
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipcluster_config.json").write_text(json.dumps({"ControllerLauncher": {"controller_cmd": COMMAND}}))
    ipcluster = [sys.executable, "-m", "ipyparallel.cluster"]
    subprocess.run([*ipcluster, "start", "-n", "2", "--daemonize"], check=True, timeout=60)
    with ipp.Client() as client:
        use(client)
    subprocess.run([*ipcluster, "stop"], check=True, timeout=30)
    until(lambda: not (profile / "security" / "ipcontroller-client.json").exists(), 10, "the files are gone")


def test_arguments_reach_the_controller(home):
    config = Config()
    config.ControllerLauncher.controller_cmd = COMMAND
    config.ControllerLauncher.controller_args = ["--nodb", "--scheme=lru"]
    with ipp.Cluster(n=2, config=config, load_profile=False) as client:
        use(client)
        with pytest.raises(ipp.error.RemoteError, match="NoData"):
            client.db_query({})


def test_the_version_is_that_of_ipyparallel(home):
    told = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True).stdout
    assert told.strip() == ipp.__version__


def test_an_unknown_option_is_an_error_that_names_it(home):
    told = subprocess.run([*COMMAND, "--no-such-option=1"], capture_output=True, text=True, timeout=20)
    assert told.returncode != 0
    assert "no-such-option" in told.stdout + told.stderr


@only_ours
def test_the_name_ipcontroller_is_enough(home):
    link = home / "ipcontroller"
    link.symlink_to(COMMAND[0])
    told = subprocess.run([link, "--version"], capture_output=True, text=True, check=True).stdout
    assert told.strip() == ipp.__version__
