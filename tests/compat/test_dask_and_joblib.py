"""The pool under Dask and joblib."""

import ipyparallel as ipp
import pytest
from peers import RawClient

distributed = pytest.importorskip("distributed")
joblib = pytest.importorskip("joblib")


def test_becoming_dask_and_back(pool):
    with pool.become_dask() as dask:
        # Engines answer before their Dask worker has told the scheduler of itself.
        dask.wait_for_workers(3, timeout=30)
        futures = dask.map(ipp.interactive(lambda x: x * x), range(20))
        assert dask.gather(futures) == [x * x for x in range(20)]
    pool.stop_dask()
    assert pool[:].apply_sync(ipp.interactive(lambda: 7)) == [7, 7, 7]


def test_becoming_dask_twice_gives_the_same_scheduler(pool):
    with pool.become_dask() as first, pool.become_dask() as second:
        assert first.scheduler.address == second.scheduler.address
    pool.stop_dask()


def test_without_dask_the_reason_is_told(new_controller, new_peer, tmp_path):
    (tmp_path / "distributed.py").write_text("raise ImportError('no module named distributed, for this test')")
    controller = new_controller(env={"PYTHONPATH": str(tmp_path)}).start()
    reply = new_peer(RawClient, controller.info("client")).ask(
        "become_dask_request", {"scheduler_args": {}}, seconds=15
    )
    assert reply is not None and reply.content["status"] == "error"
    assert "distributed" in reply.content["evalue"]


def test_joblib_runs_on_the_engines(pool):
    ipp.register_joblib_backend()
    with joblib.parallel_config("ipyparallel", view=pool.load_balanced_view()):
        assert joblib.Parallel(n_jobs=3)(joblib.delayed(abs)(-n) for n in range(30)) == list(range(30))
