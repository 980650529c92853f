"""Tags and compaction of a bus: what is kept, what is refused, and who goes on beside it."""

import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._base.errors import ClosedError, VersionError


@pytest.fixture(params=["memory", "disk"])
def bus(request, tmp_path: Path):
    """A bus with thirty versions of a tree; version 7 is tagged."""
    bus = mmsb.open(None if request.param == "memory" else tmp_path / "run.mmsb")
    for number in range(1, 31):
        bus.commit(
            {"w": jnp.full((64,), number, jnp.bfloat16), "n": number},
            step=number * 10,
            source="train",
            note={"number": number},
            extra={"at": number},
        )
    bus.tag("best", 7)
    yield bus
    bus.close()


def value(bus, version) -> int:
    tree = bus.checkout(version=version)
    assert np.asarray(tree["w"]).tolist() == [tree["n"]] * 64
    return tree["n"]


def test_compact_keeps_what_it_says_and_the_log(bus):
    before = list(bus.log())
    rehearsed = bus.compact(keep_since=21, dry_run=True)
    report = bus.compact(keep_since=21)
    assert (report.keep_since, report.kept, report.dropped) == (21, (7, 20), 20)
    assert rehearsed.bytes_after == report.bytes_after < report.bytes_before
    assert list(bus.log()) == before
    assert [value(bus, v) for v in (7, "best", 20, *range(21, 31))] == [
        *(7, 7, 20),
        *range(21, 31),
    ]
    with pytest.raises(VersionError, match=r"version 15 were dropped .* the nearest is 20"):
        bus.checkout(version=15)
    with pytest.raises(VersionError, match="were dropped"):
        bus.checkout(step=150)
    assert bus.checkout(step=200)["n"] == 20
    assert bus.verify()
    assert "dropped the data of 20 versions" in str(report)
    bus.commit({"w": jnp.zeros(64, jnp.bfloat16), "n": 31})
    assert bus.version == 31


def test_extra_of_a_kept_version_stays_and_that_of_a_dropped_one_does_not(bus):
    early = next(bus.log(since=3))
    bus.compact(keep_since=21)
    commits = {commit.version: commit for commit in bus.log()}
    assert {v: commits[v].extra for v in (7, 20, 21, 30)} == {v: {"at": v} for v in (7, 20, 21, 30)}
    for commit in (commits[3], early):
        assert commit.note == {"number": 3}
        with pytest.raises(VersionError, match="were dropped"):
            _ = commit.extra
    state, extra = bus.resume({"w": jnp.zeros(64, jnp.bfloat16), "n": 0})
    assert (state["n"], extra) == (30, {"at": 30})


