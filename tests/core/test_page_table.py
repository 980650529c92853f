"""PageTable: contents, counts and free pages against a model, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import Delta, InvalidDeltaError, Layout, Pages, PageTable, StructureError, diff
from mmsb_jax.testing import check_page_table, strategies
from tests.core._compare import assert_same, assert_same_tree
from tests.core._page_model import PageModel

BRANCHES, LENGTH, PAGE_WORDS, BATCH = 4, 3, 32, 3
LAYOUT = Layout.of({"x": jnp.zeros(LENGTH * PAGE_WORDS)}, 4 * PAGE_WORDS)

of_branch = st.integers(0, BRANCHES - 1)
of_page = st.integers(0, LENGTH - 1)
batch_of_branches = st.lists(of_branch, min_size=BATCH, max_size=BATCH)
batch_of_pages = st.lists(of_page, min_size=BATCH, max_size=BATCH)
block_writes = strategies.writes((LENGTH, PAGE_WORDS), capacity=2, block_words=8)
operations = st.one_of(
    st.tuples(st.just("fork"), batch_of_branches, batch_of_branches),
    st.tuples(st.just("fork one"), of_branch, batch_of_branches),
    st.tuples(st.just("release"), of_branch),
    st.tuples(st.just("scatter"), batch_of_branches, batch_of_pages),
    st.tuples(st.just("apply"), batch_of_branches, st.lists(block_writes, min_size=3, max_size=3)),
    st.tuples(st.just("write"), of_branch, st.lists(st.integers(0, 2), min_size=3, max_size=3)),
)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def carried_out(table, model, number, what, first, second=None):
    """An operation on both; what is written are numbers that were not there before."""
    if what == "fork":
        model.fork(first, second)
        return table.fork(first, into=second)
    if what == "fork one":
        model.fork([first] * BATCH, second)
        return table.fork(first, into=second)
    if what == "release":
        model.release([first])
        return table.release(first)
    ones = np.full(PAGE_WORDS, 0xFFFFFFFF, np.uint32)
    if what == "scatter":
        words = (100 * number + np.arange(BATCH * PAGE_WORDS, dtype=np.uint32)).reshape(BATCH, -1)
        model.write([(*place, ones, row) for *place, row in zip(first, second, words, strict=True)])
        return table.scatter(first, second, words)
    if what == "write":
        before = model.read(first)
        words = np.where(np.array(second)[:, None] > 0, before + np.uint32(number), before)
        changed = (words != before).any(axis=1)
        model.write([(first, i, ones, words[i]) for i in np.flatnonzero(changed)])
        state = Pages(jnp.asarray(words), jnp.zeros(LENGTH, jnp.uint32))
        return table.write(first, state)
    deltas = [strategies.delta_of(writes, 2, 8) for writes in second]
    rows = [
        (branch, page, *(expanded(delta, i, column) for column in (delta.mask, delta.data)))
        for branch, delta in zip(first, deltas, strict=True)
        for i, page in enumerate(np.asarray(delta.page)[: int(delta.count)])
    ]
    model.write(rows)
    return table.apply(first, stacked(deltas))


def expanded(delta, row, column):
    """A block of a delta as a whole page, zero around it."""
    page = np.zeros(PAGE_WORDS, np.uint32)
    first = 8 * int(delta.block[row])
    page[first : first + 8] = np.asarray(column[row])
    return page


def assert_is(table, model):
    check_page_table(table)
    assert bool(table.overflow) == model.overflow
    assert table.pages - int(table.free_count) == len(model.pages_in_use)
    for branch in range(BRANCHES):
        np.testing.assert_array_equal(table.read(branch).words, model.read(branch))


@given(st.lists(operations, max_size=12), st.integers(1, 10))
def test_programs_of_forks_writes_and_releases_are_those_of_the_model(program, pages):
    table = PageTable.empty(LAYOUT, BRANCHES, pages)
    model = PageModel(BRANCHES, LENGTH, pages, PAGE_WORDS)
    for number, operation in enumerate(program, 1):
        table = carried_out(table, model, number, *operation)
        assert_is(table, model)


# Whole states


def a_table(branches=4, pages=12, tree=None, page_bytes=128):
    tree = {"w": jnp.arange(100.0), "n": jnp.int8(3)} if tree is None else tree
    layout = Layout.of(tree, page_bytes)
    return PageTable.of(layout.pack(tree), branches, pages), layout, tree


def test_states_go_in_and_out_by_a_layout():
    table, layout, tree = a_table()
    assert (table.branches, table.length, table.pages) == (4, layout.pages, 12)
    table = table.fork(0, into=[1, 2, 3])
    assert int(table.free_count) == 12 - layout.pages
    other = {"w": tree["w"].at[70].set(-1.0), "n": tree["n"]}
    table = table.write(2, layout.pack(other))
    assert int(table.free_count) == 12 - layout.pages - 1
    check_page_table(table)
    for branch in range(4):
        expected = other if branch == 2 else tree
        assert_same_tree(layout.unpack(table.read(branch)), expected)
        for name in tree:
            assert_same_tree(table.get(branch, layout.region(name)), expected[name])


def test_states_of_several_branches_are_written_at_once():
    table, layout, tree = a_table(pages=30)
    trees = [{"w": tree["w"] + i, "n": tree["n"]} for i in range(3)]
    states = stacked([layout.pack(tree) for tree in trees])
    table = table.write([1, 3, 2], states)
    for branch, expected in zip((1, 3, 2), trees, strict=True):
        assert_same_tree(layout.unpack(table.read(branch)), expected)
    check_page_table(table)


def test_write_of_what_is_there_shares_on():
    table, layout, tree = a_table()
    table = table.fork(0, into=1)
    assert_same(table.write(1, layout.pack(tree)), table)


def test_page_that_is_used_again_begins_as_zeros():
    layout = Layout.of({"x": jnp.zeros(64)}, 256)
    ones = layout.pack({"x": jnp.ones(64)})
    table = PageTable.of(ones, branches=2, pages=1).release(0)
    table = table.apply(1, Delta.from_slice(layout.region("x"), jnp.full(2, 5.0), (3,)))
    assert table.get(1, layout.region("x")).tolist() == [0.0] * 3 + [5.0] * 2 + [0.0] * 59
    assert not table.overflow


# Sharing


def test_write_to_a_shared_page_copies_that_page_alone():
    table, layout, _ = a_table()
    forked = table.fork(0, into=[1, 2])
    written = forked.apply(1, Delta.from_slice(layout.region("w"), jnp.zeros(2), (40,)))
    moved = np.flatnonzero(np.asarray(written.table[1] != forked.table[1]))
    assert moved.tolist() == [1 + layout.region("w").page]
    assert int(written.free_count) == int(forked.free_count) - 1
    again = written.apply(1, Delta.from_slice(layout.region("w"), jnp.ones(2), (44,)))
    np.testing.assert_array_equal(again.table, written.table)


def test_last_of_those_that_write_all_references_keeps_the_page():
    layout = Layout.of({"x": jnp.zeros(32)}, 128)
    table = PageTable.of(layout.pack({"x": jnp.ones(32)}), branches=3, pages=3).fork(0, [1, 2])
    words = np.arange(96, dtype=np.uint32).reshape(3, 32)
    table = table.scatter([2, 0, 1], 0, words)
    assert not table.overflow
    assert int(table.free_count) == 0
    np.testing.assert_array_equal(table.gather([2, 0, 1], 0), words)
    check_page_table(table)


def test_beams_are_drawn_anew_by_one_fork():
    table, layout, tree = a_table(branches=4, pages=40)
    states = stacked([layout.pack({"w": tree["w"] * i, "n": tree["n"]}) for i in range(4)])
    table = table.write(range(4), states)
    parents = [3, 3, 0, 1]
    table = table.fork(parents, into=range(4))
    for branch, parent in enumerate(parents):
        np.testing.assert_array_equal(table.read(branch).words, states.words[parent])
    check_page_table(table)


def test_branch_that_is_written_twice_at_once_has_the_later_state():
    table, layout, tree = a_table(pages=30)
    other = layout.pack({"w": tree["w"] + 1, "n": tree["n"]})
    table = table.write([0, 0], stacked([other, layout.pack(tree)]))
    assert_same_tree(layout.unpack(table.read(0)), tree)


def test_many_branches_are_forked_and_released_in_parts():
    table, layout, tree = a_table(branches=101, pages=8)
    table = table.fork(0, into=np.arange(1, 101))
    assert table.ref_count[: layout.pages].tolist() == [101] * layout.pages
    check_page_table(table)
    assert_same_tree(layout.unpack(table.read(100)), tree)
    table = table.release(np.arange(100))
    assert table.ref_count[: layout.pages].tolist() == [1] * layout.pages
    check_page_table(table)
    assert int(table.release(100).free_count) == 8


# Transformations


def test_gather_and_get_under_vmap_are_those_of_each_branch():
    table, layout, _ = a_table(pages=20)
    table = table.fork(0, into=[1, 2, 3])
    table = table.apply(2, Delta.from_slice(layout.region("w"), jnp.zeros(3), (5,)))
    region = layout.region("w")
    found = jax.vmap(lambda b: table.get(b, region))(jnp.arange(4))
    assert_same(found, jnp.stack([table.get(b, region) for b in range(4)]))
    states = jax.vmap(table.read)(jnp.arange(4))
    assert_same_tree(
        jax.vmap(layout.unpack)(states), stacked([layout.unpack(table.read(b)) for b in range(4)])
    )


def test_scan_over_writes_is_the_loop():
    table, layout, _ = a_table(pages=30)
    region = layout.region("w")

    def step(table, i):
        table = table.fork(i % 4, into=(i + 1) % 4)
        delta = Delta.from_slice(region, jnp.full(3, i, jnp.float32), (7 * i,))
        return table.apply((i + 1) % 4, delta), table.free_count

    scanned, _ = jax.jit(lambda table: jax.lax.scan(step, table, jnp.arange(9)))(table)
    for i in range(9):
        table, _ = step(table, jnp.int32(i))
    assert_same(scanned, table)
    check_page_table(table)


def test_vmap_over_tables_is_each_of_them():
    layout = Layout.of({"x": jnp.zeros(64)}, 128)
    region = layout.region("x")

    def program(value):
        table = PageTable.of(layout.pack({"x": jnp.full(64, value)}), branches=3, pages=5)
        table = table.fork(0, into=jnp.array([1, 2]))
        table = table.apply(jnp.array([1, 2]), Delta.from_slice(region, value[None] + 1, (40,)))
        table = table.scatter(jnp.array([2]), jnp.array([0]), jnp.full((1, 32), 9, jnp.uint32))
        return table.release(0).fork(2, into=0)

    values = jnp.arange(3.0)
    batch = jax.jit(jax.vmap(program))(values)
    for i, value in enumerate(values):
        one = program(value)
        check_page_table(one)
        assert_same(jax.tree.map(lambda x, i=i: x[i], batch), one)


# Overflow


def test_write_without_room_sets_a_flag_that_stays_and_changes_nothing():
    table, layout, _ = a_table(pages=6)
    table = table.fork(0, into=[1, 2, 3])
    free = int(table.free_count)
    full = table.write(1, layout.pack({"w": -jnp.ones(100), "n": jnp.int8(1)}))
    assert free < layout.pages
    assert full.overflow
    is_as_before = jax.tree.map(lambda x: x, table)
    for operation in (
        lambda t: t,
        lambda t: t.fork(0, into=1),
        lambda t: t.release(0),
        lambda t: t.scatter(0, 0, jnp.ones((32,), jnp.uint32)),
        lambda t: t.apply(0, Delta.from_slice(layout.region("n"), jnp.int8(9), ())),
        lambda t: t.write(0, layout.pack({"w": jnp.ones(100), "n": jnp.int8(1)})),
    ):
        after = operation(full)
        assert after.overflow
        assert_same(after.grow(0), is_as_before)


def test_table_that_has_grown_takes_the_write_that_found_no_room():
    table, layout, _ = a_table(pages=5, branches=2)
    other = {"w": -jnp.ones(100), "n": jnp.int8(1)}
    table = table.fork(0, into=1).write(1, layout.pack(other))
    assert table.overflow
    table = table.grow(5).write(1, layout.pack(other))
    assert not table.overflow
    assert table.pages == 10
    check_page_table(table)
    assert_same_tree(layout.unpack(table.read(1)), other)


def test_traced_delta_that_overflowed_overflows_the_table():
    table, layout, tree = a_table()
    old, new = layout.pack(tree), layout.pack({"w": tree["w"] + 1, "n": tree["n"]})
    with pytest.raises(InvalidDeltaError, match="overflowed"):
        table.apply(0, diff(old, new, capacity=1))
    after = jax.jit(lambda table: table.apply(0, diff(old, new, capacity=1)))(table)
    assert after.overflow
    assert_same(after.grow(0), table)


def test_overflowed_delta_counts_also_without_room_and_not_for_a_branch_that_is_none():
    table, layout, tree = a_table()
    old, new = layout.pack(tree), layout.pack({"w": tree["w"] + 1, "n": tree["n"]})

    def after(branch, capacity):
        return jax.jit(lambda t: t.apply(branch, diff(old, new, capacity=capacity)))(table)

    assert after(0, 0).overflow
    assert not after(jnp.int32(-1), 1).overflow
    assert not after(jnp.int32(-1), 0).overflow


# What is no branch, page, or state


@pytest.mark.parametrize("branch", [-1, 5, 2**31 - 1, -(2**31)])
def test_number_of_the_device_that_is_none_is_left_out(branch):
    table, layout, tree = a_table(branches=5)
    table = table.fork(0, into=1)
    none = jnp.int32(branch)
    delta = Delta.from_slice(layout.region("w"), jnp.zeros(2), (1,))
    assert not np.asarray(table.read(none).words).any()
    for after in (
        table.fork(0, into=none),
        table.fork(none, into=1),
        table.release(none),
        table.apply(none, delta),
        table.scatter(0, none, jnp.ones(32, jnp.uint32)),
        table.write(none, layout.pack(tree)),
    ):
        assert_same(after, table)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t, _: t.fork(4, into=0), ValueError, "source=4: expected 0 to 3"),
        (lambda t, _: t.fork(0, into=[0, -1]), ValueError, r"into=\[0, -1\]: expected 0 to 3"),
        (lambda t, _: t.fork([0, 1], into=2), ValueError, "2 sources for 1 branches"),
        (lambda t, _: t.fork(True, into=2), TypeError, "source=True"),
        (lambda t, _: t.release(1.0), TypeError, "branch=1.0"),
        (lambda t, _: t.gather(0, 99), ValueError, "page=99"),
        (lambda t, _: t.gather([0, 1], [0, 1, 2]), ValueError, "broadcast"),
        (lambda t, _: t.read([0, 1]), ValueError, "jax.vmap over them"),
        (lambda t, _: t.scatter(0, 0, jnp.ones(31, jnp.uint32)), StructureError, r"uint32\[32\]"),
        (lambda t, _: t.scatter(0, 0, jnp.ones(32)), StructureError, r"float32\[32\] arrived"),
        (lambda t, p: t.write([0, 1], p), StructureError, "Use the layout"),
        (lambda t, _: t.apply(0, Delta.empty(1, 5)), InvalidDeltaError, "does not divide"),
        (lambda t, _: t.apply([0], stacked([Delta.empty(1)] * 2)), ValueError, "one for each"),
        (lambda t, p: PageTable.of(stacked([p]), 1, 9), StructureError, "of one state"),
        (lambda t, p: PageTable.of(p, 1, 2), ValueError, "pages=2: the state has 5"),
        (lambda t, p: PageTable.of(p, 0, 9), ValueError, "branches=0: expected at least 1"),
        (
            lambda t, _: t.get(0, Layout.of({"w": jnp.zeros(9)}, 256).region("w")),
            StructureError,
            "Use the layout that the table was made with",
        ),
    ],
)
def test_bad_argument_is_refused(call, error, message):
    table, layout, tree = a_table()
    with pytest.raises(error, match=message):
        call(table, layout.pack(tree))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_branches_may_be_of_any_integer_dtype(dtype):
    with jax.enable_x64(True):
        table, layout, tree = a_table()
        table = table.fork(jnp.zeros((), dtype), into=np.array([1, 3], dtype))
        assert_same_tree(layout.unpack(table.read(jnp.asarray(3, dtype))), tree)
        assert_same(table.release(jnp.asarray(2**40, "int64")), table)


def test_state_without_bytes_has_branches_that_hold_nothing():
    layout = Layout.of({"x": jnp.zeros((0, 3))})
    table = PageTable.empty(layout, branches=2, pages=1).fork(0, into=1).release(1)
    assert table.get(0, layout.region("x")).shape == (0, 3)
    assert not table.apply(0, Delta.empty(1)).overflow
