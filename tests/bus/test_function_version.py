"""From which version on the function of a derived array does what it does."""

import json

import jax.numpy as jnp
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.derive.log_entries import in_force_since, rules_in


def doubled(x):
    return x * 2


def tripled(x):
    return x * 3


@pytest.fixture
def bus():
    with mmsb.open() as bus:
        bus.create("x", (4,))
        bus.write("x", jnp.ones(4))
        yield bus


def since(bus, name="y"):
    return bus.derived()[name].function_version


def test_it_is_the_commit_that_derived_it(bus):
    assert bus.derive("y", ["x"], doubled).version == 2
    assert since(bus) == 2
    for value in (2.0, 3.0):
        bus.write("x", jnp.full(4, value))
    assert since(bus) == 2


def test_another_function_is_a_new_one_and_the_same_is_not(bus):
    bus.derive("y", ["x"], doubled)
    bus.derive("y", ["x"], tripled)
    assert since(bus) == 3
    bus.write("x", jnp.zeros(4))
    bus.derive("y", ["x"], tripled)
    assert since(bus) == 3
    commit = bus.derive("y", ["x"], doubled)
    assert since(bus) == commit.version


def test_other_shapes_of_what_it_reads_make_a_new_one(bus):
    bus.derive("y", ["x"], doubled)
    commit = bus.resize("x", (6,))
    assert since(bus) == commit.version


def test_functions_of_one_commit_are_of_one_version(bus):
    with bus.batch():
        bus.derive("y", ["x"], doubled)
        bus.derive("z", ["y"], tripled)
    bus.derive("z", ["y"], doubled)
    assert (since(bus), since(bus, "z")) == (2, 3)


def test_it_survives_reopening_and_attaching(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.create("x", (4,))
        bus.derive("y", ["x"], doubled)
        bus.write("x", jnp.ones(4))
        version = since(bus)
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert since(bus) == version
        with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
            assert since(reader) == version
        assert bus.derive("y", ["x"], doubled) is None
        assert since(bus) == version
        bus.derive("y", ["x"], tripled)
        assert since(bus) == bus.version


def test_it_survives_forks_imports_and_compaction(bus):
    bus.derive("y", ["x"], doubled)
    bus.write("x", jnp.full(4, 2.0))
    bus.derive("y", ["x"], tripled)
    newest = since(bus)
    for value in (3.0, 4.0):
        bus.write("x", jnp.full(4, value))
    fork, earlier, taken = bus.fork(), bus.fork(ref=newest - 1), mmsb.open()
    taken.import_(bus.export(0))
    assert [since(each) for each in (fork, earlier, taken)] == [newest, 2, newest]
    fork.derive("y", ["x"], doubled)
    assert since(fork) == fork.version
    bus.snapshot()
    bus.compact(keep_since=bus.version)
    assert since(bus) == newest


def test_version_that_was_gone_back_to_has_its_own(bus):
    bus.derive("y", ["x"], doubled)
    bus.derive("y", ["x"], tripled)
    bus.revert_to(2)
    assert since(bus) == 2


def test_copy_has_one_too(bus):
    bus.link("x", "copy")
    assert since(bus, "copy") == 2


def test_log_that_does_not_say_it_goes_on(bus):
    bus.derive("y", ["x"], doubled)
    entries = bus._session.head().table.graph
    ((name, text),) = [item for item in entries.items() if "derive/" in item[0]]
    said = json.loads(text)
    assert said.pop("since") == 2
    bus._session.engine.say({name: json.dumps(said)})  # as an earlier version of the library
    assert since(bus) is None
    bus.write("x", jnp.full(4, 5.0))
    bus.derive("y", ["x"], doubled)
    assert since(bus) is None
    bus.derive("y", ["x"], tripled)
    assert since(bus) == bus.version


@pytest.mark.parametrize("wrong", [0, -1, "2", 1.5, True])
def test_version_that_is_none_is_damage(bus, wrong):
    bus.derive("y", ["x"], doubled)
    entries = dict(bus._session.head().table.graph)
    ((name, text),) = [item for item in entries.items() if "derive/" in item[0]]
    entries[name] = json.dumps(json.loads(text) | {"since": wrong})
    with pytest.raises(mmsb.CorruptionError):
        rules_in(entries)
    with pytest.raises(mmsb.CorruptionError):
        in_force_since(entries, "y", "", 3)