def test_log_that_was_compacted_opens_again(tmp_path: Path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        for number in range(1, 11):
            bus.commit({"n": number})
        bus.tag("best", 3)
        bus.compact(keep_since=9)
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert (bus.recovered, bus.tags()) == ([], {"best": 3})
        assert bus.checkout(version="best") == {"n": 3}
        assert bus.tree() == {"n": 10}
        bus.commit({"n": 11})
        bus.untag("best")
        assert bus.compact(keep_since=11).kept == (10,)
        with pytest.raises(VersionError, match="were dropped"):
            bus.checkout(version=3)
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
        assert reader.tree() == {"n": 11}
        assert len(list(reader.log())) == 11
        assert reader.verify()


def test_reader_beside_a_compaction_goes_on(tmp_path: Path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        for number in range(1, 11):
            bus.commit({"n": number})
            if number % 4 == 0:
                bus.snapshot()
        reader = mmsb.open(tmp_path / "run.mmsb", mode="r")
        listed = reader.log()
        assert next(listed).version == 1
        bus.tag("nine", 9)
        bus.compact(keep_since=10)
        assert [commit.version for commit in listed] == list(range(2, 11))
        assert reader.tags() == {"nine": 9}
        assert reader.checkout(version=9) == {"n": 9}
        with pytest.raises(VersionError, match="were dropped"):
            reader.checkout(version=4)
        bus.commit({"n": 11})
        assert reader.tree() == {"n": 11}
        assert reader.verify()
        with pytest.raises(ClosedError, match="mode='r'"):
            reader.compact(keep_since=3)
        with pytest.raises(ClosedError, match="mode='r'"):
            reader.tag("x")
        reader.close()


def test_threads_that_read_during_compactions_see_whole_states(tmp_path: Path):
    faults: list[BaseException] = []
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        for number in range(1, 61):
            bus.commit({"w": np.full(200, number), "n": number})
            if number % 9 == 0:
                bus.snapshot()
        reader = mmsb.open(tmp_path / "run.mmsb", mode="r")
        done = threading.Event()

        def read(source) -> None:
            noise = np.random.default_rng()
            try:
                while not done.is_set():
                    version = int(noise.integers(50, 61))
                    tree = source.checkout(version=version)
                    assert tree["n"] == version
                    assert (tree["w"] == version).all()
                    assert len(list(source.log(since=1, until=60))) == 60
            except BaseException as error:
                faults.append(error)

        threads = [
            threading.Thread(target=read, args=(source,)) for source in (bus, reader, reader)
        ]
        for thread in threads:
            thread.start()
        for keep_since in range(5, 51, 5):
            bus.compact(keep_since=keep_since)
        done.set()
        for thread in threads:
            thread.join()
        reader.close()
    assert faults == []


def test_fork_of_a_compacted_bus_goes_on(bus, tmp_path: Path):
    bus.compact(keep_since=21)
    for version, kept_since in ((30, 21), (21, 21), (20, 21), ("best", 8)):
        with bus.fork(version=version) as fork:
            number = 7 if version == "best" else version
            assert fork.version == number
            assert value(fork, number) == number
            assert fork.tags() == {"best": 7}
            fork.commit({"w": jnp.zeros(64, jnp.bfloat16), "n": -1})
            assert fork.tree()["n"] == -1
            assert len(list(fork.log())) == number + 1
            assert fork.verify()
            assert fork._session.log.kept_since == kept_since
    with pytest.raises(VersionError, match="were dropped"):
        bus.fork(version=12)


def test_diff_and_history_of_a_compacted_bus(bus):
    bus.compact(keep_since=21)
    assert "w" in str(bus.diff(7, 25))
    with pytest.raises(VersionError, match="were dropped"):
        bus.diff(8, 25)
    history = bus.history("w")
    assert history.versions == [7, 20, *range(21, 31)]
    assert [int(entry.value[0]) for entry in history] == history.versions
    assert [int(history[i].value[0]) for i in range(3)] == [7, 20, 21]
    assert history.at(20).version == 20
    with pytest.raises(VersionError, match="were dropped"):
        history.at(19)


def test_history_shows_a_dropped_version_in_a_kept_state():
    with mmsb.open() as bus:
        bus.create("x", (2,), "int32")
        bus.create("y", (2,), "int32")
        bus.write("x", np.array([1, 1], np.int32))
        for number in range(2, 9):
            bus.write("y", np.array([number, 0], np.int32))
        bus.write("x", np.array([9, 9], np.int32))
        bus.tag("four", 4)
        bus.compact(keep_since=8)
        history = bus.history("x")
        assert history.versions == [1, 9]
        assert [entry.value.tolist() for entry in history] == [[1, 1], [9, 9]]
        assert history.at(5).value.tolist() == [1, 1]
        assert bus.history("y").versions == [4, 7, 8]


def test_tag_moves_and_is_taken_away(bus):
    assert bus.tag("best") == 30
    assert bus.tag("again", "best") == 30
    assert bus.tags() == {"again": 30, "best": 30}
    bus.untag("best")
    assert bus.tags() == {"again": 30}
    with pytest.raises(VersionError, match=r"no version is tagged 'best'.*'again'"):
        bus.checkout(version="best")
    with pytest.raises(VersionError, match="no version is tagged"):
        bus.untag("best")
    with pytest.raises(VersionError, match="does not exist"):
        bus.tag("x", 31)
    with pytest.raises(VersionError, match="negative"):
        bus.tag("x", -1)
    with pytest.raises(ValueError, match="digits alone"):
        bus.tag("12")
    with pytest.raises(TypeError, match="expected an integer"):
        bus.tag("x", 1.5)
    assert bus.version == 30


def test_diff_takes_tags_as_checkout_does(bus):
    bus.tag("late", 25)
    for old, new in (("best", "late"), (7, "late"), ("best", np.int64(25))):
        found = bus.diff(old, new)
        assert (found.old_version, found.new_version) == (7, 25)
        assert found == bus.diff(7, 25)
    leads = bus.diff("best", "late").delta
    bus.tag("best", 8)
    assert bus.diff("best", "late").old_version == 8
    assert leads.changed_bytes == bus.diff(7, 25).delta.changed_bytes
    with pytest.raises(VersionError, match="no version is tagged 'bets'"):
        bus.diff("bets", 25)
    for wrong in (None, 1.5, True):
        with pytest.raises(TypeError, match=r"new=.*expected an integer"):
            bus.diff(7, wrong)


def test_tag_of_an_empty_log_or_a_dropped_version_is_refused(bus):
    with mmsb.open() as empty:
        with pytest.raises(VersionError, match="the log is empty"):
            empty.tag("x")
        with pytest.raises(VersionError, match="the log is empty"):
            empty.compact(keep_since=1)
    bus.compact(keep_since=21)
    with pytest.raises(VersionError, match="were dropped"):
        bus.tag("x", 12)
    assert bus.tag("base", 20) == 20
    assert bus.compact(keep_since=25).kept == (7, 20, 24)


def test_tag_and_compact_inside_a_batch_are_refused():
    with mmsb.open() as bus:
        bus.create("x", (2,))
        bus.write("x", np.zeros(2, np.float32))
        with bus.batch():
            for call in (
                lambda: bus.tag("a"),
                lambda: bus.untag("a"),
                lambda: bus.compact(keep_since=1),
            ):
                with pytest.raises(ClosedError, match="inside a batch"):
                    call()


def test_compact_waits_for_what_is_queued(bus):
    handles = [bus.commit({"w": jnp.zeros(64, jnp.bfloat16), "n": n}, wait=False) for n in range(3)]
    assert bus.compact(keep_since=33).dropped == 32
    assert [handle.result().version for handle in handles] == [31, 32, 33]
    assert bus.checkout(version=32)["n"] == 1


def test_derived_arrays_survive_a_compaction(tmp_path: Path):
    def double(w):
        return w * 2

    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"w": jnp.arange(4.0)})
        bus.derive("d", inputs=["w"])(double)
        for number in range(5):
            bus.commit({"w": jnp.arange(4.0) + number})
        bus.compact(keep_since=bus.version)
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert bus.read("d").tolist() == [8.0, 10.0, 12.0, 14.0]
        bus.derive("d", inputs=["w"])(double)
        bus.commit({"w": jnp.zeros(4)})
        assert bus.read("d").tolist() == [0.0] * 4
        assert bus.verify()
