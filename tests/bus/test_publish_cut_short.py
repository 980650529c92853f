"""A push that is cut short anywhere: what servers find is a version as it was pushed, or none."""

import errno
import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.weights.directory import WeightDirectory
from mmsb_jax._bus.weights.publisher import Publisher
from mmsb_jax._bus.weights.tensors import Selection
from mmsb_jax.testing._disk import CALLS, Disk
from mmsb_jax.testing._faulty import Faults
from tests.bus._pull import Server
from tests.torture._scale import scaled

ROOT = Path("/shared")


def publisher_on(bus, disk, anchor_every=3):
    directory = WeightDirectory(ROOT, disk)
    selection = Selection("**", None)
    return Publisher(
        bus._session, bus._durable_now, directory, selection, anchor_every, "xor", None
    )


def state(number):
    w = np.zeros(300, np.float32)
    w[number] = number
    return {"w": w, "n": np.asarray(number)}


def bytes_of(tree):
    return {name: np.asarray(array).tobytes() for name, array in sorted(tree.items())}


def names_on(disk, folder):
    try:
        with disk.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


def copied(disk, to):
    """What a server sees of the disk, in a real directory; the numbers of the versions."""
    numbers = []
    for name in names_on(disk, ROOT):
        if name.startswith("weight_v"):
            (to / name).mkdir(parents=True, exist_ok=True)
            numbers.append(int(name.removeprefix("weight_v")))
            for file in names_on(disk, ROOT / name):
                descriptor = disk.open(ROOT / name / file, 0)
                (to / name / file).write_bytes(disk.pread(descriptor, 1 << 30, 0))
                disk.close(descriptor)
    return sorted(numbers)


def check_seen(disk, to, pushed):
    """Every version that can be seen is whole, and what was pushed under its number."""
    numbers = copied(disk, to)
    for number in numbers:
        assert Server().pull(to, number).arrays() == pushed[number]
    return numbers


def a_run(disk, bus):
    """Six pushes and two prunes; what each number is, noted before it may be seen."""
    publisher, pushed = publisher_on(bus, disk), {}
    for number in range(1, 7):
        tree = state(number)
        bus.commit(tree)
        pushed[number] = bytes_of(tree)
        assert publisher.push().number == number
        disk.note(number)
        if number in (4, 6):
            publisher.prune()
    return pushed


def moments_of(disk):
    moments = range(len(disk.journal) + 1)
    return random.Random(0).sample(moments, min(len(moments), scaled(40)))


@pytest.mark.parametrize("dies", ["the process", "the machine"])
def test_killed_at_any_moment_leaves_whole_versions_and_the_next_goes_on(tmp_path, dies):
    disk, bus = Disk(), mmsb.open()
    pushed = a_run(disk, bus)
    assert sum(isinstance(fact, int) for fact in disk.facts()) == 6
    last = state(7)
    bus.commit(last)
    for moment in moments_of(disk):
        if dies == "the process":
            left = disk.after_process_death(moment)
        else:
            left = disk.after_machine_death(random.Random(moment), moment)
        before = tmp_path / f"{moment}"
        seen = check_seen(left, before, pushed)
        said = disk.facts(moment)
        if said:  # what push returned for is there, whatever died
            assert seen[-1] >= said[-1]
        live = copied(disk.after_process_death(moment), tmp_path / f"{moment} live")
        again = publisher_on(bus, left)
        number = again.push().number
        assert number > max(live, default=0), "a number that servers may know was used again"
        after = tmp_path / f"{moment} after"
        check_seen(left, after, pushed | {number: bytes_of(last)})
        names = names_on(left, ROOT)
        assert not [name for name in names if name.endswith((".draft", ".removed"))]
        if seen:  # a server that was on its way goes on
            server = Server().pull(before, seen[-1])
            assert server.pull(after, number).arrays() == bytes_of(last)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_call_of_the_system_that_fails_is_an_error_and_the_next_push_goes_on(tmp_path, code):
    calls = faults_of_a_push(Faults(kinds=CALLS, code=code), None)[1]
    assert len(calls) > 8
    for place in range(len(calls)):
        disk, _, bus, publisher, pushed = faults_of_a_push(Faults(kinds=CALLS, code=code), place)
        seen = copied(disk, tmp_path / f"{place}")
        for number in seen:
            found = Server().pull(tmp_path / f"{place}", number).arrays()
            assert found == pushed[min(number, 3)]
        number = publisher.push().number
        after = tmp_path / f"{place} after"
        copied(disk, after)
        for server in (Server(), Server().pull(tmp_path / f"{place}", seen[-1])):
            assert server.pull(after, number).arrays() == bytes_of(bus.tree())


