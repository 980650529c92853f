"""Whether the library is right on this device: ``python -m benchmarks.gpu_smoke [--out FOLDER]``.

Each check compares bytes with what NumPy has, or with the oracle of `mmsb_jax.testing`; none is
timed. It runs anywhere, and is meant for devices that the tests do not reach. 1 where one fails.
"""

import argparse
import functools
import itertools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import SingleDeviceSharding

import mmsb_jax as mmsb
from mmsb_jax import algebra
from mmsb_jax.testing import check_delta, check_log, check_pages, oracle
from mmsb_jax.testing.graphs import kronecker

_LENGTH = 1003  # no whole number of words for narrow elements
_DTYPES = (
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e3m4", "float8_e4m3", "float8_e8m0fnu",
    "float4_e2m1fn", "int4", "uint4", "int2", "uint2", "int8", "uint8", "int16", "uint16",
    "int32", "uint32", "bool", "complex64",
)  # fmt: skip
_WIDE = ("float64", "int64", "uint64", "complex128")
_NARROW_BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4_e2m1fn": 4}


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def any_bits(name: str, seed: int = 0) -> np.ndarray:
    """Elements of any bits: NaNs of any payload, infinities, subnormals, both zeros among them."""
    rng, dtype = np.random.default_rng(seed), _dtype(name)
    if name == "bool":
        return rng.random(_LENGTH) < 0.5
    raw = rng.integers(0, 256, _LENGTH * dtype.itemsize, np.uint8)
    if name in _NARROW_BITS:
        raw &= (1 << _NARROW_BITS[name]) - 1
        if name.startswith("int"):
            return raw.astype(np.int8).astype(dtype)
    found = raw.view(dtype)
    if name in ("float32", "complex64"):
        special = [0x7FC00001, 0xFFC12345, 0x7F800001, 0xFF800001, 0x80000000, 1, 0x80000001]
        found.view(np.uint32)[: len(special)] = special
    return found


def on_device(name: str, seed: int = 0) -> jax.Array | None:
    """The same elements as an array of JAX; None where JAX does not give the bytes back itself."""
    host = any_bits(name, seed)
    try:
        with jax.enable_x64(True):
            array = jax.device_put(host)
            is_whole = array.dtype == host.dtype and _raw(np.asarray(array)) == _raw(host)
    except Exception as error:
        print(f"   {name}: JAX refuses it here: {type(error).__name__}: {str(error)[:120]}")
        return None
    if not is_whole:
        print(f"   {name}: JAX itself does not give its bytes back")
    return array if is_whole else None


def _raw(array: Any) -> bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()


def _bytes_of(leaf: Any) -> bytes:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return _raw(np.asarray(leaf))


def _assert_same(found: Any, expected: Any, what: str = "") -> None:
    """Same dtype, shape, bytes, kind of array and devices."""
    assert type(found) is type(expected), (what, type(found), type(expected))
    if isinstance(expected, jax.Array):
        assert found.devices() == expected.devices(), (what, found.devices())
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), (what, found.dtype)
    ours, theirs = _bytes_of(found), _bytes_of(expected)
    if ours != theirs:
        places = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        first = places[0]
        raise AssertionError(
            f"{what}: {len(places)} of {len(ours)} bytes differ, the first at {first}: "
            f"got {ours[first : first + 8].hex()}, expected {theirs[first : first + 8].hex()}"
        )


def _tree(seed: int, names: tuple[str, ...] = _DTYPES + _WIDE) -> tuple[dict[str, Any], Any]:
    """(a tree on the device, the same in NumPy)."""
    tree, host = {}, {}
    for name in names:
        array = on_device(name, seed)
        if array is not None:
            tree[name], host[name] = array, any_bits(name, seed)
    for implementation in ("threefry2x32", "rbg"):
        key = jax.random.split(jax.random.key(seed, impl=implementation), 3)
        tree[implementation], host[implementation] = key, np.asarray(jax.random.key_data(key))
    return tree, host


# ------------------------------------------------------------------------------------------ the bus


