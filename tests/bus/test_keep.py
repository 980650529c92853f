"""``keep=``: whose bytes stay, what is given up, and what goes on beside it."""

import contextlib
import gc
import itertools
import math
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmsb_jax as mmsb
from tests.bus._dense import STATE_BYTES, note, settled, state, train

pytestmark = pytest.mark.usefixtures("small_segments")


def steps_with_bytes(bus: mmsb.Bus) -> list[int]:
    settled(bus)
    return [bus.commits[v - 1].step for v in bus._session.log.with_bytes()]


def used(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_run_keeps_what_is_asked_for_and_its_disk_stays_small(tmp_path: Path):
    keep = mmsb.Keep(last=3, every_steps=40, best=mmsb.Best("loss", n=2))
    path = tmp_path / "run.mmsb"
    sizes = []
    with mmsb.open(path, keep=keep) as bus:
        for first in range(0, 200, 20):
            train(bus, range(first, first + 20))
            sizes.append(used(path))
        kept = steps_with_bytes(bus)
        assert {0, 36, 37, 40, 80, 120, 160, 197, 198, 199} <= set(kept)
        assert len(kept) < 20
        for step in kept:
            np.testing.assert_array_equal(bus.checkout(step=step)["w"], state(step)["w"])
        assert bus.resume(state(0))[1] == {"at": 199}
        with pytest.raises(mmsb.VersionError, match="were dropped"):
            bus.checkout(step=61)
        assert [commit.note for commit in bus.commits] == [note(step) for step in range(200)]
        stats = bus.stats()
        assert (stats.keep_fault, stats.unranked) == (None, 0)
        assert stats.keep_runs > 10
        assert bus.verify()
    assert max(sizes) < 20 * STATE_BYTES
    with mmsb.open(path, mode="r") as reader:
        assert reader.verify()
        assert [commit.step for commit in reader.commits] == [*range(200)]
        np.testing.assert_array_equal(reader.checkout(step=37)["w"], state(37)["w"])


def test_between_versions_with_bytes_there_may_be_others(tmp_path: Path):
    with mmsb.open(tmp_path / "run.mmsb", save=mmsb.Every(steps=5), keep=mmsb.Keep(last=2)) as bus:
        train(bus, range(151))
        kept = steps_with_bytes(bus)
        assert all(step % 5 == 0 for step in kept)
        assert kept[-2:] == [145, 150]
        assert len(kept) < 12
        assert bus.first_nonfinite() is None
        assert bus.verify()


def test_tag_wins_and_may_be_given_when_only_a_digest_is_there(tmp_path: Path):
    with mmsb.open(tmp_path / "run.mmsb", save=mmsb.Every(steps=10), keep=mmsb.Keep(last=1)) as bus:
        for step in range(100):
            bus.commit(state(step), step=step)
            if step == 20:
                bus.tag("twenty")
            if step == 33:
                version = bus.tag("here")
                assert bus.commits[version - 1].step == 33
        assert {20, 33, 90} <= set(steps_with_bytes(bus))
        for name, step in (("twenty", 20), ("here", 33)):
            np.testing.assert_array_equal(bus.checkout(version=name)["w"], state(step)["w"])


def test_best_sees_what_was_said_later_and_passes_over_what_is_no_number(tmp_path: Path):
    keep = mmsb.Keep(last=1, best=mmsb.Best("accuracy", mode="max"))
    with mmsb.open(tmp_path / "run.mmsb", keep=keep) as bus:
        notes = [{"accuracy": math.nan}, {"accuracy": "high"}, None, {"accuracy": True}, {}]
        for step in range(40):
            said = notes[step] if step < len(notes) else {"accuracy": step / 100}
            commit = bus.commit(state(step), step=step, note=said)
            if step == 2:
                bus.annotate(commit, {"accuracy": 0.9})
        assert 2 in steps_with_bytes(bus)
        assert bus.stats().keep_runs > 0
        assert bus.stats().unranked <= len(notes)
        assert bus.verify()


def test_superseded_versions_are_not_kept(tmp_path: Path):
    keep = mmsb.Keep(last=2, best=mmsb.Best("loss", n=2))
    with mmsb.open(tmp_path / "run.mmsb", keep=keep, snapshots=False) as bus:
        for step in range(3):
            bus.commit(state(step), step=step, note={"loss": 0.5})
        abandoned = bus.commit(state(3), step=3, note={"loss": 0.0})
        bus.resume(state(0), at=bus.at(step=2))
        for step in range(3, 30):
            bus.commit(state(100 + step), step=step, note={"loss": 1.0 + step})
            settled(bus)
        assert abandoned.version not in bus._session.log.with_bytes()
        np.testing.assert_array_equal(bus.checkout(step=29)["w"], state(129)["w"])
        np.testing.assert_array_equal(bus.checkout(step=0)["w"], state(0)["w"])  # of equal ones


def test_function_is_a_policy():
    seen = []

    def odd(commits):
        seen.append(len(commits))
        return [commit for commit in commits if commit.step % 8 == 1]

    with mmsb.open(keep=odd) as bus:
        train(bus, range(40))
        kept = steps_with_bytes(bus)
        assert {1, 9, 17, 25, 33, 39} <= set(kept)
        assert len(kept) < 20
        assert seen


def lost(commits):
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("keep", "fault"),
    [
        (lost, "no such thing"),
        (lambda commits: 3, "returned 3. Expected commits"),
        (lambda commits: [3], "returned 3. Expected some of the commits"),
        (lambda commits: [mmsb.open().commit({"a": 1})], "Expected some of the commits"),
    ],
)
def test_policy_that_fails_loses_nothing_and_is_told_of(keep, fault: str):
    with mmsb.open(keep=keep) as bus:
        with pytest.warns(UserWarning, match=fault):
            train(bus, range(30))
        assert steps_with_bytes(bus) == [*range(30)]
        assert fault in bus.stats().keep_fault
        with pytest.raises((KeyError, TypeError), match=fault):
            bus.compact(keep_since=20)


