"""No operation copies the pool, where the caller donates it.

Three checks of a compiled program: no ``copy`` of the pool's shape in its HLO; what it allocates
is small, and the pool's buffers are both argument and result; the buffer is where it was.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsb_jax import (
    Delta,
    Layout,
    Pages,
    PageTable,
    Region,
    TLog,
    apply,
    diff,
    digest,
    replay,
    update_digest,
)
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax.testing import oracle, strategies
from tests.core._compare import stack

POOL_BYTES = 16 * 2**20
MOST_TEMPORARY = POOL_BYTES // 16

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="reads what XLA compiles for a CPU"
)
shapes = pytest.mark.parametrize(
    ("page_words", "block_words"), [(1024, 32), (1024, 8), (1024, 1), (32, 32), (32, 1)]
)


def a_pool(page_words, pool_bytes=POOL_BYTES):
    pages = pool_bytes // 4 // page_words
    return Pages(jnp.zeros((pages, page_words), jnp.uint32), jnp.zeros(pages, jnp.uint32))


def a_delta(page_words, block_words, capacity=64):
    writes = {
        (page, byte): 1 + byte % 255
        for page in range(0, 64, 4)
        for byte in (0, 5, 4 * page_words - 1)
    }
    return strategies.delta_of(writes, capacity, block_words)


def a_log(page_words, block_words):
    delta = a_delta(page_words, block_words)
    return TLog.empty(4, 192, block_words).append(delta).append(delta)


def compiled(function, *args, donate=()):
    return jax.jit(function, donate_argnums=donate).lower(*args).compile()


def copies_of_the_pool(program, pool):
    """Copies in the HLO of as many words as the pool has, whatever their shape."""
    found = re.findall(r"= \w+\[([\d,]*)\]\S* copy\(", program.as_text())
    sizes = [int(np.prod([int(n) for n in dims.split(",") if n], dtype=int)) for dims in found]
    return [size for size in sizes if size >= pool.words.size]


def assert_in_place(function, pool, *args):
    program = compiled(function, pool, *args, donate=0)
    assert not copies_of_the_pool(program, pool)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == pool.words.nbytes + pool.version.nbytes
    assert memory.temp_size_in_bytes < MOST_TEMPORARY
    pointer = pool.words.unsafe_buffer_pointer()
    changed = program(pool, *args)
    assert changed.words.unsafe_buffer_pointer() == pointer
    assert pool.words.is_deleted()
    assert changed.words.any()


def test_copies_of_the_pool_sees_one():
    pool = a_pool(1024)
    program = compiled(lambda pool: (pool.words.at[0, 0].set(1), pool.words), pool, donate=0)
    assert copies_of_the_pool(program, pool)


@shapes
def test_apply_of_a_donated_pool_is_in_place(page_words, block_words):
    delta = a_delta(page_words, block_words)
    assert_in_place(lambda pool, delta: apply(pool, delta, version=3), a_pool(page_words), delta)


@shapes
def test_replay_into_a_donated_pool_is_in_place(page_words, block_words):
    assert_in_place(replay, a_pool(page_words), a_log(page_words, block_words))


@pytest.mark.parametrize("version", [None, 7])
@pytest.mark.parametrize("page_words", [1024, 32])
def test_set_in_a_donated_pool_is_in_place(page_words, version):
    pool = a_pool(page_words)
    spec = LeafSpec("jax", "bfloat16", (1000, 100))
    rows = -(-spec.nbytes // (4 * page_words))
    last = Region("last", LeafSpec("jax", "int8", (1,)), len(pool.words) - 1, 1, 4 * page_words)
    layout = Layout((Region("x", spec, 5, rows, 4 * page_words), last), 4 * page_words)
    value = jnp.ones((1000, 100), jnp.bfloat16)
    assert_in_place(lambda pool, value: layout.set(pool, "x", value, version), pool, value)


@pytest.mark.parametrize("block_words", [32, 1])
@pytest.mark.parametrize("operation", ["apply", "replay"])
def test_vmap_over_a_donated_batch_is_in_place(operation, block_words):
    pool = stack(*[a_pool(1024, POOL_BYTES // 16)] * 16)
    if operation == "apply":
        function, change = apply, a_delta(1024, block_words)
    else:
        function, change = replay, a_log(1024, block_words)
    assert_in_place(jax.vmap(function, (0, None)), pool, change)


def test_scan_that_carries_the_pool_is_in_place():
    def rollout(pool, delta):
        def step(pool, version):
            return apply(pool, delta, version), None

        return jax.lax.scan(step, pool, jnp.arange(1, 9, dtype=jnp.uint32))[0]

    assert_in_place(rollout, a_pool(1024), a_delta(1024, 32))


def test_append_to_a_donated_log_is_in_place():
    log = TLog.empty(16, 2**16).append(a_delta(1024, 32))
    program = compiled(TLog.append, log, a_delta(1024, 32), donate=0)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= log.mask.nbytes + log.data.nbytes
    assert memory.temp_size_in_bytes < MOST_TEMPORARY
    pointer = log.data.unsafe_buffer_pointer()
    appended = program(log, a_delta(1024, 32))
    assert appended.data.unsafe_buffer_pointer() == pointer
    assert len(appended) == 2


@shapes
def test_diff_allocates_a_byte_for_each_word(page_words, block_words):
    """It reads two pools; what it makes are flags of words and of blocks, and the delta."""
    old = a_pool(page_words)
    new = apply(old, a_delta(page_words, block_words))
    program = compiled(lambda a, b: diff(a, b, 64, block_words), old, new)
    assert not copies_of_the_pool(program, old)
    flags = old.words.size + old.words.size // block_words
    assert program.memory_analysis().temp_size_in_bytes < flags + MOST_TEMPORARY
    found = program(old, new)
    assert oracle.writes_of(found) == oracle.writes_of(a_delta(page_words, block_words))


@pytest.mark.parametrize("page_words", [1024, 32])
def test_digest_allocates_little(page_words):
    pool = a_pool(page_words)
    spec = LeafSpec("numpy", "uint8", (POOL_BYTES,))
    layout = Layout((Region("x", spec, 0, len(pool.words), 4 * page_words),), 4 * page_words)
    program = compiled(lambda pool: digest(pool, layout), pool)
    # Two lanes a row, and their sum.
    assert program.memory_analysis().temp_size_in_bytes < MOST_TEMPORARY + 16 * len(pool.words)
    delta = a_delta(page_words, 32)
    before = program(pool)
    updated = compiled(lambda d, p, c: update_digest(d, p, layout, c), before, pool, delta)
    assert updated.memory_analysis().temp_size_in_bytes < MOST_TEMPORARY
    assert updated(before, pool, delta).tolist() == program(apply(pool, delta)).tolist()


def test_an_empty_delta_leaves_a_donated_pool_where_it_is():
    pool = a_pool(1024)
    pointer = pool.words.unsafe_buffer_pointer()
    program = compiled(apply, pool, Delta.empty(0), donate=0)
    assert program(pool, Delta.empty(0)).words.unsafe_buffer_pointer() == pointer


# Page tables


def a_table(branches=64):
    """A pool of which a state takes the half, held by all branches."""
    pages = POOL_BYTES // 4096
    state = a_pool(1024, POOL_BYTES // 2)
    return PageTable.of(state, branches, pages).fork(0, into=np.arange(1, branches))


def delta_of_slice(start):
    spec = LeafSpec("jax", "float32", (2**20,))
    return Delta.from_slice(Region("x", spec, 0, 1024, 4096), jnp.ones(100), (start,))


TABLE_WRITES = {
    "apply": lambda table, n: table.apply(n, delta_of_slice(3000 * n)),
    "apply to many": lambda table, n: table.apply(n + jnp.arange(40), delta_of_slice(5000)),
    "scatter": lambda table, n: table.scatter(n, n, jnp.ones(1024, jnp.uint32)),
    "fork": lambda table, n: table.fork(0, into=n),
    "fork of each": lambda table, n: table.fork(n + jnp.arange(40), into=jnp.arange(40)),
    "release": lambda table, n: table.release(n + jnp.arange(40)),
}


@pytest.mark.parametrize("name", TABLE_WRITES)
@pytest.mark.parametrize("where", ["alone", "scan"])
def test_operation_of_a_donated_page_table_copies_pages_and_not_the_pool(name, where):
    operation, table = TABLE_WRITES[name], a_table()

    def loop(table, n):
        return jax.lax.scan(lambda t, i: (operation(t, n + i), None), table, jnp.arange(3))[0]

    program = compiled(operation if where == "alone" else loop, table, jnp.int32(7), donate=0)
    assert not copies_of_the_pool(program, table)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= table.words.nbytes + table.table.nbytes
    assert memory.temp_size_in_bytes < 2 * MOST_TEMPORARY  # rows of the table
    pointers = [x.unsafe_buffer_pointer() for x in (table.words, table.table)]
    after = program(table, jnp.int32(7))
    assert [x.unsafe_buffer_pointer() for x in (after.words, after.table)] == pointers
    assert not after.overflow


def test_fork_that_is_not_compiled_leaves_the_pool_where_it_is():
    table = a_table()
    forked = table.fork(0, into=3)
    assert forked.words.unsafe_buffer_pointer() == table.words.unsafe_buffer_pointer()


def test_vmap_over_donated_page_tables_is_in_place():
    tables = jax.tree.map(lambda x: jnp.stack([x] * 4), a_table())
    program = compiled(jax.vmap(TABLE_WRITES["apply"]), tables, jnp.arange(4), donate=0)
    assert not copies_of_the_pool(program, tables)
    pointer = tables.words.unsafe_buffer_pointer()
    assert program(tables, jnp.arange(4)).words.unsafe_buffer_pointer() == pointer
