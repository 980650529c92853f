"""Links: edges that are data, control, or a label."""

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.graph._graphs import Compiled, F, runs, stale


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def bus(bus, compiled) -> mmsb.Bus:
    bus.commit({"a": F(1, 2), "b": F(10, 20), "gate": F(0)})
    return compiled.lend(bus)


def write(bus: mmsb.Bus, **values: np.ndarray) -> mmsb.Commit:
    with bus.batch():
        for name, value in values.items():
            bus.write(name, value)
    return next(bus.log(since=bus.version))


def test_data_link_makes_the_child_a_copy(bus):
    bus.link("a", "copy")
    assert write(bus, a=F(7, 8)).changed == ("a", "copy")
    np.testing.assert_array_equal(bus.read("copy"), F(7, 8))
    assert ("a", "copy", "data") in set(bus.graph.edges())
    assert runs(bus) == {"copy": 2}


def test_control_link_marks_the_child_which_runs_when_read(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    bus.derive("d", ["c"], lambda c: c + 1)
    assert bus.link("gate", "c", kind="control").changed == ()
    assert write(bus, gate=F(1)).changed == ("gate",)
    assert stale(bus) == {"c", "d"}
    assert runs(bus) == {"c": 1, "d": 1}
    bus.read("d")
    assert runs(bus) == {"c": 2, "d": 1}  # it came out the same
    assert stale(bus) == set()


def test_control_link_loses_against_a_data_input_that_changes_later(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    bus.link("gate", "c", kind="control")
    write(bus, gate=F(1))
    assert write(bus, a=F(3, 3)).changed == ("a", "c")
    assert stale(bus) == set()
    write(bus, gate=F(2), a=F(4, 4))  # both at once: marked
    assert stale(bus) == {"c"}
    np.testing.assert_array_equal(bus.read("c"), F(8, 8))


def test_control_link_from_a_derived_array_follows_its_bytes(bus):
    bus.derive("sign", ["a"], lambda a: a > 0)
    bus.derive("c", ["b"], lambda b: b * 2)
    bus.link("sign", "c", kind="control")
    write(bus, a=F(5, 6))
    assert stale(bus) == set()
    write(bus, a=F(-5, 6))
    assert stale(bus) == {"c"}
    np.testing.assert_array_equal(bus.read("c"), F(20, 40))


def test_propagate_runs_what_a_control_link_has_marked(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    bus.link("gate", "c", kind="control")
    write(bus, gate=F(1))
    assert bus.propagate().changed == ()
    assert runs(bus) == {"c": 2}


@pytest.mark.parametrize("kind", ["device_sync", "compiler"])
def test_label_marks_and_runs_nothing(bus, kind):
    bus.derive("c", ["a"], lambda a: a * 2)
    bus.link("gate", "c", kind=kind)
    bus.link("gate", "b", kind=kind)
    write(bus, gate=F(1))
    assert stale(bus) == set()
    assert runs(bus) == {"c": 1}
    assert {("gate", "c", kind), ("gate", "b", kind)} <= set(bus.graph.edges())


def test_several_kinds_between_two_arrays_stand_beside_each_other(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    for kind in ("control", "device_sync", "compiler"):
        bus.link("a", "c", kind=kind)
    assert bus.graph.kinds("a", "c") == ("data", "control", "device_sync", "compiler")
    bus.unlink("a", "c", kind="control")
    assert bus.graph.kinds("a", "c") == ("data", "device_sync", "compiler")
    assert write(bus, a=F(5, 5)).changed == ("a", "c")


def test_link_survives_a_new_rule_and_goes_with_its_array(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    bus.link("gate", "c", kind="control")
    bus.derive("c", ["b"], lambda b: b * 2)
    assert ("gate", "c", "control") in set(bus.graph.edges())
    bus.delete("c")
    assert "c" not in bus.graph
    bus.derive("c", ["b"], lambda b: b * 2)
    assert bus.graph.kinds("gate", "c") == ()
    assert bus.verify()


def test_links_of_a_batch_are_those_that_were_left_last(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    edge = ("gate", "c", "control")
    with bus.batch():
        bus.link("gate", "c", kind="control")
        bus.unlink("gate", "c", kind="control")
    assert edge not in set(bus.graph.edges())
    bus.link("gate", "c", kind="control")
    with bus.batch():
        bus.unlink("gate", "c", kind="control")
        bus.link("gate", "c", kind="control")
    assert edge in set(bus.graph.edges())
    with bus.fork() as fork:
        assert edge in set(fork.graph.edges())


def test_links_are_refused_with_reasons(bus):
    bus.derive("c", ["a"], lambda a: a * 2)
    version, edges = bus.version, set(bus.graph.edges())
    with pytest.raises(ValueError, match=r"kind='wire'.*'control'"):
        bus.link("a", "c", kind="wire")
    with pytest.raises(mmsb.ArrayNotFoundError, match="'nothing'"):
        bus.link("nothing", "c", kind="control")
    with pytest.raises(mmsb.ArrayNotFoundError, match="'nothing'"):
        bus.link("a", "nothing", kind="compiler")
    with pytest.raises(mmsb.GraphCycleError, match="a → c → a"):
        bus.link("c", "a", kind="device_sync")
    with pytest.raises(mmsb.ArrayNotFoundError, match="gate"):
        bus.unlink("gate", "c", kind="control")
    with pytest.raises(mmsb.StructureError, match=r"link\('a', 'b'\).*committed tree"):
        bus.link("a", "b")
    assert (bus.version, set(bus.graph.edges())) == (version, edges)


def test_links_survive_reopening_and_are_taken_back_there(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1, 2), "gate": F(0)})
        bus.derive("c", ["a"], lambda a: a * 2)
        bus.link("gate", "c", kind="control")
        bus.link("gate", "a", kind="compiler")
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert set(bus.graph.edges()) == {
            ("a", "c", "data"),
            ("gate", "c", "control"),
            ("gate", "a", "compiler"),
        }
        bus.unlink("gate", "c", kind="control")
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
        assert set(reader.graph.edges()) == {("a", "c", "data"), ("gate", "a", "compiler")}
