"""Fixtures: the machines, and controllers of their programs."""

import pytest
from machines import MACHINES
from subject import Controller


@pytest.fixture(params=MACHINES, ids=lambda machine: machine.arch)
def machine(request):
    return request.param


@pytest.fixture
def new_controller(machine, tmp_path):
    """`new_controller(page=...)`: a controller of this machine's program, ended after the test."""
    made = []

    def make(page: int | None = None):
        command = machine.command("ipcontroller", page=page)
        made.append(Controller(tmp_path / f"pool{len(made)}", command=command))
        return made[-1]

    yield make
    left = [process for controller in made for process in controller.close().values()]
    assert not left, f"left behind after SIGTERM: {left}"


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("sizes")
    for machine in MACHINES:
        size = machine.program.stat().st_size if machine.program.exists() else 0
        terminalreporter.line(f"{machine.arch:6} {size / 1e6:.2f} MB")
