"""One message to many engines: no result and no failure may get lost, and the work is on record."""

import os

import ipyparallel as ipp
import pytest
from subject import stock_defect, until

BOTH_KINDS = pytest.mark.parametrize("coalescing", [False, True])


@ipp.interactive
def fail_on(pid):
    """Fail at once in the process `pid`; elsewhere succeed a little later, so that a success answers last."""
    import os
    import time

    if os.getpid() == pid:
        raise ValueError("told to fail")
    time.sleep(0.5)


@ipp.interactive
def die_on(pid):
    import os
    import time

    if os.getpid() == pid:
        os._exit(1)
    time.sleep(0.5)


@ipp.interactive
def return_big(size):
    return b"x" * size


@pytest.mark.parametrize(
    "coalescing",
    [False, pytest.param(True, marks=stock_defect("loses the failing engine: three targets, two results"))],
)
def test_a_failing_engine_fails_the_call(pool, coalescing):
    pid = pool[0].apply_sync(os.getpid)
    result = pool.broadcast_view(is_coalescing=coalescing).apply_async(fail_on, pid)
    try:
        got = result.get(timeout=10)
    except ipp.error.RemoteError as failure:
        assert "told to fail" in str(failure)
    else:
        raise AssertionError(f"no error, but {got}")


@BOTH_KINDS
def test_every_engine_answers_once(pool, coalescing):
    view = pool.broadcast_view(is_coalescing=coalescing)
    pids = view.apply_async(os.getpid).get(timeout=10)
    assert sorted(pids) == sorted(pool[:].apply_sync(os.getpid))


@BOTH_KINDS
def test_big_results_of_all_engines_arrive_whole(pool, coalescing):
    results = pool.broadcast_view(is_coalescing=coalescing).apply_async(return_big, 3_000_000).get(timeout=20)
    assert list(results) == [b"x" * 3_000_000] * 3


@BOTH_KINDS
@stock_defect("broadcast work never reaches the task database")
def test_the_work_is_in_the_database(pool, coalescing):
    before = set(pool.hub_history())
    pool.broadcast_view(is_coalescing=coalescing).apply_async(os.getpid).get(timeout=10)
    new = until(lambda: set(pool.hub_history()) - before, 2, "the broadcast is in the history")
    until(
        lambda: all(r["completed"] for r in pool.db_query({"msg_id": {"$in": list(new)}})),
        2,
        "the broadcast is recorded as completed",
    )


@BOTH_KINDS
def test_an_engine_that_dies_in_it_fails_the_call(new_controller, coalescing):
    client = new_controller("--ping=100").start().start_engines(2)
    pid = client[0].apply_sync(os.getpid)
    result = client.broadcast_view(is_coalescing=coalescing).apply_async(die_on, pid)
    with pytest.raises(ipp.error.RemoteError):
        result.get(timeout=15)
    assert client.ids == [1]
