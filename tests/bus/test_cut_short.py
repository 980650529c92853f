"""Calls that an interrupt, a limit or a fork cuts short: before or after, and never a hang."""

import contextlib
import pickle
import threading
import time

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._store.files import threads as _threads
from tests.bus._threads import PATIENCE_S, in_another_thread, in_child, interrupted_at

pytestmark = pytest.mark.usefixtures("no_hang")


def _state(value):
    return {"w": np.full(100, value, np.float32)}


@pytest.fixture(params=["memory", "disk"])
def bus(request, tmp_path):
    bus = mmsb.open(tmp_path / "log" if request.param == "disk" else None)
    bus.commit(_state(0), step=0)
    yield bus
    bus.close()


# ------------------------------------------------------------------------------- interrupts

AFTER = ["adopt", "put", "apply_head", "count", "_landed", "_announce", "_commit_of", "landed"]
BEFORE = ["prepare", "compare", "encode", "_write", "build_frame"]


@pytest.mark.parametrize("where", [*BEFORE, *AFTER])
@pytest.mark.parametrize("event", ["call", "return"])
def test_commit_that_is_interrupted_is_before_or_after(bus, where, event):
    if where == "prepare":
        bus.derive("twice", ["w"], lambda w: w * 2)
    version = bus.version
    with interrupted_at(where, event):
        bus.commit(_state(1), step=1)
    landed = bus.version - version
    assert landed == (where in AFTER or (where, event) == ("_write", "return"))
    assert in_another_thread(bus.tree)["w"][0] == landed
    assert len(list(bus.log())) == bus.version
    assert bus.commit(_state(2), step=2).version == version + landed + 1
    assert bus.read("w")[0] == 2
    assert bus.stats().commits == bus.version
    assert bus.verify()


DIGESTS_AFTER = ["adopt", "apply_head", "count", "_landed", "_announce", "_commit_of", "landed"]
DIGESTS_BEFORE = ["rows", "_digest_with", "_append_digests", "_write", "build_frame"]


@pytest.mark.parametrize("where", [*DIGESTS_BEFORE, *DIGESTS_AFTER])
@pytest.mark.parametrize("event", ["call", "return"])
def test_commit_of_digests_that_is_interrupted_is_before_or_after(bus, where, event):
    bus.commit(_state(1), step=1, save=False)
    version = bus.version
    with interrupted_at(where, event):
        bus.commit(_state(2), step=2, save=False)
    landed = bus.version - version
    is_written = event == "return" and where in ("_write", "_append_digests")
    assert landed == (where in DIGESTS_AFTER or is_written)
    assert in_another_thread(bus.tree)["w"][0] == 0
    assert bus.commit(_state(3), step=3, save=False).changed == ("w",)
    assert bus.commit(_state(3), step=3).changed == ("w",)
    assert bus.version == version + landed + 2
    assert [commit.saved for commit in bus.commits] == [True, *[False] * (2 + landed), True]
    assert bus.verify()


def _small(value: float) -> np.ndarray:
    """An array of which few words differ from another one's."""
    return np.where(np.arange(40) == 7, np.float32(value), np.float32(0))


SMALL_AFTER = ["adopt", "put", "adopt_plain", "count", "_landed", "_announce", "done"]
SMALL_BEFORE = ["becoming", "run_schedule", "plain_changes", "_write", "build_frame"]


@pytest.mark.parametrize("where", [*SMALL_BEFORE, *SMALL_AFTER])
@pytest.mark.parametrize("event", ["call", "return"])
def test_write_that_is_interrupted_is_before_or_after(bus, where, event):
    bus.create("x", (40,))
    bus.derive("twice", ["x"], lambda x: x * 2)
    for value in (1, 2):
        bus.write("x", _small(value))
    version, runs = bus.version, bus.derived()["twice"].runs
    with interrupted_at(where, event):
        bus.write("x", _small(3))
    landed = bus.version - version
    assert landed == (where in SMALL_AFTER or (where, event) == ("_write", "return"))
    assert bus.derived()["twice"].runs == runs + landed
    assert in_another_thread(lambda: bus.read("twice"))[7] == 4 + 2 * landed
    assert bus.write("x", _small(9)).version == version + landed + 1
    assert bus.read("twice")[7] == 18
    assert bus.stats().commits == bus.version
    assert bus.verify(derive=True)


