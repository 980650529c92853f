"""Followers: every commit once and in order, whatever the writer does."""

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._followed import FIVE_MINUTES, KINDS
from tests.bus._script import ROOT


def versions(commits) -> list[int]:
    return [commit.version for commit in commits]


def test_follow_gives_what_is_there_and_then_what_lands(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        commits = [bus.commit({"x": float(i)}, note={"i": i}) for i in range(3)]
        with mmsb.open(tmp_path / "x.mmsb", mode="r") as reader:
            following = reader.follow(after=0)
            assert [next(following) for _ in range(3)] == commits
            landed = bus.commit({"x": 9.0})
            assert next(following) == landed
            assert versions(reader.follow(after=2, timeout=0)) == [3, 4]
            assert versions(reader.follow(timeout=0)) == []


def test_follow_waits_for_what_lands_later(tmp_path):
    with (
        mmsb.open(tmp_path / "x.mmsb") as bus,
        mmsb.open(tmp_path / "x.mmsb", mode="r") as reader,
    ):
        seen, first = [], threading.Event()

        def follow() -> None:
            for commit in reader.follow(after=0, timeout=60):
                seen.append(commit.version)
                first.set()
                if commit.version == 20:
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        bus.commit({"x": 0.0})
        assert first.wait(60)
        for i in range(19):
            bus.commit({"x": float(i)})
        thread.join(60)
        assert seen == list(range(1, 21))


def test_follow_in_the_writers_process_and_in_memory(bus):
    following = bus.follow(after=0)
    for i in range(3):
        landed = bus.commit({"x": float(i)})
        assert next(following) == landed


def test_follow_survives_rotation_compaction_and_another_writer(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb", mode="a") as bus:
        bus.commit({"x": np.zeros(100)})
        reader = mmsb.open(tmp_path / "x.mmsb", mode="r")
        following = reader.follow(after=0)
        seen = [next(following).version]
        for i in range(2, 12):
            bus.commit({"x": np.full(100, float(i))})
            if i % 3 == 0:
                bus.snapshot()
                bus._session.writing().writer.rotate()
                seen.append(next(following).version)
            if i == 8:
                bus.compact(keep_since=max(seen) + 1)
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        bus.commit({"x": np.ones(100)})
        seen += [next(following).version for _ in range(12 - len(seen))]
        bus.compact(keep_since=12)
        bus.commit({"x": np.zeros(100)})
        seen.append(next(following).version)
    assert seen == list(range(1, 14))
    reader.close()
    with pytest.raises(mmsb.ClosedError):
        next(following)


@pytest.mark.parametrize("mode", ["a", "r"])
def test_follow_behind_what_was_compacted_says_what_is_missing(tmp_path, mode):
    with mmsb.open(tmp_path / "x.mmsb") as bus, mmsb.open(tmp_path / "x.mmsb", mode) as reader:
        bus.commit({"x": 0.0})
        following = reader.follow(after=0)
        next(following)
        for i in range(6):
            bus.commit({"x": float(i)})
        bus.compact(keep_since=5)
        with pytest.raises(mmsb.VersionError, match=r"versions 2 to 4 cannot be had.*Join late"):
            next(following)
        with pytest.raises(mmsb.VersionError, match="versions 2 to 4"):
            reader.follow(after=1)
        assert versions(reader.follow(after=4, timeout=0)) == [5, 6, 7]


def test_follow_behind_no_version_is_refused(bus):
    bus.commit({"x": 0.0})
    with pytest.raises(mmsb.VersionError, match="nearest is 1"):
        bus.follow(after=2)
    with pytest.raises(mmsb.VersionError, match="negative"):
        bus.follow(after=-1)
    with pytest.raises(TypeError):
        bus.follow(after="x")


def test_follow_of_a_log_that_lost_its_end_is_told(tmp_path):
    path = tmp_path / "x.mmsb"
    with mmsb.open(path) as bus:
        bus.commit({"x": 0.0})
        with mmsb.open(path, mode="r") as reader:
            following = reader.follow(after=0)
            segment = next((path / "log").glob("*.seg"))
            size = segment.stat().st_size
            bus.commit({"x": 1.0})
            assert [next(following).version, next(following).version] == [1, 2]
            with segment.open("r+b") as file:  # as a power cut may leave it
                file.truncate(size)
            with pytest.raises(mmsb.DivergenceError, match="ends at version 1 now, and had 2"):
                next(following)


def test_follow_of_a_log_that_was_put_in_its_place_is_told(tmp_path):
    path = tmp_path / "x.mmsb"
    with mmsb.open(path) as bus, mmsb.open() as other:
        bus.commit({"x": 0.0})
        for i in range(3):
            other.commit({"x": float(i)})
        with mmsb.open(path, mode="r") as reader:
            following = reader.follow(after=0)
            assert next(following).version == 1
            reader._session.log = other._session.log  # its first version is another
            with pytest.raises(mmsb.DivergenceError, match="does not continue version 1"):
                next(_following_of(following, other))


def _following_of(following, other):
    follower = following.gi_frame.f_locals["follower"]
    follower._log = other._session.log
    return following


def _run(path, commits: int) -> str:
    """A writer at full speed and four readers, processes of their own; what they say is checked."""
    command = [sys.executable, "-m", "tests.bus._followed", str(path)]
    pipes = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    readers = {kind: subprocess.Popen([*command, "read", kind], **pipes) for kind in KINDS}
    writer = subprocess.run([*command, "write", str(commits)], check=True, **pipes)
    digests = dict(line.split() for line in writer.stdout.splitlines())
    assert len(digests) == commits or commits < 0
    compared = {}
    for kind, process in readers.items():
        out, _ = process.communicate()
        assert process.returncode == 0, kind
        found = dict(line.split() for line in out.splitlines())
        assert str(len(digests)) in found, kind
        assert found.items() <= digests.items(), kind
        compared[kind] = len(found)
    return f"{len(digests)} commits; digests from scratch compared and equal: {compared}"


def test_readers_beside_a_writer_at_full_speed_see_its_digests(tmp_path):
    print(_run(tmp_path / "x.mmsb", 200))


@pytest.mark.long
def test_readers_beside_a_writer_for_five_minutes_see_its_digests(tmp_path):
    print(_run(tmp_path / "x.mmsb", FIVE_MINUTES))


@pytest.mark.parametrize(
    "ask",
    [
        lambda bus: bus.follow(after=0, timeout=0),
        lambda bus: bus.log(),
        lambda bus: list(bus.log()),
        lambda bus: bus.diff(1, 2),
    ],
    ids=["follow", "log", "commits", "diff"],
)
def test_bus_is_there_as_long_as_what_reads_from_its_log(tmp_path, ask):
    with mmsb.open(tmp_path / "run.mmsb") as writer:
        for x in (1.0, 2.0):
            writer.commit({"x": x})
    bus = mmsb.open(tmp_path / "run.mmsb", mode="r")
    found, is_there = ask(bus), weakref.ref(bus)
    del bus
    gc.collect()
    assert is_there() is not None
    del found
    gc.collect()
    assert is_there() is None
