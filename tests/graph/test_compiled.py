"""A compiled wave is the wave of the bus as a pure function: the same bytes, under jit and vmap."""

from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from jax.experimental import checkify

import mmsb_jax as mmsb
from tests.graph._graphs import SOURCES, F, Kit, Plan, graphs, head, runs

CHANGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(sorted(SOURCES)), st.integers(0, 3)), min_size=1, max_size=3
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit()


def pages_of(bus: mmsb.Bus) -> mmsb.Pages:
    """All arrays of a bus, as they are."""
    layout = bus.layout
    return layout.pack({region.name: bus.read(region.name) for region in layout.regions})


def bytes_in(layout: mmsb.Layout, pages: mmsb.Pages) -> dict[str, bytes]:
    raw = np.asarray(pages.words).view(np.uint8)
    return {
        r.name: raw[r.page : r.page + r.pages].reshape(-1)[: r.nbytes].tobytes()
        for r in layout.regions
    }


def without_gates(plans: list[Plan]) -> list[Plan]:
    return [Plan(plan.name, plan.fn, plan.inputs) for plan in plans]


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans=graphs(most=5).map(without_gates), commits=CHANGES)
def test_compiled_wave_gives_the_bytes_of_the_bus_on_random_graphs(kit, plans, commits):
    check_against_bus(kit, plans, commits)


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans=graphs().map(without_gates), commits=CHANGES)
def test_compiled_wave_gives_the_bytes_of_the_bus_on_many_random_graphs(kit, plans, commits):
    check_against_bus(kit, plans, commits)


def check_against_bus(kit: Kit, plans: list[Plan], commits: list[list[tuple[str, int]]]) -> None:
    """Commit by commit: the bytes, what ran, what was marked, the versions, the delta."""
    bus = kit.open()
    kit.derive(bus, plans)
    layout = bus.layout
    wave = bus.graph.compile(layout)
    before = pages_of(bus)
    pages, _ = wave.start(before)
    assert (pages.words == before.words).all()
    for changes in commits:
        count = runs(bus)
        with bus.batch():
            for name, number in changes:
                bus.write(name, SOURCES[name][number])
        new = pages
        for name, number in changes:
            new = layout.set(new, name, SOURCES[name][number])
        delta = mmsb.diff(pages, new)
        after, done = wave(pages, delta, version=bus.version)
        assert bytes_in(layout, after) == head(bus)
        now = runs(bus)
        ran = {name for name in now if now[name] > count[name]}
        assert set(np.array(wave.nodes)[np.asarray(done.ran)]) == ran
        assert not (np.asarray(done.ran) & ~np.asarray(done.dirty)).any()
        assert not done.overflow
        assert (mmsb.apply(pages, done.delta).words == after.words).all()
        differ = np.any(np.asarray(after.words != pages.words), axis=1)
        assert (np.asarray(after.version)[differ] == bus.version).all()
        pages = after
    bus.close()


# ---------------------------------------------------------------------------- what is compiled


def model() -> mmsb.Bus:
    """A small graph: a diamond with a cutoff, a chain of one function, a page-by-page array."""
    bus = mmsb.open()
    bus.commit(
        {"x": jnp.arange(4.0), "gain": jnp.float32(2), "large": jnp.zeros(3000, jnp.float32)}
    )
    bus.derive("sign", ["x"], jnp.sign)
    bus.derive("count", ["sign"], jnp.sum)
    bus.derive("scaled", ["x", "gain"], lambda x, gain: x * gain)
    bus.derive("both", ["scaled", "count"], lambda scaled, count: scaled + count)
    for i in range(5):
        bus.derive(f"chain/{i}", [f"chain/{i - 1}" if i else "both"], lambda y, i=i: y + float(i))
    bus.derive("paged", ["large", "gain"], lambda large, gain: large * gain + 1, pagewise=True)
    return bus


@pytest.fixture(scope="module")
def wave() -> mmsb.CompiledWave:
    with model() as bus:
        return bus.graph.compile(bus.layout)


@pytest.fixture(scope="module")
def pages() -> mmsb.Pages:
    with model() as bus:
        return pages_of(bus)


