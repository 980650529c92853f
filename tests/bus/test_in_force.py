"""What a commit does not say of extra and step stays in force, whatever lies between."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.format import index
from mmsb_jax._store.maintain import compact
from mmsb_jax._store.writer import writer

STATE = {"w": np.ones(2, np.float32)}


def _begin(path=None):
    bus = mmsb.open(path)
    bus.create("x", (2,))
    bus.commit(STATE, step=5, extra={"next": 7})
    bus.derive("norm", ["w"], jnp.linalg.norm, when="read")
    return bus


SILENT = {
    "commit": lambda bus: bus.commit({"w": np.zeros(2, np.float32)}),
    "commit, not waited for": lambda bus: bus.commit(STATE, wait=False).result(),
    "read of a stale array": lambda bus: bus.read("norm"),
    "write": lambda bus: bus.write("x", jnp.ones(2)),
    "create": lambda bus: (bus.create("y", (1,)), bus.sync()),
    "clone": lambda bus: bus.clone("x", "z"),
    "resize": lambda bus: bus.resize("x", (3,)),
    "delete": lambda bus: bus.delete("x"),
    "derive": lambda bus: bus.derive("n2", ["w"], jnp.sum),
    "link": lambda bus: bus.link("x", "norm", kind="device_sync"),
    "propagate": lambda bus: bus.propagate(),
    "batch": lambda bus: _batch(bus),
    "tag": lambda bus: bus.tag("here"),
    "snapshot": lambda bus: bus.snapshot(),
}


def _batch(bus):
    with bus.batch(source="b"):
        bus.write("x", jnp.zeros(2))


@pytest.mark.parametrize("name", SILENT)
def test_what_says_nothing_leaves_extra_and_step_in_force(name):
    bus = _begin()
    SILENT[name](bus)
    assert bus.resume({"w": jnp.zeros(2)}, extra={"next": 0})[1] == {"next": 7}
    assert bus.extra() == {"next": 7}
    assert bus.step == 5


def test_extra_is_that_of_the_newest_commit_up_to_a_version_that_says_one():
    bus = mmsb.open()
    for number in range(8):
        said = {3: {"n": 3}, 5: b"raw", 6: mmsb.CLEAR}.get(number)
        bus.commit({"x": float(number)}, extra=said)
    known = [bus.extra(version) for version in range(1, 9)]
    assert known == [None, None, None, {"n": 3}, {"n": 3}, b"raw", None, None]
    assert [commit.extra for commit in bus.log()][4] is None
    assert bus.resume({"x": 0.0}, extra=1) == ({"x": 7.0}, None)


def test_resume_gives_what_is_passed_where_no_commit_has_said_an_extra():
    bus = mmsb.open()
    bus.commit({"x": 1.0})
    assert bus.resume({"x": 0.0}, extra={"next": 0}) == ({"x": 1.0}, {"next": 0})
    assert bus.step is None


def test_extra_in_force_outlives_compaction_reopening_streams_and_forks(tmp_path):
    bus = _begin(tmp_path / "log")
    for number in range(12):
        bus.commit({"w": np.full(2, number, np.float32)})
    bus.compact(keep_since=9)
    bus.compact(keep_since=11)
    assert bus.extra() == bus.extra(10) == {"next": 7}
    joined = mmsb.open()
    joined.import_(bus.export())
    fork = bus.fork()
    behind = fork.fork()
    bus.close()
    for other in (mmsb.open(tmp_path / "log"), joined, fork, behind):
        assert other.resume({"w": jnp.zeros(2)})[1] == {"next": 7}
        other.commit(STATE)
        assert other.extra() == {"next": 7}
    again = mmsb.open()
    again.import_(joined.export())
    assert again.extra() == {"next": 7}


@pytest.mark.parametrize("giver", [1, 2, 3])
def test_extra_in_force_outlives_one_compaction_after_another(giver):
    bus = mmsb.open()
    for version in range(1, 9):
        bus.commit({"x": float(version)}, extra={"given": version} if version == giver else None)
    for keep_since in (3, 5, 7, 8):
        bus.compact(keep_since=keep_since)
        assert bus.extra() == bus.extra(max(giver, keep_since - 1)) == {"given": giver}
    bus.snapshot()
    joined = mmsb.open()
    joined.import_(bus.export())
    assert joined.extra() == {"given": giver}


def test_extra_in_force_whose_bytes_an_older_compaction_dropped_is_refused(monkeypatch):

    bus = _begin()
    for number in range(6):
        bus.commit({"w": np.full(2, number, np.float32)})
    monkeypatch.setattr(compact, "stored_extra", lambda log, version: None)
    monkeypatch.setattr(compact, "carries_extra", lambda log, version, extra: True)
    bus.compact(keep_since=6)
    with pytest.raises(mmsb.VersionError, match=r"given by version 1, whose data were dropped"):
        bus.extra()
    bus.commit(STATE, extra={"next": 9})
    assert bus.extra() == {"next": 9}


def test_index_of_an_older_log_is_walked_and_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_KNOWS_EXTRA", 0)
    monkeypatch.setattr(index, "_SAYS_EXTRA", 0)
    monkeypatch.setattr(writer, "stored_extra", lambda log, version: None)
    bus = _begin(tmp_path / "old")
    bus.commit(STATE)
    bus._session.writing()._begin_snapshot()  # as after a few MiB
    bus.commit({"w": np.zeros(2, np.float32)})
    bus.close()
    assert list((tmp_path / "old" / "log").glob("*.idx"))
    monkeypatch.undo()
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    with mmsb.open(tmp_path / "new") as bus:
        assert bus.extra() == {"next": 7}
        assert bus.extra() == {"next": 7}  # from what was noted now


def test_extra_of_a_version_that_the_log_never_had_is_refused():
    bus, joined = _begin(), mmsb.open()
    bus.commit(STATE)
    joined.import_(bus.export())
    assert joined.extra() == {"next": 7}
    with pytest.raises(mmsb.VersionError, match="version 1 does not exist"):
        joined.extra(1)


def test_versions_before_any_extra_have_none(tmp_path):
    with mmsb.open(tmp_path / "log") as bus:
        assert bus.extra() is None
        bus.commit(STATE)
        assert bus.extra(0) is None
        with pytest.raises(mmsb.VersionError, match="does not exist"):
            bus.extra(2)
