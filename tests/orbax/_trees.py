"""Trees that Orbax saves, and what it makes of them."""

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import mmsb_jax as mmsb

DTYPES = [
    "bool", "int4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64",
    "complex128",
]  # fmt: skip


class Moments(NamedTuple):
    mu: Any
    nu: Any


class Nothing(NamedTuple):
    """A node of a class, without leaves."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    w: Any
    layers: Any


def array_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any bytes at all that a dtype has: infinities, and what is no number, among them."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    numbers = np.random.default_rng(seed)
    if dtype == "bool":
        return numbers.integers(0, 2, shape).astype(bool)
    if dtype == "int4":
        return numbers.integers(-8, 8, shape).astype(kind)
    raw = numbers.integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8)
    return raw.view(kind).reshape(shape)


def on_jax(array: np.ndarray) -> jax.Array:
    with jax.enable_x64(True):
        return jnp.array(array)


def a_tree(seed: int = 0) -> dict[str, Any]:
    """One of each that Orbax knows, in the types that it gives back."""
    return {
        "jax": {dtype: on_jax(array_of(dtype, (2, 3), seed)) for dtype in DTYPES},
        "numpy": {dtype: array_of(dtype, (3,), seed) for dtype in DTYPES},
        "numbers": [seed, -0.5 * seed, bool(seed), 2**62, float("inf")],
        "keys": {
            "one": jax.random.key(seed),
            "some": jax.random.split(jax.random.key(seed), 3),
            "rbg": jax.random.key(seed, impl="rbg"),
        },
        "text": f"seed {seed}",
        "none": None,
        "empty": {"dict": {}, "list": [], "tuple": ()},
        "": {"a/b": seed, "c~d": seed, "0": seed, " é": np.array(2.5)},
    }


def with_classes(seed: int = 0) -> dict[str, Any]:
    """A tree of classes, of which Orbax keeps the fields."""
    w = jnp.arange(3.0) + seed
    return {
        "model": Model(w, (w, [w, Moments(w * 2, {"b": w})])),
        "numbered": {3: w, 4: {}},
        "opt": (Nothing(), Moments(mu=w, nu=None), Nothing()),
        "ordered": collections.OrderedDict(b=w, a=seed),
    }


def assert_equal(found: Any, expected: Any) -> None:
    """The same structure, types, dtypes and bytes."""
    one, two = mmsb.open(), mmsb.open()
    with one, two:
        one.commit(expected)
        two.commit(found)
        assert one.first_divergence(two) is None
        assert one._session.head().table.values == two._session.head().table.values
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for left, right in pairs:
        assert type(left) is type(right)
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None)
    assert jax.tree.structure(found) == jax.tree.structure(expected)


# Orbax joins keys by dots, and looks texts up by paths with slashes and tildes.
_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="./~\0"), min_size=1, max_size=8)
_SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    array = array_of(draw(st.sampled_from(DTYPES)), draw(_SHAPES), draw(st.integers(0, 99)))
    return on_jax(array) if draw(st.booleans()) else array


_LEAVES = (
    arrays()
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.integers(0, 99).map(jax.random.key)
)
trees = st.recursive(
    _LEAVES,
    lambda inner: st.dictionaries(_KEYS, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))
