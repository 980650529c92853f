"""Hypothesis strategies of leaves, trees, layouts, pages, deltas and logs.

Shapes come from a few buckets, so that a test compiles few programs. Bytes are drawn as bytes:
floats have every NaN payload and both zeros, and no value is preferred for being a nice number.
"""

import functools
import string
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from mmsb_jax._core.delta import Delta
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.pages import Pages
from mmsb_jax._core.tlog import TLog
from mmsb_jax._core.tree.leaves import is_holdable
from mmsb_jax.testing import oracle

SHAPES = ((), (3,), (2, 5), (0, 3), (40,))
"""Shapes of drawn arrays."""

PAGE_BYTES = (128, 256)
"""Page sizes of drawn layouts."""

POOL = (4, 64)
"""Pages and words a page of a drawn pool, unless a test says otherwise."""

KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
"""Implementations of PRNG keys."""

BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4}
"""Dtypes whose elements are narrower than the byte that holds them."""

DEVICE_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *BITS,
)
"""Dtypes that JAX can hold, the 64-bit ones where its 64-bit types are on."""

HOST_DTYPES = (
    *DEVICE_DTYPES,
    *(">f4", ">i8", ">c16", "<U3", "<S5", "<M8[ns]", "<m8[D]", "float6_e2m3fn"),
)
"""Dtypes of NumPy arrays."""


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def device_dtypes() -> list[str]:
    """Names of the dtypes that JAX can hold as things stand."""
    return [name for name in DEVICE_DTYPES if is_holdable(_dtype(name))]


@st.composite
def numpy_arrays(
    draw: st.DrawFn,
    dtypes: tuple[str, ...] | list[str] = HOST_DTYPES,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
) -> np.ndarray:
    """NumPy arrays of any bytes that the dtype has."""
    name, shape = draw(st.sampled_from(dtypes)), draw(st.sampled_from(shapes))
    dtype = _dtype(name)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), np.uint8)
    if name == "bool":
        raw = raw & 1
    elif name in BITS:
        raw = raw & (2 ** BITS[name] - 1)
    elif dtype.kind == "U":
        raw = (raw & 0x7F).astype("<u4").view(np.uint8)[:nbytes]
    elif name == "float6_e2m3fn":
        raw = raw & 0x3F
    return raw.view(dtype).reshape(shape).copy()


@st.composite
def device_arrays(draw: st.DrawFn, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> jax.Array:
    """JAX arrays of any dtype that JAX can hold as things stand, and any bytes."""
    return jnp.asarray(draw(numpy_arrays(device_dtypes(), shapes)))


@st.composite
def keys(draw: st.DrawFn) -> jax.Array:
    """Typed PRNG keys of each implementation, one or a few."""
    implementation = draw(st.sampled_from(KEY_IMPLEMENTATIONS))
    shape = draw(st.sampled_from(((), (2,))))
    words = jax.random.key_data(jax.random.key(0, impl=implementation)).shape[0]
    size = 4 * words * int(np.prod(shape, dtype=np.int64))
    data = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data.reshape(*shape, words)), impl=implementation)


def python_numbers() -> st.SearchStrategy[Any]:
    """Python bool, int of 64 bits, float and complex."""
    return st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.complex_numbers(),
    )


def numpy_scalars() -> st.SearchStrategy[Any]:
    """NumPy scalars of plain numbers and times."""
    plain = tuple(name for name in HOST_DTYPES if _dtype(name).kind not in "SU")
    native = tuple(name for name in plain if _dtype(name).isnative)
    return numpy_arrays(native, ((),)).map(lambda array: array[()])


def constants() -> st.SearchStrategy[Any]:
    """Leaves that are kept by value: strings, None, integers beyond 64 bits, functions."""
    return st.one_of(
        st.text(max_size=5),
        st.none(),
        st.integers(min_value=2**63),
        st.integers(max_value=-(2**63) - 1),
        functions(),
    )


def data_leaves() -> st.SearchStrategy[Any]:
    """Leaves that have bytes."""
    return st.one_of(device_arrays(), numpy_arrays(), keys(), python_numbers(), numpy_scalars())


def leaves() -> st.SearchStrategy[Any]:
    """Every kind of leaf."""
    return st.one_of(data_leaves(), constants())


def dict_keys() -> st.SearchStrategy[str]:
    """Keys of dictionaries, those among them that a naive name would confuse."""
    awkward = ("", "0", "-1", "a", "b", "a/b", "~", "~0", "~s", "/", "a~1b", "é")
    return st.one_of(st.sampled_from(awkward), st.text(string.ascii_letters, max_size=3))