@pytest.mark.parametrize("where", ["append", "_sync_commit", "is_there"])
def test_interrupt_around_the_write_is_settled_by_what_the_disk_holds(tmp_path, where):
    bus = mmsb.open(tmp_path / "log", durability="fsync")
    bus.commit(_state(0))
    with interrupted_at(where, "return"):
        bus.commit(_state(1))
    version = bus.version
    assert version in (1, 2)
    assert bus.tree()["w"][0] == version - 1
    assert bus.commit(_state(5)).durable
    bus.close()
    with mmsb.open(tmp_path / "log") as again:
        assert again.version == version + 1
        assert again.tree() == {"w": pytest.approx(np.full(100, 5.0))}
        assert not again.recovered


@pytest.mark.parametrize(
    "read",
    [
        lambda bus: int(bus.tree()["w"][0]),
        lambda bus: int(bus.read("w")[0]),
        lambda bus: int(bus.checkout()["w"][0]),
        lambda bus: len(list(bus.log())) - 1,
        lambda bus: bus.extra(),
        lambda bus: bus.verify().versions - 1,
    ],
    ids=["tree", "read", "checkout", "log", "extra", "verify"],
)
def test_what_was_interrupted_twice_is_finished_by_a_read_in_another_thread(bus, monkeypatch, read):
    settle = Engine.settle_landing

    def cut_short(self):
        if self._landing is not None:
            raise KeyboardInterrupt
        settle(self)

    monkeypatch.setattr(Engine, "settle_landing", cut_short)
    with interrupted_at("adopt"):
        bus.commit(_state(1), extra=1)
    monkeypatch.undo()
    assert in_another_thread(lambda: read(bus)) == 1


@pytest.mark.parametrize("event", ["call", "return"])
@pytest.mark.parametrize("where", ["_landed", "_announce"])
def test_created_arrays_are_recorded_once_where_their_commit_was_interrupted(bus, where, event):
    bus.create("x", (2,))
    with interrupted_at(where, event):
        bus.write("x", np.ones(2, np.float32))
    bus.create("y", (2,))
    bus.write("y", np.ones(2, np.float32))
    assert bus.read("x").tolist() == [1, 1]
    assert bus.verify()


def test_import_into_an_empty_log_is_whole_wherever_it_is_interrupted(tmp_path):
    source = mmsb.open()
    for value in range(3):
        source.commit(_state(value))
    stream = source.export()
    for place, where in enumerate(["begin_with", "open_anew", "publish", "replace_state", "join"]):
        for event in ("call", "return"):
            path = tmp_path / f"{place}-{event}"
            bus = mmsb.open(path, durability="fsync")
            with interrupted_at(where, event):
                bus.import_(stream)
            version = bus.version
            assert version in (0, 3), where
            assert len(list(bus.log())) == min(1, version)
            bus.commit(_state(9), structure="new")
            bus.close()
            with mmsb.open(path) as again:
                assert again.version == version + 1
                assert again.verify()


def test_close_that_is_interrupted_goes_on_and_gives_the_log_back(tmp_path):
    for place, where in enumerate(["close", "_leave_mark", "shutdown", "release", "stop", "sync"]):
        path = tmp_path / str(place)
        bus = mmsb.open(path)
        bus.commit(_state(1))
        with interrupted_at(where, "return" if where == "stop" else "call"):
            bus.close()
        bus.close()
        assert bus.closed
        with mmsb.open(path) as again:
            assert again is not bus
            assert again.version == 1


@pytest.mark.parametrize("where", ["sync", "_leave_mark", "_sync_files"])
def test_close_that_is_interrupted_in_its_sync_syncs_when_called_again(tmp_path, where):
    bus = mmsb.open(tmp_path / "log")
    bus.commit(_state(1))
    writer = bus._session.writing().writer
    with interrupted_at(where):
        bus.close()
    assert writer.durable_version == 0 or where == "_leave_mark"
    bus.close()
    assert writer.durable_version == 1


@pytest.mark.parametrize("where", ["stop", "settle", "shutdown"])
def test_close_that_is_interrupted_leaves_who_listens(bus, where):
    heard = []
    bus.subscribe("commit", lambda event: heard.append(event.version))
    with interrupted_at(where):
        bus.close()
    if not bus.closed:
        assert bus.commit(_state(1)).version == 2
        assert heard == [2]


