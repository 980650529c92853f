"""Links: edges that are data, control, or a label."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import mmsb_jax as mmsb
from mmsb_jax._bus.derive.registry import Derivations
from tests.graph._graphs import Compiled, F, head, insides, runs, stale


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


# ------------------------------------------------------------ copies of arrays that were there


def refused(bus: mmsb.Bus, error: type[Exception], said: str, act: Callable[[], Any]) -> None:
    """``act`` raises, and nothing has changed."""
    before = bus.version, head(bus), bus.derived(), set(bus.graph.edges()), bus.stale()
    with pytest.raises(error, match=said):
        act()
    assert (bus.version, head(bus), bus.derived(), set(bus.graph.edges()), bus.stale()) == before


def test_data_link_takes_over_an_array_that_was_created_or_cloned(bus):
    bus.create("made", (2,))
    bus.write("made", F(9, 9))
    bus.clone("b", "cloned")
    bus.create("fresh", (2,))  # not recorded yet
    for name in ("made", "cloned", "fresh"):
        bus.link("a", name)
        np.testing.assert_array_equal(bus.read(name), F(1, 2))
    assert write(bus, a=F(7, 8)).changed == ("a", "cloned", "fresh", "made")
    for name in ("made", "cloned", "fresh"):
        refused(
            bus,
            mmsb.StructureError,
            rf"{name!r} is derived {name!r} \(a copy of 'a'\): only its function writes it",
            lambda name=name: bus.write(name, F(0, 0)),
        )
    assert bus.verify(derive=True)


def test_data_link_keeps_what_was_made_from_the_array_before(bus):
    bus.create("made", (2,))
    bus.derive("behind", ["made"], lambda made: made + 1)
    bus.link("a", "made")
    np.testing.assert_array_equal(bus.read("behind"), F(2, 3))
    assert write(bus, a=F(5, 5)).changed == ("a", "behind", "made")


def test_data_link_of_an_array_that_does_not_fit_says_what_both_are(bus):
    for name, shape, dtype in (("longer", (3,), None), ("whole", (2,), "int32"), ("one", (), None)):
        bus.create(name, shape, dtype)
        bus.write(name, np.ones(shape, dtype or np.float32))
        refused(
            bus,
            mmsb.StructureError,
            rf"link\('a', {name!r}\): a copy is float32\[2\].*{name!r} is .*same shape and dtype",
            lambda name=name: bus.link("a", name),
        )
    bus.create("bits", (2,), "uint32")
    bus.commit({"a": F(1, 2), "key": jax.random.key(0)}, structure="new")
    refused(bus, mmsb.StructureError, "key:.*uint32", lambda: bus.link("key", "bits"))


def test_data_link_to_the_committed_tree_or_a_part_is_refused_by_name(bus):
    bus.commit({"a": F(1, 2), "t": {"x": F(1, 2)}, "note": "text"}, structure="new")
    bus.derive("pair", ["a"], lambda a: {"x": a})
    for child, said in (
        ("t/x", "committed tree"),
        ("t", "committed tree"),
        ("note", "written"),
        ("pair/x", "part of derived 'pair'"),
    ):
        refused(
            bus,
            mmsb.StructureError,
            rf"link\('a', {child!r}\).*{said}",
            lambda child=child: bus.link("a", child),
        )


def test_data_link_that_closes_a_cycle_shows_it_whoever_writes_the_child(bus):
    bus.create("made", (2,))
    bus.derive("c", ["made", "a"], lambda made, a: made + a)
    bus.link("c", "d")
    for parent, child in (("c", "made"), ("d", "a"), ("d", "made"), ("d", "c"), ("made", "made")):
        refused(
            bus,
            mmsb.GraphCycleError,
            rf"{parent} → {child} closes the cycle",
            lambda parent=parent, child=child: bus.link(parent, child),
        )


def test_data_link_beside_a_write_of_the_child_in_one_batch_is_refused(bus):
    bus.create("made", (2,))
    bus.sync()

    def batch(*acts: Callable[[], Any]) -> None:
        with bus.batch():
            for act in acts:
                act()

    for acts in (
        [lambda: bus.write("made", F(5, 5)), lambda: bus.link("a", "made")],
        [lambda: bus.link("a", "made"), lambda: bus.write("made", F(5, 5))],
    ):
        refused(bus, mmsb.StructureError, "written in the same batch", lambda a=acts: batch(*a))
    batch(lambda: bus.link("a", "made"), lambda: bus.write("a", F(3, 3)))
    np.testing.assert_array_equal(bus.read("made"), F(3, 3))


def test_delete_after_a_data_link_in_one_batch_deletes_the_array(bus):
    bus.create("made", (2,))
    bus.sync()
    with bus.batch():
        bus.link("a", "made")
        bus.delete("made")
    with pytest.raises(mmsb.ArrayNotFoundError):
        bus.read("made")
    assert bus.derived() == {}


def test_copies_go_on_after_reopening_without_being_linked_again(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1, 2), "k": jax.random.key(1)})
        bus.create("b", (2,))
        for parent, child in (("a", "b"), ("b", "c"), ("k", "kept")):
            bus.link(parent, child)
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        changed = bus.commit({"a": F(3, 4), "k": jax.random.key(2)}).changed
        assert changed == ("a", "b", "c", "k", "kept")
        assert bus.stale() == ()
        assert all(derived.is_attached for derived in bus.derived().values())
        np.testing.assert_array_equal(bus.read("c"), F(3, 4))


def test_messages_of_a_link_speak_of_links(bus):
    with pytest.raises(mmsb.StructureError, match=r"^child='c\*'"):
        bus.link("a", "c*")
    with pytest.raises(TypeError, match=r"^parent=3: expected the name of an array"):
        bus.link(3, "c")
    with pytest.raises(ValueError, match=r"^unlink\('a', 'c', kind='data'\).*Delete 'c'"):
        bus.unlink("a", "c", kind="data")


# ---------------------------------------------------------- arrays that only their user writes


@pytest.fixture
def plot(bus) -> mmsb.Bus:
    """A bus with a plot that follows ``gate``, and what is derived from it."""
    bus.create("plot", (2,))
    bus.derive("seen", ["plot", "a"], lambda plot, a: plot + a)
    bus.derive("more", ["seen"], lambda seen: seen * 2)
    bus.link("gate", "plot", kind="control")
    return bus


def test_control_link_marks_what_its_user_writes_until_that_is_written(plot):
    assert plot.stale() == ()
    assert write(plot, gate=F(1)).changed == ("gate",)
    assert plot.stale() == ("more", "plot", "seen")
    assert {name for name, derived in plot.derived().items() if derived.is_stale} == {
        "more",
        "seen",
    }
    before = runs(plot)
    assert plot.write("plot", F(0, 0)).changed == ()  # the same bytes: the user has looked
    assert (plot.stale(), runs(plot)) == ((), before)
    write(plot, gate=F(2))
    assert plot.write("plot", F(1, 1)).changed == ("more", "plot", "seen")
    assert plot.stale() == ()


def test_stale_array_of_a_user_is_read_as_it_is_and_keeps_nobody_from_computing(plot, recwarn):
    write(plot, gate=F(1))
    version = plot.version
    np.testing.assert_array_equal(plot.read("plot"), F(0, 0))
    np.testing.assert_array_equal(plot.read("more"), F(2, 4))
    assert plot.version == version  # nothing was there to compute
    assert write(plot, a=F(5, 5)).changed == ("a", "more", "seen")
    np.testing.assert_array_equal(plot.read("more"), F(10, 10))
    plot.derive("late", ["plot"], lambda plot: plot + 3)
    np.testing.assert_array_equal(plot.read("late"), F(3, 3))
    assert plot.stale() == ("late", "more", "plot", "seen")
    assert plot.propagate() is None
    assert plot.verify(derive=True)
    assert not recwarn.list


def looks(bus: mmsb.Bus) -> dict[str, Callable[[], Any]]:
    """Every way to write the two bytes that ``plot`` has."""
    region = bus.layout.region("plot")
    delta = mmsb.Delta.from_bytes(region, np.ones(8, bool), np.zeros(8, np.uint8))

    def batch() -> None:
        with bus.batch():
            bus.write("plot", F(0, 0))

    return {
        "write": lambda: bus.write("plot", F(0, 0)),
        "apply": lambda: bus.apply(delta),
        "extend": lambda: bus.extend(mmsb.TLog.empty(commits=1, blocks=4).append(delta)),
        "batch": batch,
        "resize": lambda: bus.resize("plot", shape=(1, 2)),
    }


@pytest.mark.parametrize("how", ["write", "apply", "extend", "batch", "resize"])
def test_any_write_of_the_same_bytes_takes_the_mark_away(bus, how):
    bus.create("plot", (2,))
    bus.link("gate", "plot", kind="control")
    write(bus, gate=F(1))
    assert bus.stale() == ("plot",)
    write(bus, a=F(3, 3))  # another array's
    assert bus.stale() == ("plot",)
    looks(bus)[how]()
    assert bus.stale() == ()


def test_empty_delta_is_no_write(bus):
    bus.create("plot", (2,))
    bus.link("gate", "plot", kind="control")
    write(bus, gate=F(1))
    region = bus.layout.region("plot")
    full = mmsb.Delta.from_bytes(region, np.ones(8, bool), np.zeros(8, np.uint8))
    bus.apply(eqx.tree_at(lambda delta: delta.mask, full, jnp.zeros_like(full.mask)))
    assert bus.stale() == ("plot",)


@pytest.mark.parametrize("wait", [True, False])
def test_commit_of_its_tree_takes_the_mark_of_a_member_away(bus, wait):
    bus.link("gate", "a", kind="control")
    write(bus, gate=F(1))
    assert bus.stale() == ("a",)
    bus.commit({"a": F(1, 2), "b": F(10, 20), "gate": F(1)}, wait=wait)
    assert bus.stale() == ()


def test_what_is_written_with_its_parent_is_not_stale_and_behind_a_derived_one_it_is(bus):
    bus.create("plot", (2,))
    bus.derive("sign", ["a"], lambda a: a > 0)
    bus.link("gate", "plot", kind="control")
    write(bus, gate=F(1), plot=F(1, 1))  # who wrote one knew the other
    assert bus.stale() == ()
    bus.link("sign", "plot", kind="control")
    write(bus, a=F(-1, 1), plot=F(2, 2))  # nobody had seen what would come out
    assert bus.stale() == ("plot",)
    write(bus, a=F(-2, 1), plot=F(2, 2))
    assert bus.stale() == ()


def test_chain_of_users_arrays_is_marked_link_by_link(bus):
    bus.create("simulated", (2,))
    bus.create("plotted", (2,))
    bus.derive("c", ["b"], lambda b: b * 2)
    bus.link("gate", "simulated", kind="control")
    bus.link("simulated", "plotted", kind="control")
    bus.link("plotted", "c", kind="control")
    write(bus, gate=F(1))
    assert bus.stale() == ("simulated",)
    bus.write("simulated", F(1, 1))
    assert bus.stale() == ("plotted",)
    bus.write("plotted", F(1, 1))
    assert bus.stale() == ("c",)
    bus.read("c")
    assert bus.stale() == ()


def test_mark_of_a_users_array_is_told_once_with_what_follows(plot):
    told: list[tuple[int, Any]] = []
    with plot.subscribe("stale", lambda event: told.append((event.version, event.array))):
        version = write(plot, gate=F(1)).version
        write(plot, gate=F(2))
        assert told == [(version, "more"), (version, "plot"), (version, "seen")]
        plot.write("plot", F(0, 0))
        again = write(plot, gate=F(3)).version
    assert told[3:] == [(again, "more"), (again, "plot"), (again, "seen")]


def test_unlink_and_a_parent_that_goes_take_the_mark_away(bus):
    bus.create("gate2", (1,))
    bus.create("plot", (2,))
    bus.derive("seen", ["plot"], lambda plot: plot + 1)
    for gate in ("gate", "gate2"):
        bus.link(gate, "plot", kind="control")
    write(bus, gate=F(1))
    bus.unlink("gate", "plot", kind="control")
    assert bus.stale() == ("plot", "seen")  # the other may have marked it as well
    bus.delete("gate2")
    assert bus.stale() == ()
    assert not [name for name in bus._session.head().table.graph if "stale" in name]
    bus.link("gate", "plot", kind="control")
    write(bus, gate=F(2))
    bus.unlink("gate", "plot", kind="control")
    assert bus.stale() == ()


def test_stale_array_that_goes_or_becomes_a_copy_leaves_no_mark(bus):
    for end in (lambda: bus.delete("plot"), lambda: bus.link("b", "plot")):
        bus.create("plot", (2,))
        bus.link("gate", "plot", kind="control")
        write(bus, gate=bus.read("gate") + 1)
        assert bus.stale() == ("plot",)
        end()
        assert bus.stale() == ()
        assert not [name for name in bus._session.head().table.graph if "stale" in name]
    assert bus.graph.kinds("gate", "plot") == ("control",)  # and now it is computed when read
    write(bus, gate=F(9))
    assert (bus.stale(), stale(bus)) == (("plot",), {"plot"})
    bus.read("plot")
    assert bus.stale() == ()


def test_clone_of_a_linked_array_is_linked_to_nothing(bus):
    bus.create("plot", (2,))
    bus.link("gate", "plot", kind="control")
    bus.clone("plot", "other")
    bus.clone("gate", "gate2")
    write(bus, gate=F(1))
    assert bus.stale() == ("plot",)
    bus.write("plot", F(1, 1))
    bus.write("gate2", F(5))
    assert bus.stale() == ()


def test_parent_of_another_shape_has_changed(bus):
    bus.create("size", (2,))
    bus.create("plot", (2,))
    bus.derive("c", ["a"], lambda a: a * 2)
    bus.link("size", "plot", kind="control")
    bus.link("size", "c", kind="control")
    for act in (
        lambda: bus.resize("size", shape=(3,)),  # no byte of it changes
        lambda: bus.resize("size", shape=(3,), dtype="int32"),
    ):
        act()
        assert bus.stale() == ("c", "plot")
        bus.write("plot", F(0, 0))
        bus.read("c")
        assert bus.stale() == ()


def test_unlink_beside_a_delete_in_one_batch_is_fine(bus):
    bus.create("gate2", (1,))
    bus.create("plot", (2,))
    bus.link("gate2", "plot", kind="control")
    with bus.batch():
        bus.unlink("gate2", "plot", kind="control")
        bus.delete("gate2")
    assert "gate2" not in bus.graph
    assert not [name for name in bus._session.head().table.graph if "link" in name]


def test_deferred_mode_marks_users_arrays_too(plot):
    plot.mode = "deferred"
    write(plot, gate=F(1), a=F(3, 3))
    assert plot.stale() == ("more", "plot", "seen")
    assert plot.propagate().changed == ("more", "seen")
    assert plot.stale() == ("more", "plot", "seen")
    assert plot.propagate() is None
    plot.write("plot", F(0, 0))
    assert plot.stale() == ()


def test_users_marks_survive_forks_and_reopening_and_readers_see_them(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"a": F(1, 2), "gate": F(0)})
        bus.create("plot", (2,))
        bus.derive("seen", ["plot"], lambda plot: plot + 1)
        bus.link("gate", "plot", kind="control")
        bus.commit({"a": F(1, 2), "gate": F(1)})
        marks = {"\0stale/plot": "dirty", "\0stale/seen": "pending"}
        assert marks.items() <= bus._session.head().table.graph.items()
        with bus.fork() as fork:
            assert fork.stale() == ("plot", "seen")
            fork.write("plot", F(0, 0))
            assert fork.stale() == ()
    reader = mmsb.open(tmp_path / "run.mmsb", mode="r")
    assert reader.stale() == ("plot", "seen")
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert bus.stale() == ("plot", "seen")
        bus.snapshot()
        bus.write("plot", F(0, 0))
        assert bus.stale() == reader.stale() == ()
        bus.write("gate", F(7))
        assert bus.stale() == reader.stale() == ("plot", "seen")
    reader.close()


def test_mark_of_what_is_neither_derived_nor_controlled_says_nothing(bus):
    """As a log may have them that another program wrote."""
    table = bus._session.head().table
    bus.derive("c", ["a"], lambda a: a + 1)
    table.graph |= {"\0stale/a": "dirty", "\0stale/nothing": "dirty"}
    known = Derivations(table)
    assert (known.stale_arrays(), known.stale, known.deferred()) == ((), {}, frozenset())


def test_label_links_to_a_group_and_an_array_of_one_name(bus):
    bus.derive("pair", ["a"], lambda a: {"x": a})
    bus.create("pair", (1,))
    refused(
        bus,
        mmsb.StructureError,
        r"link\('gate', 'pair', kind='control'\).*'pair/x'",
        lambda: bus.link("gate", "pair", kind="control"),
    )


# ------------------------------------------------------------------------------------ at random

_SOURCES = ("x", "y", "gate", "u", "v", "w")
_PLAIN = ("u", "v", "w")
_CONTROLS = (
    ("gate", "u"),
    ("sign", "u"),
    ("u", "v"),
    ("v", "sum"),
    ("x", "w"),
    ("sum", "w"),
    ("gate", "sign"),
)
_DERIVED = {
    "sign": (("x",), "commit", np.sign),
    "sum": (("u", "y"), "commit", lambda u, y: u + y),
    "twice": (("sum",), "read", lambda s: s * np.float32(2)),
    "behind": (("twice", "w"), "read", lambda t, w: t - w),
    "flat": (("v",), "commit", lambda v: v * np.float32(0)),
}
_VALUES = st.sampled_from([F(0, 0), F(1, 1), F(-1, 2)])
_STEPS = st.one_of(
    st.tuples(st.just("write"), st.dictionaries(st.sampled_from(_SOURCES), _VALUES, min_size=1)),
    st.tuples(st.just("commit"), st.tuples(_VALUES, _VALUES, _VALUES)),
    st.tuples(st.just("read"), st.sampled_from([*_SOURCES, *_DERIVED])),
    st.tuples(st.just("mode"), st.sampled_from(["immediate", "deferred"])),
    st.tuples(st.just("propagate"), st.none()),
    st.tuples(st.just("link"), st.sampled_from(_CONTROLS)),
    st.tuples(st.just("unlink"), st.sampled_from(_CONTROLS)),
    st.tuples(st.just("fork"), st.none()),
)


def _below(waiting: set[str]) -> set[str]:
    found: set[str] = set()
    for name, (inputs, _, _) in _DERIVED.items():  # parents first
        if not (waiting | found).isdisjoint(inputs):
            found.add(name)
    return found


@settings(max_examples=40, deadline=None)
@given(links=st.sets(st.sampled_from(_CONTROLS)), steps=st.lists(_STEPS, max_size=12))
def test_stale_arrays_are_those_of_the_rule_at_random(compiled, links, steps):
    """A model in plain Python of what waits, beside a bus that is asked after each step."""
    bus = compiled.lend(mmsb.open())
    values = dict.fromkeys(_SOURCES, F(0, 0))
    bus.commit({"x": F(0, 0), "y": F(0, 0), "gate": F(0, 0)})
    with bus.batch():
        for name in _PLAIN:
            bus.create(name, (2,))
        for name, (inputs, when, _) in _DERIVED.items():
            bus.derive(name, inputs, _JAX[name], when=when)
        for edge in links:
            bus.link(*edge, kind="control")
    links, waiting = set(links), set()
    for what, how in steps:
        written: dict[str, Any] = {}
        version = bus.version
        if what == "write":
            written = how
            write(bus, **how)
        elif what == "commit":
            written = dict(zip(("x", "y", "gate"), how, strict=True))
            bus.commit(written, wait=False)
        elif what == "read":
            bus.read(how)
        elif what == "mode":
            bus.mode = how
        elif what == "propagate":
            bus.propagate()
        elif what == "link":
            bus.link(*how, kind="control")
            links.add(how)
        elif what == "unlink" and how in links:
            bus.unlink(*how, kind="control")
            links.discard(how)
        elif what == "fork":
            bus = compiled.lend(bus.fork())
        for commit in bus.log(since=version + 1):
            changed = {n for n in written if values[n].tobytes() != written[n].tobytes()}
            after_it = set(commit.changed) & _DERIVED.keys()
            waiting -= written.keys()
            for gate, name in links:
                hit = gate in after_it or (gate in changed and name not in written)
                waiting |= {name} if hit and name in _PLAIN else set()
        values |= written
        waiting = {name for name in waiting if any(child == name for _, child in links)}
        known = insides(bus)
        assert known.awaited == waiting
        assert set(bus.stale()) == waiting | _below(waiting) | known.stale.keys()
        for name, (inputs, _, function) in _DERIVED.items():
            if name not in known.stale:
                state = head(bus)
                got = function(*(np.frombuffer(state[n], np.float32) for n in inputs))
                assert np.array_equal(got, np.frombuffer(state[name], np.float32))
        again = Derivations(bus._session.head().table)
        assert (again.stale, again.awaited) == (known.stale, known.awaited)
    assert bus.verify(derive=True)


_JAX = {
    "sign": jnp.sign,
    "sum": lambda u, y: u + y,
    "twice": lambda s: s * 2,
    "behind": lambda t, w: t - w,
    "flat": lambda v: v * 0,
}


@pytest.mark.parametrize("first", ["copy", "derived"])
def test_link_to_what_is_made_from_another_keeps_its_shape_and_dtype(first):
    bus = mmsb.open()
    bus.create("a", (3,))
    bus.create("i", (3,), "int32")
    bus.create("other", (3,))
    if first == "copy":
        bus.link("a", "b")
    else:
        bus.derive("b", ["a"], lambda a: a + 1)
    before = bus.read("b")
    with pytest.raises(mmsb.StructureError, match="Expected the same shape and dtype"):
        bus.link("i", "b")
    assert bus.read("b").dtype == before.dtype
    bus.write("a", np.ones(3, np.float32))
    assert bus.read("b").tolist() == [1 + (first == "derived")] * 3
    bus.link("other", "b")
    assert bus.read("b").tolist() == [0] * 3
