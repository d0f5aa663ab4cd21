"""pytest plugin: one JSON line per test of the suite, for the runner to compare.

Each line has the test's `id` (file name and what follows it), its `outcome` (passed, failed, skipped,
xfailed or xpassed), its `seconds`, and whether it had a `controller`: one that it started itself,
or the one that its module's tests share.
"""

import json
import os

import pytest

REPORT = os.environ["COMPAT_REPORT"]
STARTS = os.environ["COMPAT_STARTS"]


def controllers_started() -> int:
    return os.path.getsize(STARTS) if os.path.exists(STARTS) else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    item.started_before = controllers_started()
    item.outcomes = []
    item.seconds = 0.0
    try:
        return (yield)
    finally:
        own = controllers_started() > item.started_before
        line = {
            "id": f"{item.path.name}::{item.nodeid.partition('::')[2]}",
            "outcome": next((o for o in item.outcomes if o != "passed"), "passed"),
            "seconds": round(item.seconds, 2),
            "controller": own or "cluster" in item.fixturenames,
        }
        with open(REPORT, "a") as report:
            report.write(json.dumps(line) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    item.outcomes.append(outcome)
    item.seconds += call.duration
    return report