@pytest.mark.parametrize("event", ["call", "return"])
@pytest.mark.parametrize(
    "where",
    [
        "check_regular",
        "_say_who",
        "boot_id",
        "open_to_write",
        "realpath",
        "__setitem__",
    ],
)
def test_open_that_is_interrupted_leaves_no_lock_though_its_traceback_is_kept(
    tmp_path, where, event
):
    mmsb.open(tmp_path / "log").close()
    never_there = contextlib.suppress(pytest.fail.Exception)
    with never_there, interrupted_at(where, event) as kept:  # as a notebook keeps it
        mmsb.open(tmp_path / "log").close()
    with in_another_thread(lambda: mmsb.open(tmp_path / "log")) as again:
        assert again.commit(_state(1)).version == 1
    del kept


@pytest.mark.parametrize("where", ["start_thread", "_begin", "_call_worker", "wake", "submit"])
@pytest.mark.parametrize("event", ["call", "return"])
def test_interrupt_where_a_thread_is_begun_leaves_nobody_waiting(tmp_path, where, event):
    for number, wait in enumerate((False, True)):
        bus = mmsb.open(tmp_path / str(number), durability=("group", 5))
        never_there = contextlib.suppress(pytest.fail.Exception)
        with never_there, interrupted_at(where, event):
            bus.commit(_state(1))
            bus.commit(_state(2), wait=wait)
        newest = in_another_thread(lambda bus=bus: bus.commit(_state(3)).version)
        assert bus.commit(_state(4), wait=False).result(timeout=PATIENCE_S).version == newest + 1
        ends = time.monotonic() + PATIENCE_S
        while bus.durable_version <= newest:
            assert time.monotonic() < ends, "nothing is synced any more"
            time.sleep(0.01)
        in_another_thread(bus.close)


def test_log_whose_close_was_interrupted_can_be_opened_again_at_once(tmp_path):
    bus = mmsb.open(tmp_path / "log")
    bus.commit(_state(1))
    with interrupted_at("_leave_mark"):
        bus.close()
    with mmsb.open(tmp_path / "log") as again:
        assert again is not bus
        assert again.commit(_state(2)).version == 2


@pytest.mark.parametrize(
    "where", ["begin_batch", "end_batch", "_leave_batch", "_enter_batch", "drop_batch"]
)
@pytest.mark.parametrize("event", ["call", "return"])
def test_batch_that_is_interrupted_lets_the_bus_go_though_its_traceback_is_kept(bus, where, event):
    bus.create("x", (2,))
    kept = None
    try:
        with interrupted_at(where, event), bus.batch():
            bus.write("x", np.ones(2, np.float32))
    except BaseException as error:  # as a notebook keeps it
        kept = error
    assert in_another_thread(lambda: bus.commit(_state(7)).version) == bus.version
    with bus.batch():
        bus.write("x", np.full(2, 3, np.float32))
    assert bus.read("x").tolist() == [3, 3]
    del kept


def test_interrupt_of_who_waits_for_a_commit_leaves_the_commit_alone(bus):
    outcome = bus.commit(_state(1), wait=False)
    with interrupted_at("wait"):
        outcome.result()
    assert outcome.result().version == 2
    assert outcome.done()
    assert not outcome.cancel()
    assert outcome.exception() is None


# ------------------------------------------------------------------------ threads that fail


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_queue_whose_thread_cannot_be_started_as_usual_goes_on(bus, monkeypatch, error):
    def start(self):
        raise error

    monkeypatch.setattr(threading.Thread, "start", start)
    outcome = bus.commit(_state(1), wait=False)
    assert bus.commit(_state(2)).version == 3
    assert outcome.result().version == 2
    assert bus.commit(_state(3), wait=False).result(timeout=PATIENCE_S).version == 4
    assert bus.sync() == 4


def test_no_thread_at_all_is_slower_and_right(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_threads._thread, "start_new_thread", refuse)
    rng = np.random.default_rng(0)
    bus = mmsb.open(tmp_path / "log", durability=("group", 5))
    state = {f"w{i}": rng.normal(size=300_000).astype(np.float32) for i in range(4)}
    bus.commit(state)
    for _ in range(3):
        state = {name: value.copy() for name, value in state.items()}
        for value in state.values():
            value[rng.integers(0, value.size, 50_000)] += 1
        bus.commit(state, wait=False)
    bus.snapshot()
    assert bus.durable_version == 4
    assert bus.verify(deep=True)
    bus.close()
    with mmsb.open(tmp_path / "log") as again:
        assert all(np.array_equal(again.read(name), value) for name, value in state.items())