@pytest.mark.parametrize("call", [lambda bus: bus.tags(), lambda bus: bus.commits])
def test_policy_that_asks_the_bus_is_refused_and_waits_for_nothing(call):
    buses: list[mmsb.Bus] = []

    def asks(commits):
        for bus in buses:
            call(bus)
        return commits[-1:]

    with mmsb.open(keep=asks) as bus:
        buses.append(bus)
        with pytest.warns(UserWarning, match=r"the policy of keep= uses the bus"):
            train(bus, range(10))
        assert steps_with_bytes(bus) == [*range(10)]


def test_policy_that_ends_the_process_does_not():
    with mmsb.open(keep=lambda commits: sys.exit(3)) as bus:
        with pytest.warns(UserWarning, match="SystemExit"):
            train(bus, range(10))
        assert steps_with_bytes(bus) == [*range(10)]


def test_bus_that_is_collected_in_its_own_background_is_closed(tmp_path: Path):
    def collects(commits):
        gc.collect()
        return commits[-1:]

    def leave() -> None:
        holder = type("Holder", (), {})()
        holder.me, holder.bus = holder, mmsb.open(tmp_path / "run.mmsb", keep=collects)
        for step in range(6):
            holder.bus.commit(state(step), step=step)

    gc.disable()
    try:
        leave()
    finally:
        gc.enable()
    until = time.monotonic() + 60
    while True:
        gc.collect()
        with contextlib.suppress(mmsb.LockedError), mmsb.open(tmp_path / "run.mmsb") as bus:
            assert bus.latest.step == 5
            return
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("save", [None, mmsb.Every(steps=1)])
def test_what_is_found_does_not_depend_on_what_is_kept(save):
    def run(keep, part: int) -> mmsb.Bus:
        bus = mmsb.open(keep=keep, save=save)
        for step in range(40):
            value = np.nan if step in (17, 30) else step + part * (step > 20)
            bus.commit({"w": np.full(500, value, np.float32)}, step=step)
            settled(bus)
        return bus

    for keep in (None, mmsb.Keep(last=1)):
        ours, theirs = run(keep, 0), run(keep, 1)
        commit, arrays = ours.first_nonfinite()
        assert (commit.step, arrays) == (17, ("w",))
        assert [commit.step for commit in ours.first_divergence(theirs)[:2]] == [21, 21]
        ours.close()
        theirs.close()


def test_numbers_that_no_float_holds_are_not_ranked():
    with mmsb.open(keep=mmsb.Keep(last=1, every_seconds=1e-12, best=mmsb.Best("loss"))) as bus:
        for step in range(10):
            bus.commit(state(step), step=step, note={"loss": 10**400 if step == 3 else step})
            settled(bus)
        assert bus.stats().keep_fault is None
        assert bus.stats().unranked == 1


def test_annotation_is_no_commit_that_a_policy_counts_from(tmp_path: Path):
    save = mmsb.Every(steps=10)
    with mmsb.open(tmp_path / "run.mmsb", save=save) as bus:
        for step in range(1, 12):
            commit = bus.commit(state(step), step=step)
        bus.commit(state(12), step=12, save=True)
        bus.annotate(commit, {"accuracy": 1})
    with mmsb.open(tmp_path / "run.mmsb", save=save) as bus:
        bus.resume(state(0))
        saved = [bus.commit(state(s), step=s).saved for s in range(13, 37, 4)]
        assert saved == [False, False, True, False, False, True]


def test_what_is_committed_while_a_policy_chooses_is_not_given_up(monkeypatch):
    with mmsb.open(keep=mmsb.Keep(last=1, every_steps=10)) as bus:
        keeper, steps = bus._session.engine.keeper, itertools.count()
        choose = keeper.choose

        def slowly() -> set[int]:
            chosen = choose()
            for step in itertools.islice(steps, 16):
                bus.commit(state(step), step=step)
            return chosen

        monkeypatch.setattr(keeper, "choose", slowly)
        for step in itertools.islice(steps, 4):
            bus.commit(state(step), step=step)
            settled(bus)
        for step in itertools.islice(steps, 40):
            bus.commit(state(step), step=step)
            settled(bus)
        newest = bus.latest.step
        assert keeper.runs > 0
        assert set(range(0, newest, 10)) <= set(steps_with_bytes(bus))