def set_x(wave: mmsb.CompiledWave, pages: mmsb.Pages, value: Any, capacity: int = 4) -> mmsb.Delta:
    """The delta that gives ``x`` another value."""
    return mmsb.diff(pages, wave.layout.set(pages, "x", value), capacity)


def names(wave: mmsb.CompiledWave, flags: Any) -> set[str]:
    return set(np.array(wave.nodes)[np.asarray(flags)])


CHAIN = {f"chain/{i}" for i in range(5)}


def test_what_ran_and_what_could_have_are_told_apart(wave, pages):
    _, done = wave(pages, set_x(wave, pages, F(0, 5, 6, 7)))
    assert names(wave, done.dirty) == {"sign", "count", "scaled", "both"} | CHAIN
    assert names(wave, done.ran) == {"sign", "scaled", "both"} | CHAIN
    changed = set(np.array(wave.arrays)[np.asarray(done.changed)])
    assert changed == {"x", "scaled", "both"} | CHAIN


def test_delta_that_changes_no_byte_runs_nothing(wave, pages):
    delta = mmsb.Delta.from_bytes(
        wave.layout.region("x"), np.ones(16, bool), np.arange(4, dtype=np.float32).view(np.uint8)
    )
    after, done = wave(pages, delta, version=9)
    assert not done.ran.any()
    assert not done.dirty.any()
    assert not int(done.delta.count)
    assert (after.words == pages.words).all()
    assert not after.version.any()


def test_blocks_in_derived_arrays_are_left_out(wave, pages):
    with model() as bus:
        bus.write("x", F(0, 5, 6, 7))
        layout = bus.layout
        whole = mmsb.diff(pages, pages_of(bus))  # sources and derived
    wrong = mmsb.diff(pages, layout.set(pages, "count", jnp.float32(99)))
    after, _ = wave(pages, mmsb.compose(whole, wrong))
    with model() as bus:
        bus.write("x", F(0, 5, 6, 7))
        assert bytes_in(layout, after) == head(bus)


def test_program_grows_with_the_functions_and_not_with_the_graph():
    def text(length: int) -> str:
        bus = mmsb.open()
        bus.commit({"x": jnp.arange(4.0)})
        with bus.batch():
            for i in range(length):
                source = f"y/{i - 1}" if i else "x"
                bus.derive(f"y/{i}", [source], lambda y, i=i: y * float(i + 1))
        wave = bus.graph.compile(bus.layout)
        delta = mmsb.Delta.empty(4)
        return str(jax.make_jaxpr(lambda pages: wave(pages, delta)[0].words)(pages_of(bus)))

    assert text(64).count(" = ") == text(16).count(" = ")


def test_carried_pages_are_updated_where_they_lie(wave, pages):
    def run(pages: mmsb.Pages, deltas: mmsb.Delta) -> mmsb.Pages:
        step = lambda pages, delta: (wave(pages, delta)[0], None)  # noqa: E731
        return jax.lax.scan(step, pages, deltas)[0]

    one = set_x(wave, pages, F(1, 2, 3, 4))
    deltas = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), one)
    compiled = jax.jit(run, donate_argnums=0).lower(pages, deltas).compile()
    analysis = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes >= pages.words.nbytes
    expected = wave(pages, one)[0].words
    assert (jax.jit(run)(pages, deltas).words == expected).all()


# ------------------------------------------------------------------------ under transformations


def test_branches_of_a_vmap_are_each_as_alone(wave, pages):
    values = jnp.stack([F(0, 1, 2, 3), F(0, 5, 6, 7), F(-1, 0, 1, 2), F(0, 1, 2, 3)])

    def one(value: Any) -> tuple[mmsb.Pages, mmsb.WaveResult]:
        return wave(pages, set_x(wave, pages, value), version=3)

    together, done = jax.jit(jax.vmap(one))(values)
    for i, value in enumerate(values):
        alone, said = one(value)
        assert (together.words[i] == alone.words).all()
        assert (together.version[i] == alone.version).all()
        assert (done.ran[i] == said.ran).all()
        assert (done.changed[i] == said.changed).all()
        assert (
            mmsb.apply(pages, jax.tree.map(lambda x, i=i: x[i], done.delta)).words == alone.words
        ).all()