def test_job_is_done_once_by_a_worker_or_by_who_asks():
    threads, found = _threads.Threads(), []
    jobs = [threads.submit(found.append, number) for number in range(500)]
    for job in jobs:
        job.result()
    assert sorted(found) == list(range(500))
    assert list(threads.map(lambda x: x * 2, range(5))) == [0, 2, 4, 6, 8]
    threads.shutdown()


def test_job_that_many_ask_for_at_once_is_done_once():
    begun = []

    def call():
        begun.append(1)
        time.sleep(0.1)  # the others come meanwhile

    job = _threads.Job(call)
    askers = [threading.Thread(target=ask) for ask in [job.result] * 4 + [job.work] * 4]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(PATIENCE_S)
    assert begun == [1]


def test_job_whose_call_was_interrupted_is_done_by_the_next_who_asks():
    calls = []

    def call():
        calls.append(1)
        return 3

    job = _threads.Job(call)
    with interrupted_at("call"):
        job.run()
    assert not job.done()
    assert job.result() == 3


def test_event_of_a_commit_that_is_not_waited_for_comes_though_no_thread_starts(bus, monkeypatch):
    found = []
    bus.subscribe("commit", lambda event: found.append(event.version))

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    bus.commit(_state(1), wait=False).result()
    bus.commit(_state(2))
    assert found == [2, 3]


# ------------------------------------------------------------------------------------ forks

CALLS = {
    "commit": lambda bus: bus.commit(_state(1)),
    "stats": lambda bus: bus.stats(),
    "tree": lambda bus: bus.tree(),
    "version": lambda bus: bus.version,
    "log": lambda bus: list(bus.log()),
    "batch": lambda bus: bus.batch().__enter__(),
    "subscribe": lambda bus: bus.subscribe("*", print),
    "create": lambda bus: bus.create("z", (2,)),
    "layout": lambda bus: bus.layout,
    "extra": lambda bus: bus.extra(),
    "tags": lambda bus: bus.tags(),
    "export": lambda bus: bus.export(),
    "sync": lambda bus: bus.sync(),
}


@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("mode", ["a", "r"])
def test_forked_child_is_refused_though_other_threads_were_inside_calls(tmp_path, mode):
    writer = mmsb.open(tmp_path / "log")
    writer.commit(_state(0))
    bus = writer if mode == "a" else mmsb.open(tmp_path / "log", mode="r")
    subscription = writer.subscribe("*", lambda event: None)
    inside, go_on = threading.Event(), threading.Event()

    def hold():
        with bus._session.own_lock, subscription._events._lock:
            inside.set()
            go_on.wait(PATIENCE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(PATIENCE_S)
    try:
        for name, call in CALLS.items():
            assert in_child(lambda call=call: call(bus)) == "ClosedError", name
        assert in_child(bus.close) == "nothing"
        assert in_child(subscription.cancel) == "nothing"
        assert in_child(lambda: repr(bus)) == "nothing"
        assert in_child(lambda: bus.__exit__(None, None, None)) == "nothing"
    finally:
        go_on.set()
        thread.join()
    assert not bus.closed
    writer.commit(_state(2))
    assert writer.verify()
    writer.close()


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_future_of_a_commit_that_had_not_landed_is_refused_in_a_forked_child(bus):
    with bus._session.writing().lock:  # so that it cannot land
        outcome = bus.commit(_state(1), wait=False)
        assert in_child(outcome.result) == "ClosedError"
        assert in_child(outcome.exception) == "ClosedError"
    assert outcome.result().version == 2


def test_commit_can_be_pickled_beside_a_bus(bus):
    commit = bus.commit(_state(1), extra={"a": 1})
    assert pickle.loads(pickle.dumps(commit)) == commit


def test_a_bus_that_its_own_commit_collects_is_closed_behind_it():
    """The collector may run anywhere, also in the thread of the queue."""
    bus = mmsb.open()
    bus.commit(_state(0))
    end, queue, engine = bus._end, bus._session.engine.queue, bus._session.engine
    outcome = queue.submit(lambda landed: (end(), landed("done")), lambda: None, queue.failures)
    assert outcome.result() == "done"
    ends = time.monotonic() + PATIENCE_S
    while not engine.is_released and time.monotonic() < ends:
        time.sleep(0.001)
    assert engine.is_released
    assert bus.closed