def test_compact_by_hand_keeps_what_the_policy_does():
    with mmsb.open(keep=mmsb.Keep(last=1, every_steps=10)) as bus:
        for step in range(25):
            bus.commit(state(step), step=step)
        bus.compact(keep_since=bus.version)
        assert {0, 10, 20, 24} <= set(steps_with_bytes(bus))


def test_threads_and_a_reader_beside_see_whole_states(tmp_path: Path):
    failures, seen = list[BaseException](), list[int]()
    with mmsb.open(tmp_path / "run.mmsb", keep=mmsb.Keep(last=4)) as bus:
        bus.commit(state(0), step=0)
        reader = mmsb.open(tmp_path / "run.mmsb", mode="r")
        done = threading.Event()

        def read(source: mmsb.Bus) -> None:
            try:
                while not done.is_set():
                    step = source.latest.step
                    with contextlib.suppress(mmsb.VersionError):  # it was dropped since
                        found = source.checkout(step=step)
                        np.testing.assert_array_equal(found["w"], state(step)["w"])
                        seen.append(step)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read, args=(each,)) for each in (bus, reader, reader)]
        for thread in threads:
            thread.start()
        for step in range(1, 150):
            bus.commit(state(step), step=step, wait=step % 3 == 0)
            if step % 30 == 0:
                bus.fork(version=bus.version).close()
        done.set()
        for thread in threads:
            thread.join()
        reader.close()
        assert failures == []
        assert len(set(seen)) > 10
        assert bus.stats().keep_fault is None
        assert bus.stats().keep_runs > 0


def test_follower_gets_every_commit_and_a_fork_keeps_by_its_own(tmp_path: Path):
    with mmsb.open(tmp_path / "run.mmsb", keep=mmsb.Keep(last=1)) as bus:
        follower, seen = bus.follow(after=0, timeout=0), []
        for step in range(60):
            train(bus, range(step, step + 1))
            seen.append(next(follower).step)
        assert seen == [*range(60)]
        with pytest.raises(mmsb.VersionError, match="compacted away"):
            next(bus.follow(after=0, timeout=0))
        with bus.fork(keep=None) as fork:
            for step in range(60, 90):
                fork.commit(state(step), step=step)
            assert steps_with_bytes(fork)[-30:] == [*range(60, 90)]


@given(
    steps=st.lists(st.integers(0, 300), min_size=1, max_size=60),
    last=st.integers(1, 5),
    every=st.integers(1, 50) | st.none(),
    n=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_keep_chooses_what_the_oracle_does(steps, last, every, n, mode):
    commits = [_Said(step) for step in steps]
    chosen = mmsb.Keep(last=last, every_steps=every, best=mmsb.Best("loss", mode, n))(commits)
    expected = set(commits[-last:])
    if every is not None:
        firsts: dict[int, _Said] = {}
        for commit in commits:
            firsts.setdefault(commit.step // every, commit)
        expected |= set(firsts.values())
    sign = 1 if mode == "min" else -1
    ranked = sorted(
        (c for c in commits if c.note["loss"] == c.note["loss"]),
        key=lambda c: (sign * c.note["loss"], c.version),
    )
    expected |= set(ranked[:n])
    assert chosen == sorted(expected, key=lambda commit: commit.version)


class _Said:
    """What `Keep` asks of a commit."""

    made = 0

    def __init__(self, step: int) -> None:
        _Said.made += 1
        self.version, self.step, self.time_ns = _Said.made, step, _Said.made
        self.note = {"loss": math.nan if step % 7 == 0 else float(step % 11)}


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: mmsb.Keep(last=0), ValueError, r"last=0\): expected it to be above 0"),
        (lambda: mmsb.Keep(last=2.0), TypeError, "expected an integer"),
        (lambda: mmsb.Keep(every_steps=-1), ValueError, "above 0"),
        (lambda: mmsb.Keep(every_seconds=math.nan), ValueError, "above 0"),
        (lambda: mmsb.Keep(every_seconds="1h"), TypeError, "expected a number"),
        (lambda: mmsb.Keep(best="loss"), TypeError, r"Best\('loss'\)"),
        (lambda: mmsb.Keep(best=["loss"]), TypeError, r"Best\('loss'\)"),
        (lambda: mmsb.Best("loss", "least"), ValueError, "mode='least'"),
        (lambda: mmsb.Best("loss", n=0), ValueError, "above 0"),
        (lambda: mmsb.Best(3), TypeError, "name"),
        (lambda: mmsb.open(keep=5), TypeError, r"keep=5: expected a policy"),
    ],
)
def test_wrong_policies_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()