def trees(
    leaf: st.SearchStrategy[Any] | None = None, max_leaves: int = 5
) -> st.SearchStrategy[Any]:
    """Pytrees of dicts, lists and tuples; a bare leaf and trees without leaves among them.

    Args:
        leaf: strategy of the leaves; every kind unless it is given.
        max_leaves: about how many.
    """
    return st.recursive(
        leaves() if leaf is None else leaf,
        lambda inner: st.one_of(
            st.dictionaries(dict_keys(), inner, max_size=3),
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
        ),
        max_leaves=max_leaves,
    )


@st.composite
def layouts(draw: st.DrawFn, tree: st.SearchStrategy[Any] | None = None) -> tuple[Any, Layout]:
    """A tree, and its layout with pages of some size."""
    drawn = draw(trees() if tree is None else tree)
    return drawn, Layout.of(drawn, page_bytes=draw(st.sampled_from(PAGE_BYTES)))


@st.composite
def writes(
    draw: st.DrawFn,
    pool: tuple[int, int] = POOL,
    capacity: int = 8,
    block_words: int = 32,
    max_size: int = 12,
) -> oracle.Writes:
    """What a delta of at most ``capacity`` blocks may write, as the oracle has it.

    Runs of bytes, so that some words are written whole and some in part; small values, so that
    some bytes are written that are there already.
    """
    pages, page_words = pool
    page_bytes = page_words * oracle.WORD_BYTES
    place = st.tuples(st.integers(0, pages - 1), st.integers(0, page_bytes - 1))
    run = st.tuples(place, st.binary(min_size=1, max_size=9).map(_small))
    drawn: oracle.Writes = {}
    for (page, byte), data in draw(st.lists(run, max_size=max_size)):
        for i, value in enumerate(data[: page_bytes - byte]):
            drawn[page, byte + i] = value
    fitting, _ = oracle.first_blocks(drawn, block_words, capacity)
    return fitting


def _small(data: bytes) -> bytes:
    return bytes(value if value & 1 else value >> 6 for value in data)


@st.composite
def pages(draw: st.DrawFn, pool: tuple[int, int] = POOL) -> Pages:
    """Pages of one size: zeros with a few bytes, or dense; versions below 2³¹."""
    count, page_words = pool
    if draw(st.booleans()):
        words = np.random.default_rng(draw(st.integers(0, 2**32))).integers(
            0, 2**32, pool, dtype=np.uint32
        )
    else:
        zeros = oracle.Pool(np.zeros((count, 4 * page_words), np.uint8), np.zeros(count, np.uint32))
        written = oracle.apply(zeros, draw(writes(pool, capacity=count * page_words)))
        words = written.data.view(np.uint32)
    version = draw(st.lists(st.integers(0, 2**31 - 1), min_size=count, max_size=count))
    return Pages(jnp.asarray(words), jnp.asarray(np.array(version, np.uint32)))


def delta_of(writes: oracle.Writes, capacity: int, block_words: int) -> Delta:
    """The delta that says ``writes``, in normal form."""
    arrays = oracle.delta_arrays(writes, block_words, capacity)
    return Delta(**{name: jnp.asarray(x) for name, x in arrays.items()}, block_words=block_words)


def deltas(
    pool: tuple[int, int] = POOL, capacity: int = 8, block_words: int = 32
) -> st.SearchStrategy[Delta]:
    """Deltas of one capacity, in normal form, inside a pool of this size."""
    return writes(pool, capacity, block_words).map(
        functools.partial(delta_of, capacity=capacity, block_words=block_words)
    )


@st.composite
def tlogs(
    draw: st.DrawFn,
    pool: tuple[int, int] = POOL,
    commits: int = 4,
    blocks: int = 16,
    block_words: int = 32,
) -> TLog:
    """Logs of up to ``commits`` entries, some of them empty, some logs with overflow."""
    log = TLog.empty(commits, blocks, block_words, draw(st.integers(0, 1000)))
    capacity = blocks // 2
    for entry in draw(st.lists(writes(pool, capacity, block_words, 6), max_size=commits + 1)):
        log = log.append(delta_of(entry, capacity, block_words))
    return log


def functions() -> st.SearchStrategy[Callable[..., Any]]:
    """Functions as leaves."""
    return st.sampled_from((jnp.tanh, jax.nn.relu, len))