def test_branches_of_two_vmaps_are_each_as_alone(wave, pages):
    values = jnp.arange(24.0).reshape(2, 3, 4)

    def one(value: Any) -> Any:
        return wave(pages, set_x(wave, pages, value))[0].words

    together = jax.vmap(jax.vmap(one))(values)
    for i, j in np.ndindex(2, 3):
        assert (together[i, j] == one(values[i, j])).all()


def test_program_under_vmap_computes_what_no_branch_needs_in_no_branch(wave, pages):
    """A condition stays one: were it a choice of each branch, all would be computed always."""
    deltas = jax.vmap(lambda value: set_x(wave, pages, value))(jnp.zeros((2, 4)))
    run = jax.vmap(lambda delta: wave(pages, delta)[0].words)
    groups = {"scale", "sign", "sum", "add", "shift", "paged"}
    assert jax.jit(run).lower(deltas).as_text().count("stablehlo.case") == len(groups)


# ---------------------------------------------------------------------------------------- replay


def recorded(wave: mmsb.CompiledWave, pages: mmsb.Pages, values: Any) -> mmsb.TLog:
    """A log of changes of ``x`` alone."""
    log = mmsb.TLog.empty(len(values) + 2, 8)
    layout = wave.layout
    for value in values:
        new = layout.set(pages, "x", value)
        log = log.append(mmsb.diff(pages, new, 2))
        pages = new
    return log


VALUES = [F(0, 5, 6, 7), F(-1, 0, 1, 2), F(0, 1, 2, 3)]


def test_replay_of_sources_gives_what_the_bus_derived_at_each_version(wave, pages):
    log = recorded(wave, pages, VALUES)
    with model() as bus:
        base = bus.version
        bus.extend(log)
        for count in range(len(VALUES) + 1):
            found = mmsb.replay(pages, log, count, wave=wave)
            expected = bus.checkout(version=base + count, arrays=["**"])
            expected |= bus.checkout(version=base + count)
            for name in wave.arrays:
                assert (
                    wave.layout.get(found, name).tobytes() == np.asarray(expected[name]).tobytes()
                )
            assert int(found.version.max()) == count
        whole = mmsb.replay(pages, log, wave=wave)
        assert bytes_in(wave.layout, whole) == head(bus)


def test_replay_of_branches_with_logs_of_several_lengths(wave, pages):
    log = recorded(wave, pages, VALUES)
    until = jnp.array([0, 3, 1, 7])
    replay = jax.jit(jax.vmap(lambda until: mmsb.replay(pages, log, until, wave=wave, capacity=2)))
    together = replay(until)
    for i, count in enumerate(until.tolist()):
        alone = mmsb.replay(pages, log, count, wave=wave)
        assert (together.words[i] == alone.words).all()
        assert (together.version[i] == alone.version).all()


def test_replay_with_what_is_no_wave_is_refused(wave, pages):
    with pytest.raises(TypeError, match=r"wave='fast': expected what graph.compile"):
        mmsb.replay(pages, recorded(wave, pages, VALUES), wave="fast")


def test_replay_with_a_wave_needs_a_capacity_under_a_transformation(wave, pages):
    log = recorded(wave, pages, VALUES)
    with pytest.raises(mmsb.InvalidDeltaError, match=r"needs capacity=… under a transformation"):
        jax.jit(lambda log: mmsb.replay(pages, log, wave=wave))(log)


def test_replay_with_a_wave_step_by_step(wave, pages):
    log = recorded(wave, pages, VALUES)
    with jax.disable_jit():
        found = mmsb.replay(pages, log, wave=wave)
    assert (found.words == mmsb.replay(pages, log, wave=wave).words).all()


def test_arrays_without_bytes():
    bus = mmsb.open()
    bus.commit({"x": jnp.zeros((0, 3))})
    bus.derive("y", ["x"], lambda x: x + 1)
    wave = bus.graph.compile(bus.layout)
    pages = pages_of(bus)
    for capacity in (0, 2):
        after, done = wave(pages, mmsb.Delta.empty(capacity))
        assert after.words.shape == pages.words.shape
        assert not done.ran.any()


