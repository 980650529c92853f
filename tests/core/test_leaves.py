"""Leaves: what each is, what is refused, and the same leaf back from its bytes."""

import enum
import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from mmsb_jax import StructureError
from mmsb_jax._core.tree.leaves import (
    Constant,
    LeafSpec,
    describe,
    host_array,
    is_holdable,
    qualified_name,
    rebuild,
)
from mmsb_jax.testing import oracle, strategies
from tests.core._compare import plain, what

WIDE = ("int64", "uint64", "float64", "complex128")
DTYPES_OF_32_BITS = [name for name in strategies.DEVICE_DTYPES if name not in WIDE]


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


def relu(x):
    return x


def _same_in_every_process(value):
    """An id without addresses, so that tests can be shared among processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize(
    ("leaf", "spec"),
    [
        (jnp.zeros((2, 3), jnp.bfloat16), LeafSpec("jax", "bfloat16", (2, 3))),
        (jax.ShapeDtypeStruct((4,), jnp.int4), LeafSpec("jax", "int4", (4,))),
        (jax.random.key(0), LeafSpec("key:threefry2x32", "uint32", (2,))),
        (jax.random.split(jax.random.key(0, impl="rbg"), 3), LeafSpec("key:rbg", "uint32", (3, 4))),
        (jax.random.PRNGKey(0), LeafSpec("jax", "uint32", (2,))),
        (np.zeros((), np.float64), LeafSpec("numpy", "float64", ())),
        (np.zeros(2, ">f4"), LeafSpec("numpy", ">f4", (2,))),
        (np.array(["ab"]), LeafSpec("numpy", "<U2", (1,))),
        (np.datetime64("2020-01-01", "s"), LeafSpec("scalar", "<M8[s]", ())),
        (np.float64(1), LeafSpec("scalar", "float64", ())),
        (np.zeros(3, ml_dtypes.float8_e4m3fn), LeafSpec("numpy", "float8_e4m3fn", (3,))),
        (True, LeafSpec("bool", "bool", ())),
        (2**63 - 1, LeafSpec("int", "int64", ())),
        (-(2**63), LeafSpec("int", "int64", ())),
        (1.5, LeafSpec("float", "float64", ())),
        (1j, LeafSpec("complex", "complex128", ())),
        (2**63, Constant("int", 2**63)),
        (-(2**63) - 1, Constant("int", -(2**63) - 1)),
        (None, Constant("none", None)),
        ("adam", Constant("str", "adam")),
        (relu, Constant("function", "tests.core.test_leaves.relu")),
        (
            functools.partial(functools.partial(relu), 1),
            Constant("function", "tests.core.test_leaves.relu"),
        ),
        (len, Constant("function", "builtins.len")),
    ],
    ids=_same_in_every_process,
)
def test_describe_of_a_leaf_says_kind_dtype_and_shape(leaf, spec):
    assert describe(leaf, "x") == spec


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (Colour.RED, "a leaf of type tests.core.test_leaves.Colour is neither data nor a function"),
        (Level.LOW, "a leaf of type tests.core.test_leaves.Level is neither data nor a function"),
        (b"raw", "a leaf of type builtins.bytes is neither data nor a function"),
        (np.array([None]), "a NumPy array of dtype object cannot be recorded"),
        (np.zeros(2, "V8"), "a NumPy array of dtype |V8 cannot be recorded"),
        (np.zeros(2, [("a", "f4")]), "a NumPy array of dtype [('a', '<f4')] cannot be recorded"),
        (np.array(["a"], np.dtypes.StringDType()), "dtype StringDType() cannot be recorded"),
        (np.ma.array([1, 2], mask=[0, 1]), "a numpy.ma.MaskedArray is more than its bytes"),
        (np.str_(""), "the NumPy string np.str_('') is empty or ends with a NUL"),
        (np.bytes_(b"a\0"), "is empty or ends with a NUL"),
    ],
    ids=_same_in_every_process,
)
def test_describe_of_what_would_not_come_back_raises(leaf, message):
    with pytest.raises(StructureError) as error:
        describe(leaf, "opt/x")
    assert message in str(error.value)
    assert str(error.value).startswith("opt/x: ")
    assert "Expected" in str(error.value)


@given(strategies.data_leaves())
def test_rebuild_of_host_array_gives_the_leaf_back(leaf):
    spec = describe(leaf, "x")
    array = host_array(leaf)
    assert array.flags.c_contiguous
    assert array.shape == spec.shape
    assert array.nbytes == spec.nbytes
    assert array.tobytes() == oracle.leaf_bytes(plain(leaf))
    assert what(rebuild(spec, array.copy())) == what(leaf)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(4, 6)[::2, ::-3],
        np.arange(6).reshape(2, 3).T,
        np.broadcast_to(np.float32(3), (2, 2)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
    ids=["strided", "transposed", "broadcast", "fortran"],
)
def test_host_array_of_a_strided_array_is_its_elements_in_order(array):
    assert host_array(array).tobytes() == array.tobytes()


def test_host_array_of_a_contiguous_array_is_a_view():
    array = np.arange(4.0)
    assert np.shares_memory(host_array(array), array)


def test_rebuild_of_a_jax_array_is_not_the_memory_it_came_from():
    source = np.arange(1024, dtype=np.float32)
    rebuilt = rebuild(describe(jnp.asarray(source), "x"), source)
    source[:] = -1
    assert np.asarray(rebuilt)[1] == 1


@pytest.mark.parametrize("dtype", WIDE)
def test_rebuild_of_a_64_bit_jax_array_keeps_its_dtype_without_x64(dtype):
    with jax.enable_x64(True):
        array = jnp.asarray(np.array([1, 2, 3], dtype))
    spec = describe(array, "x")
    assert what(rebuild(spec, host_array(array).copy())) == what(array)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        *((name, True) for name in DTYPES_OF_32_BITS),
        *((name, False) for name in WIDE),
        *(
            (name, False)
            for name in (">f4", "<U3", "<S5", "<M8[ns]", "float6_e2m3fn", "longdouble")
        ),
    ],
)
def test_is_holdable_without_x64(name, held):
    assert is_holdable(np.dtype(getattr(ml_dtypes, name, name))) is held


@pytest.mark.parametrize("name", WIDE)
def test_is_holdable_of_64_bits_with_x64(name):
    with jax.enable_x64(True):
        assert is_holdable(np.dtype(name))


def test_qualified_name_of_an_object_is_that_of_its_class():
    class Activation:
        def __call__(self, x):
            return x

    assert qualified_name(Activation()).endswith("<locals>.Activation")


@pytest.mark.parametrize("offset", range(0, 128, 8))
def test_rebuild_of_a_jax_array_never_shares_the_memory_it_came_from(offset):
    raw = np.zeros(4096 + 256, np.uint8)
    start = -raw.ctypes.data % 64 + offset  # JAX takes over memory that is aligned to 64 bytes
    array = raw[start : start + 4096].view(np.uint32)
    built = rebuild(LeafSpec("jax", "uint32", array.shape), array)
    array[:] = 7
    assert not np.asarray(built).any()