def every_dtype_comes_back(wait: bool) -> None:
    """Three versions, the first and the last equal; from the log, against NumPy's bytes."""
    versions = [_tree(seed) for seed in (0, 1, 0)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mmsb"
        with mmsb.open(path) as bus:
            for tree, _ in versions:
                found = bus.commit(tree, wait=wait)
                found = found if wait else found.result()
            assert found.version == 3
            for number, (tree, host) in enumerate(versions, 1):
                for like in (None, tree):
                    out = bus.checkout(version=number, like=like)
                    for name, leaf in tree.items():
                        _assert_same(out[name], leaf, f"{name}, version {number}")
                        assert _bytes_of(out[name]) == _raw(host[name]), name
            assert bus.verify()
            unchanged = bus.commit(versions[2][0], wait=wait)
            unchanged = unchanged if wait else unchanged.result()
            assert unchanged.changed == (), unchanged.changed
        with mmsb.open(path) as bus:
            resumed, _ = bus.resume(versions[0][0])
            for name, leaf in versions[2][0].items():
                _assert_same(resumed[name], leaf, f"{name}, resumed")


def the_log_is_that_of_the_host() -> None:
    """Arrays of the device and of NumPy give the same digest and the same changed bytes."""
    logged = []
    for kind in (0, 1):
        with mmsb.open() as bus:
            commits = [bus.commit(_tree(seed)[kind]) for seed in (0, 1)]
            lanes = {name: bus.read(name) for name in ("float32", "bfloat16", "bool", "complex64")}
            logged.append((
                [(c.changed, c.changed_bytes) for c in commits],
                {name: _bytes_of(x) for name, x in lanes.items()},
            ))  # fmt: skip
    assert logged[0] == logged[1], logged


def shadows(shadow: Any, wait: bool) -> None:
    """Sparse, dense and no changes of every dtype, donated at once: what was logged, and moved."""
    rng = np.random.default_rng(0)
    large = rng.integers(0, 2**31, 1 << 20, np.uint32)
    tree, host = _tree(0)
    tree, host = tree | {"large": jnp.asarray(large)}, host | {"large": large.copy()}
    with mmsb.open(shadow=shadow) as bus:
        bus.commit(tree)
        spoil = jax.jit(lambda x: x * 0 + 3, donate_argnums=0)
        for seed, share in enumerate((0.0, 0.001, 0.5, 0.01)):
            if seed == 2:
                tree, host = _tree(1)
            changed = rng.random(large.shape) < share
            host["large"] = np.where(changed, large + np.uint32(seed), host.get("large", large))
            tree["large"] = jnp.asarray(host["large"])
            moved, state = bus.stats().moved_bytes, dict(tree)
            commit = bus.commit(state, wait=wait)
            spoil(state["large"])
            commit = commit if wait else commit.result()
            moved = bus.stats().moved_bytes - moved
            assert seed != 1 or moved < large.nbytes // 2, moved
            out = bus.checkout(version=commit.version)
            for name in tree:
                assert _bytes_of(out[name]) == _raw(host[name]), f"{name}, {share}"
        assert bus.stats().device_bytes > 0
        assert bus.verify(deep=True)


def a_compiled_wave() -> None:
    """The wave of a graph as a pure function, alone and in branches, beside the bus."""
    rng = np.random.default_rng(0)
    values = [rng.integers(-99, 99, (64, 64)).astype(np.int32) for _ in range(4)]
    with mmsb.open() as bus:
        bus.commit({"a": jnp.asarray(values[0]), "b": jnp.asarray(values[1])})
        bus.derive("sum", ["a", "b"], lambda a, b: a + b)
        bus.derive("signs", ["b"], jnp.sign)
        bus.derive("rows", ["sum"], lambda s: s.max(axis=1))
        layout, wave = bus.layout, bus.graph.compile(bus.layout)
        pages = layout.pack({name: bus.read(name) for name in wave.arrays})

        def go(a: Any) -> Any:
            return wave(pages, mmsb.diff(pages, layout.set(pages, "a", a), 128))

        branches, done = jax.jit(jax.vmap(go))(jnp.stack([jnp.asarray(v) for v in values]))
        for k, value in enumerate(values):
            bus.write("a", jnp.asarray(value))
            alone, _ = jax.jit(go)(jnp.asarray(value))
            for name in wave.arrays:
                expected = _bytes_of(bus.read(name))
                assert _bytes_of(layout.get(alone, name)) == expected, name
                one = mmsb.Pages(branches.words[k], branches.version[k])
                assert _bytes_of(layout.get(one, name)) == expected, f"{name}, branch {k}"
            assert done.ran[k].tolist() == [k > 0 and name != "signs" for name in wave.nodes]


def donated_at_once() -> None:
    """Each tree is donated to a program that overwrites it, as soon as commit returned."""
    step = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
    spoil = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    expected, handles = [], []
    with mmsb.open(snapshots=False) as bus:
        state = jnp.arange(1 << 20, dtype=jnp.float32) / 7
        for _ in range(40):
            state = step(state)
            expected.append(np.array(state))
            big = state + 0
            handles.append(bus.commit({"w": big, "k": jax.random.key(3)}, wait=False))
            spoil(big)
        assert [h.result().version for h in handles] == list(range(1, 41))
        for version, host in enumerate(expected, 1):
            _assert_same(np.asarray(bus.checkout(version=version)["w"]), host, f"{version}")


def arrays_by_name() -> None:
    """create, write, apply of a delta, batch, clone, resize, fork, history."""
    with mmsb.open() as bus:
        bus.create("x", shape=(1000,), dtype="bfloat16")
        values = [on_device("bfloat16", seed)[:1000] for seed in range(4)]
        for value in values:
            bus.write("x", value)
        assert [_bytes_of(e.value) for e in bus.history("x")][-4:] == [_bytes_of(v) for v in values]
        delta = bus.diff(bus.version - 1, bus.version).delta
        bus.write("x", values[2])
        bus.apply(delta)
        _assert_same(bus.read("x"), values[3], "apply")
        with bus.batch():
            bus.clone("x", "y")
            bus.write("x", values[0])
        _assert_same(bus.read("y"), values[3], "clone")
        with bus.fork() as fork:
            _assert_same(fork.read("x"), values[0], "fork")
        assert bus.verify()


def a_wave() -> None:
    """Derived arrays follow a commit, in order, only where something changed."""
    with mmsb.open() as bus:
        a, b = (
            np.random.default_rng(i).integers(-99, 99, (64, 64)).astype(np.int32) for i in (0, 1)
        )
        bus.commit({"a": jnp.asarray(a), "b": jnp.asarray(b)})
        bus.derive("product", ["a", "b"], lambda a, b: a @ b)
        bus.derive("total", ["product"], lambda p: p.sum(0))
        bus.derive("sign", ["b"], lambda b: jnp.sign(b))
        commit = bus.commit({"a": jnp.asarray(a + 1), "b": jnp.asarray(b)})
        assert commit.changed == ("a", "product", "total"), commit.changed
        for name, host in {
            "product": (a + 1) @ b, "total": ((a + 1) @ b).sum(0), "sign": np.sign(b),
        }.items():  # fmt: skip
            _assert_same(np.asarray(bus.read(name)), host.astype(np.int32), name)
        bus.commit({"a": jnp.asarray(a), "b": jnp.asarray(b)}, wait=False).result()
        _assert_same(np.asarray(bus.read("product")), (a @ b).astype(np.int32), "nowait")
        assert bus.verify(derive=True)


def a_large_wave() -> None:
    """100 nodes in 20 levels, three waves, the integers wrapping around."""
    rng = np.random.default_rng(0)
    with mmsb.open() as bus:
        values = {f"n0_{i}": rng.integers(-99, 99, 256).astype(np.int32) for i in range(5)}
        bus.commit({name: jnp.asarray(x) for name, x in values.items()})
        parents: dict[str, list[str]] = {}
        for level in range(1, 21):
            for i in range(5):
                above = [f"n{level - 1}_{j}" for j in rng.choice(5, 2, replace=False)]
                parents[f"n{level}_{i}"] = above
                bus.derive(f"n{level}_{i}", above, lambda a, b: a * 3 - b)
        for seed in range(3):
            values = {f"n0_{i}": rng.integers(-99, 99, 256).astype(np.int32) for i in range(5)}
            bus.commit({name: jnp.asarray(x) for name, x in values.items()})
            with np.errstate(over="ignore"):
                for name, (one, other) in parents.items():
                    values[name] = values[one] * np.int32(3) - values[other]
            for name in parents:
                _assert_same(np.asarray(bus.read(name)), values[name], f"{name}, {seed}")


def replicas(kind: str) -> None:
    """A replica follows eight commits, sparse and dense, with its arrays in a kind of memory."""
    sharding = SingleDeviceSharding(jax.devices()[0], memory_kind=kind)
    rng = np.random.default_rng(0)
    host = rng.standard_normal((512, 513)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, mmsb.open(Path(folder) / "a.mmsb") as bus:
        bus.commit({"w": jnp.asarray(host), "h": jnp.asarray(host).astype(jnp.bfloat16)})
        like = {
            "w": jax.ShapeDtypeStruct(host.shape, jnp.float32, sharding=sharding),
            "h": jax.ShapeDtypeStruct(host.shape, jnp.bfloat16, sharding=sharding),
        }
        with mmsb.Replica(Path(folder) / "a.mmsb", like=like) as replica:
            for share in (0, 1e-5, 1e-3, 0.01, 0.1, 0.6, 1, 1e-4):
                host = np.where(rng.random(host.shape) < share, host * 2 + 1, host)
                tree = {"w": jnp.asarray(host), "h": jnp.asarray(host).astype(jnp.bfloat16)}
                bus.commit(tree)
                found = replica.update()
                assert replica.version == bus.version
                for name, leaf in tree.items():
                    _assert_same(found[name], leaf, f"{name} at {share}")
                    assert found[name].sharding.memory_kind == kind, found[name].sharding


def memory_kinds(kind: str, wait: bool) -> None:
    """Arrays in a kind of memory are committed, and come back to it where `like` says so."""
    sharding = SingleDeviceSharding(jax.devices()[0], memory_kind=kind)
    tree = {
        name: jax.device_put(on_device(name), sharding)
        for name in ("float32", "bfloat16", "bool", "int4", "complex64", "int8")
    }
    with mmsb.open() as bus:
        for _ in range(2):
            commit = bus.commit(tree, wait=wait)
            commit = commit if wait else commit.result()
        assert commit.changed == ()
        out = bus.checkout(like=tree)
        resumed, _ = bus.resume(tree)
        for name, leaf in tree.items():
            for found in (out[name], resumed[name]):
                _assert_same(found, leaf, name)
                assert found.sharding.memory_kind == kind, (name, found.sharding)


# ----------------------------------------------------------------------------------------- the core


def packing(is_traced: bool) -> None:
    """Layout.pack and unpack give every dtype back, alone and inside a program."""
    names = tuple(name for name in _DTYPES if on_device(name) is not None)
    tree, host = _tree(3, names)
    layout = mmsb.Layout.of(tree)
    if is_traced:
        pages = jax.jit(layout.pack)(tree)
        out = jax.jit(layout.unpack)(pages)
    else:
        pages = layout.pack(tree)
        out = layout.unpack(pages)
    expected = layout.pack(tree | {name: host[name] for name in names})
    np.testing.assert_array_equal(np.asarray(pages.words), np.asarray(expected.words))
    faults = []
    for name, leaf in tree.items():
        try:
            _assert_same(out[name], leaf, name)
        except AssertionError as error:
            faults.append(str(error))
    assert not faults, faults


def core_operations() -> None:
    """diff, apply, compose, invert, digest, replay under jit, each as the oracle says it."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        block_words = (1, 8, 32)[seed % 3]
        pools = [_pages(rng, 24, 64)]
        for share in (0.002, 0.05, 0.5, 0.02):
            pools.append(_touched(rng, pools[-1], share))
        diff = jax.jit(functools.partial(mmsb.diff, capacity=2048, block_words=block_words))
        deltas = [diff(a, b) for a, b in itertools.pairwise(pools)]
        written = [oracle.writes_of(d) for d in deltas]
        for a, b, d, w in zip(pools, pools[1:], deltas, written, strict=False):
            check_delta(d)
            assert w == oracle.diff(oracle.pool_of(a), oracle.pool_of(b))
            _same_pool(jax.jit(mmsb.apply)(a, d, 7), oracle.apply(oracle.pool_of(a), w, 7))
            inverse = jax.jit(mmsb.invert)(a, d)
            assert oracle.writes_of(inverse) == oracle.invert(oracle.pool_of(a), w)
            np.testing.assert_array_equal(mmsb.apply(b, inverse).words, a.words)
        both = jax.jit(functools.partial(mmsb.compose, capacity=4096))(deltas[1], deltas[2])
        check_delta(both)
        assert oracle.writes_of(both) == oracle.compose(written[1], written[2])
        log = mmsb.TLog.empty(8, 8192, block_words, version=5)
        for delta in deltas:
            log = jax.jit(mmsb.TLog.append)(log, delta)
        check_log(log)
        for until in (None, 2):
            found = jax.jit(mmsb.replay)(pools[0], log, until)
            expected = oracle.replay(oracle.pool_of(pools[0]), oracle.log_of(log), until)
            _same_pool(found, expected)
        batch = jax.tree.map(lambda *x: jnp.stack(x), *pools[:3])
        many = jax.jit(jax.vmap(mmsb.replay, (0, None)))(batch, log)
        for i in range(3):
            one = jax.tree.map(lambda x, i=i: x[i], many)
            _same_pool(one, oracle.replay(oracle.pool_of(pools[i]), oracle.log_of(log)))


def _pages(rng: np.random.Generator, pages: int, words: int) -> Any:
    pool = rng.integers(0, 2**32, (pages, words), np.uint32)
    return mmsb.Pages(jnp.asarray(pool), jnp.zeros(pages, jnp.uint32))


def _touched(rng: np.random.Generator, pages: Any, share: float) -> Any:
    raw = np.asarray(pages.words).view(np.uint8).copy()
    is_hit = rng.random(raw.shape) < share
    raw[is_hit] ^= rng.integers(1, 256, int(is_hit.sum()), np.uint8)
    return mmsb.Pages(jnp.asarray(raw.view(np.uint32)), pages.version)


def _same_pool(pages: Any, expected: Any) -> None:
    check_pages(pages)
    found = oracle.pool_of(pages)
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_array_equal(found.version, expected.version)


def digests() -> None:
    """The digest of pages, whole and brought forward by a delta, is that of the oracle."""
    tree = {"a": on_device("float32"), "b": on_device("bfloat16", 1), "c": on_device("bool", 2)}
    layout = mmsb.Layout.of(tree, page_bytes=256)
    before = layout.pack(tree)
    after = layout.pack(tree | {"b": on_device("bfloat16", 5)})
    regions = [(r.page, r.pages) for r in layout.regions]
    expected = [oracle.digest(oracle.pool_of(p), regions) for p in (before, after)]
    lanes = [np.asarray(mmsb.digest(p, layout)).tolist() for p in (before, after)]
    assert lanes == [[list(lane) for lane in e] for e in expected]
    delta = mmsb.diff(before, after)
    forward = mmsb.update_digest(mmsb.digest(before, layout), before, layout, delta)
    assert np.asarray(forward).tolist() == lanes[1]


# -------------------------------------------------------------------------------------- the algebra

_SEMIRINGS = {
    "plus_times": (np.add, np.multiply, 0),
    "min_plus": (np.minimum, np.add, np.iinfo(np.int32).max),
    "max_plus": (np.maximum, np.add, np.iinfo(np.int32).min),
    "max_min": (np.maximum, np.minimum, np.iinfo(np.int32).min),
}


def semirings(name: str, is_float: bool) -> None:
    """matvec, vecmat and matmul of a Kronecker graph against loops of NumPy, exactly."""
    add, multiply, zero = _SEMIRINGS[name]
    dtype = np.float32 if is_float else np.int32
    zero = dtype({"plus_times": 0, "min_plus": np.inf}.get(name, -np.inf) if is_float else zero)
    n, row, col = kronecker(9)
    data = np.random.default_rng(1).integers(1, 50, len(row)).astype(dtype)
    x = np.random.default_rng(2).integers(0, 50, (n, 4)).astype(dtype)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n), dtype)
    semiring = getattr(algebra, name)
    expected = np.full((n, 4), zero, dtype)
    add.at(expected, row, multiply(data[:, None], x[col]))
    flipped = np.full((n, 4), zero, dtype)
    add.at(flipped, col, multiply(data[:, None], x[row]))
    _assert_same(np.asarray(jax.jit(semiring.matvec)(A, x[:, 0])), expected[:, 0], "matvec")
    _assert_same(np.asarray(semiring.vecmat(x[:, 0], A)), flipped[:, 0], "vecmat")
    _assert_same(np.asarray(jax.jit(semiring.matmul)(A, x)), expected, "matmul")
    wide, tall = x[:64].T, x[:64]
    dense = add.reduce(multiply(wide[:, :, None], tall[None, :, :]), axis=1)
    _assert_same(np.asarray(semiring.matmul(wide, tall)), dense.astype(dtype), "dense matmul")


def float32_products_are_float32() -> None:
    """Products of float32 keep its 24 bits: matrix units would round the operands to 11."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256)).astype(np.float32) for _ in range(2))
    expected = a.astype(np.float64) @ b
    error = np.linalg.norm(np.asarray(algebra.plus_times.matmul(a, b)) - expected)
    assert error < 1e-6 * np.linalg.norm(expected), f"{error / np.linalg.norm(expected):.1e}"


def paths() -> None:
    """Shortest and widest paths, reachability, against relaxation in NumPy."""
    n, row, col = kronecker(9)
    data = np.random.default_rng(1).integers(1, 256, len(row)).astype(np.float32)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    source = int(np.bincount(row, minlength=n).argmax())
    near, wide = np.full(n, np.inf, np.float32), np.full(n, -np.inf, np.float32)
    near[source], wide[source] = 0, np.inf
    for _ in range(n):
        before = near.copy(), wide.copy()
        np.minimum.at(near, col, before[0][row] + data)
        np.maximum.at(wide, col, np.minimum(before[1][row], data))
        if (near == before[0]).all() and (wide == before[1]).all():
            break
    _assert_same(np.asarray(algebra.shortest_paths(A, source)), near, "shortest")
    _assert_same(np.asarray(algebra.widest_paths(A, source)), wide, "widest")
    _assert_same(np.asarray(algebra.reachable(A, source)), np.isfinite(near), "reachable")


# --------------------------------------------------------------------------------------------- main


def checks() -> dict[str, Callable[[], None]]:
    """All of them, by what they say."""
    kinds = [memory.kind for memory in jax.devices()[0].addressable_memories()]
    found: dict[str, Callable[[], None]] = {}
    for wait in (True, False):
        found[f"every dtype comes back, wait={wait}"] = functools.partial(
            every_dtype_comes_back, wait
        )
    found["a log of device arrays is that of NumPy arrays"] = the_log_is_that_of_the_host
    for shadow in ("bytes", "digest"):
        for wait in (True, False):
            title = f"shadow={shadow!r}, wait={wait}"
            found[title] = functools.partial(shadows, shadow, wait)
    found["a compiled wave"] = a_compiled_wave
    found["donated at once"] = donated_at_once
    found["arrays by name"] = arrays_by_name
    found["pack and unpack"] = functools.partial(packing, False)
    found["pack and unpack under jit"] = functools.partial(packing, True)
    found["core operations under jit and vmap"] = core_operations
    found["digests"] = digests
    found["a wave"] = a_wave
    found["a wave of 100 nodes"] = a_large_wave
    for name in _SEMIRINGS:
        for is_float in (True, False):
            title = f"{name} in {'float32' if is_float else 'int32'}"
            found[title] = functools.partial(semirings, name, is_float)
    found["float32 products are float32"] = float32_products_are_float32
    found["paths"] = paths
    for kind in kinds:
        for wait in (True, False):
            found[f"commits from {kind}, wait={wait}"] = functools.partial(memory_kinds, kind, wait)
        found[f"a replica in {kind}"] = functools.partial(replicas, kind)
    return found


def main() -> int:
    """Run all; 1 where one fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_smoke")
    parser.add_argument("--out", type=Path, help="folder for smoke.json")
    parser.add_argument("--only", default="", help="checks whose title has this in it")
    asked = parser.parse_args()
    out = asked.out
    device = jax.devices()[0]
    print(device.device_kind, "jax", jax.__version__, flush=True)
    results: dict[str, str] = {}
    for title, check in checks().items():
        if asked.only not in title:
            continue
        begun = time.monotonic()
        try:
            check()
            results[title] = "ok"
        except Exception as error:  # what else is wrong is to be known too
            results[title] = f"{type(error).__name__}: {str(error)[:1500]}"
            traceback.print_exc()
        print(f"{title}: {results[title]} ({time.monotonic() - begun:.1f} s)", flush=True)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "smoke.json").write_text(json.dumps(results, indent=1) + "\n")
    failed = [title for title, result in results.items() if result != "ok"]
    print(f"{len(results) - len(failed)} of {len(results)} right; failed: {failed}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