# --------------------------------------------------------------------------------------- refused


def test_overflow_is_handed_on(wave, pages):
    few = set_x(wave, pages, F(0, 5, 6, 7), capacity=0)
    with pytest.raises(mmsb.InvalidDeltaError, match=r"overflowed"):
        wave(pages, few)
    _, done = jax.jit(wave)(pages, few)
    assert done.overflow
    _, done = wave(pages, set_x(wave, pages, F(0, 5, 6, 7)), capacity=2)
    assert done.overflow


def checks(x: Any) -> Any:
    checkify.check(x[0] > 0, "negative")
    return x


@pytest.mark.parametrize(
    ("prepare", "compile_", "error", "said"),
    [
        (
            lambda bus: bus.derive("y", ["x"], lambda x: x),
            lambda bus: bus.graph.compile(mmsb.Layout.of({"x": jnp.arange(4.0)})),
            mmsb.StructureError,
            r"needs 'y', which the layout does not have. .*bus.layout",
        ),
        (
            lambda bus: bus.derive("y", ["x"], lambda x: x),
            lambda bus: bus.graph.compile(mmsb.Layout.of({"x": jnp.arange(5.0), "y": jnp.ones(4)})),
            mmsb.StructureError,
            r"traced over 'x' as .*4.*; the layout has .*5.*",
        ),
        (
            lambda bus: (bus.derive("y", ["x"], lambda x: x), bus.link("g", "y", kind="control")),
            lambda bus: bus.graph.compile(bus.layout),
            mmsb.StructureError,
            r"an edge of kind control leads to it from 'g'",
        ),
        (
            lambda bus: bus.derive("y", ["x"], checks),
            lambda bus: bus.graph.compile(bus.layout),
            mmsb.RecomputeError,
            r"checks its input \(checkify\)",
        ),
        (
            lambda bus: None,
            lambda bus: bus.graph.compile({"x": 1}),
            TypeError,
            r"layout=.*bus.layout",
        ),
        (
            lambda bus: None,
            lambda bus: bus.graph.compile(bus.layout, also=["x"]),
            mmsb.ArrayNotFoundError,
            r"also='x'",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(prepare, compile_, error, said):
    bus = mmsb.open()
    bus.commit({"x": jnp.arange(1, 5.0), "g": jnp.ones(1)})
    prepare(bus)
    with pytest.raises(error, match=said):
        compile_(bus)


def test_pages_of_another_layout_are_refused(wave, pages):
    other = mmsb.Layout.of({"x": jnp.ones(3)}).pack({"x": jnp.ones(3)})
    with pytest.raises(mmsb.StructureError, match=r"pages of .* arrived; the layout has"):
        wave(other, mmsb.Delta.empty())
    with pytest.raises(mmsb.StructureError, match=r"pages of .* arrived; the layout has"):
        wave.start(other)


def test_what_is_computed_when_read_stays_unless_it_is_asked_for():
    bus = mmsb.open()
    bus.commit({"x": jnp.arange(4.0)})
    bus.derive("first", ["x"], lambda x: x + 1, when="read")
    bus.derive("late", ["first"], jnp.sum, when="read")
    bus.read("late")
    layout = bus.layout
    pages = pages_of(bus)
    delta = mmsb.diff(pages, layout.set(pages, "x", jnp.zeros(4)))
    assert bus.graph.compile(layout).nodes == ()
    wave = bus.graph.compile(layout, also=["late"])
    assert wave.nodes == ("first", "late")
    assert float(layout.get(wave(pages, delta)[0], "late")) == 4
    idle, done = bus.graph.compile(layout)(pages, delta)
    assert float(layout.get(idle, "late")) == 10
    assert done.ran.shape == (0,)


def test_compiled_wave_outlives_its_bus(wave, pages):
    with model() as bus:
        mine = bus.graph.compile(bus.layout)
    delta = set_x(wave, pages, F(0, 5, 6, 7))
    assert (mine(pages, delta)[0].words == wave(pages, delta)[0].words).all()
    assert repr(mine) == "CompiledWave(10 nodes of 6 functions)"