def faults_of_a_push(faults, place):
    """A third push, of which one call fails."""
    disk, bus = Disk(faults=faults), mmsb.open()
    publisher, pushed = publisher_on(bus, disk), {}
    for number in (1, 2, 3):
        tree = state(number)
        bus.commit(tree)
        pushed[number] = bytes_of(tree)
        if number < 3:
            publisher.push()
    faults.arm(-1 if place is None else place)
    if place is None:
        publisher.push()
    else:
        with pytest.raises(mmsb.LocationError, match=r"/shared cannot be written"):
            publisher.push()
    calls = list(faults.calls)
    faults.disarm()
    return disk, calls, bus, publisher, pushed


class Interrupted(Disk):
    """A disk on which something else happens right before a call."""

    def __init__(self):
        super().__init__()
        self.before = {}

    def _happens(self, call):
        if happens := self.before.pop(call, None):
            happens()

    def open(self, path, flags, mode=0):
        if path.name.endswith(".json") and path.parent.suffix == ".draft":
            self._happens("index")
        return super().open(path, flags, mode)

    def replace(self, source, target):
        if target.name.startswith("weight_v"):
            self._happens("rename")
        super().replace(source, target)


@pytest.mark.parametrize("call", ["index", "rename"])
def test_two_that_push_at_once_do_not_take_one_number(tmp_path, call):
    disk, bus = Interrupted(), mmsb.open()
    bus.commit(state(1))
    buses = [bus, bus.fork()]  # one history so far: the directory may be of both
    publishers = [publisher_on(each, disk) for each in buses]
    for number, each in enumerate(buses, start=2):
        each.commit(state(number))
    disk.before[call] = publishers[1].push
    with pytest.raises((mmsb.LocationError, mmsb.LockedError)):
        publishers[0].push()
    [number] = copied(disk, tmp_path)
    assert Server().pull(tmp_path, number).arrays() == bytes_of(state(3))
    with pytest.raises(mmsb.DivergenceError):
        publishers[0].push()


@pytest.mark.parametrize("call", ["index", "rename"])
def test_draft_that_another_cleared_away_is_not_put_in_place(tmp_path, call):
    disk, bus = Interrupted(), mmsb.open()
    publisher = publisher_on(bus, disk)
    bus.commit(state(1))
    disk.before[call] = lambda: WeightDirectory(ROOT, disk).remove([])
    with pytest.raises(mmsb.LocationError):
        publisher.push()
    assert copied(disk, tmp_path) == []
    number = publisher.push().number
    copied(disk, tmp_path)
    assert Server().pull(tmp_path, number).arrays() == bytes_of(state(1))


def test_draft_that_another_began_to_clear_away_is_not_put_in_place(tmp_path):
    disk, bus = Interrupted(), mmsb.open()
    publisher = publisher_on(bus, disk)
    bus.commit(state(1))

    def clear_a_part():
        disk.faults.kinds = frozenset({"unlink"})
        disk.faults.arm(1)
        with pytest.raises(mmsb.LocationError):
            WeightDirectory(ROOT, disk).remove([])
        disk.faults.disarm()

    disk.before["rename"] = clear_a_part
    with pytest.raises(mmsb.LocationError):
        publisher.push()
    assert copied(disk, tmp_path) == []


@pytest.mark.parametrize("system", ["a full folder", "an empty folder"])
def test_real_disk_refuses_a_number_that_was_taken(tmp_path, monkeypatch, system):
    """What the second look does not see, the renaming itself does."""
    bus = mmsb.open()
    publisher = bus.publish(tmp_path)
    bus.commit(state(1))
    taken = tmp_path / "weight_v000001"

    def too_early(self, final):
        taken.mkdir(exist_ok=True)
        if system == "a full folder":
            (taken / "file").touch()

    monkeypatch.setattr(WeightDirectory, "_refuse_taken", too_early)
    if system == "a full folder":
        with pytest.raises(mmsb.LockedError, match="another publisher"):
            publisher.push()
        assert [path.name for path in taken.iterdir()] == ["file"]
    else:
        publisher.push()
        assert Server().pull(tmp_path, 1).arrays() == bytes_of(state(1))


def test_threads_take_turns(tmp_path):
    bus = mmsb.open()
    publisher = bus.publish(tmp_path)
    versions = [bus.commit(state(number)).version for number in range(8)]
    numbers, states = [], {version: bytes_of(state(version - 1)) for version in versions}

    def push(version):
        pushed = publisher.push(version)
        numbers.append((pushed.number, pushed.version))

    threads = [threading.Thread(target=push, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in numbers) == list(range(1, 9))
    for number, version in numbers:
        assert Server().pull(tmp_path, number).arrays() == states[version]


def test_versions_are_whole_json_and_files(tmp_path):
    disk, bus = Disk(), mmsb.open()
    a_run(disk, bus)
    copied(disk, tmp_path)
    for path in tmp_path.iterdir():
        index = json.loads((path / "model.safetensors.index.json").read_text())
        files = {file.name for file in path.glob("*.safetensors")}
        assert set(index["weight_map"].values()) == files
