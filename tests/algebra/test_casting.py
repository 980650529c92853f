"""What is made of another dtype keeps its numbers, or is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import mmsb_jax as mmsb
from mmsb_jax import algebra
from mmsb_jax.algebra._values import casting

inf, nan = np.inf, np.nan

FITS = [
    (1.0, "int32", 1),
    (-0.0, "int32", 0),
    (inf, "int32", 2**31 - 1),
    (-inf, "int32", -(2**31)),
    (inf, "int8", 127),
    (-inf, "int8", -128),
    (inf, "uint8", 255),
    (-inf, "uint8", 0),
    (inf, "uint32", 2**32 - 1),
    (np.float32(inf), "int16", 2**15 - 1),
    (np.float16(-inf), "int16", -(2**15)),
    (127, "int8", 127),
    (-128, "int8", -128),
    (2**31 - 1, "int32", 2**31 - 1),
    (2.0**31 - 1, "int32", 2**31 - 1),
    (-(2.0**31), "int32", -(2**31)),
    (np.uint64(2**32 - 1), "uint32", 2**32 - 1),
    (True, "int32", 1),
    (True, "float32", 1.0),
    (0, "bool", False),
    (1.0, "bool", True),
    (2 + 0j, "float32", 2.0),
    (2 + 0j, "int8", 2),
    (0.1, "float32", float(np.float32(0.1))),
    (1e-60, "float32", 0.0),
    (2**24 + 1, "float32", 2.0**24),
    (2**31 - 1, "float32", 2.0**31),
    (inf, "float16", inf),
    (-inf, "bfloat16", -inf),
    (1.5, "complex64", 1.5),
]
REFUSED = [
    (1.9, "int32"),
    (-0.5, "uint8"),
    (-1, "uint32"),
    (-1.0, "uint32"),
    (300, "int8"),
    (128, "int8"),
    (-129, "int8"),
    (2**40, "int32"),
    (2**31, "int32"),
    (2.0**31, "int32"),
    (-(2.0**31) - 1, "int32"),
    (2.0**32, "uint32"),
    (np.float32(2**31), "int32"),
    (np.float16(300), "int8"),
    (np.uint64(2**64 - 1), "int32"),
    (nan, "int32"),
    (nan, "uint8"),
    (nan, "bool"),
    (2, "bool"),
    (0.5, "bool"),
    (inf, "bool"),
    (1j, "float32"),
    (1j, "int32"),
    (complex(1, nan), "float32"),
    (1e39, "float32"),
    (-1e300, "float32"),
    (70000, "float16"),
    (1e39, "bfloat16"),
    (1e39, "complex64"),
    (2**70, "int32"),
]


@pytest.mark.parametrize(("value", "dtype", "expected"), FITS, ids=str)
def test_entry_that_fits_the_dtype_keeps_its_number(value, dtype, expected):
    for A in _made_of(value, dtype):
        assert A.dtype == dtype
        assert A.data.tolist() == [1, expected]


@pytest.mark.parametrize(("value", "dtype"), REFUSED, ids=str)
@pytest.mark.filterwarnings("error")
def test_entry_that_does_not_fit_the_dtype_is_refused_by_name(value, dtype):
    for made in _makers(value, dtype):
        with pytest.raises(mmsb.StructureError) as caught:
            made()
        if not _is_huge(value):
            shown = "nan" if value is nan else str(np.asarray([1, value])[1])
            assert f" is {shown}, which {dtype} does not have" in str(caught.value)
            assert "expected" in str(caught.value)


def _made_of(value, dtype):
    return [made() for made in _makers(value, dtype)]


def _makers(value, dtype):
    """Every way to make the matrix of 1 at [0, 1] and of a value at [1, 2]."""
    row, col, data, shape = [0, 1], [1, 2], [1, value], (3, 3)
    make = algebra.SparseMatrix
    yield lambda: make.from_coo(row, col, data, shape, dtype)
    yield lambda: make.from_coo(row, col, np.asarray(data), shape, dtype)
    yield lambda: make.from_csr([0, 1, 2, 2], col, data, shape, dtype)
    yield lambda: make.from_graph(_Graph(), lambda *edge: data[edge == ("b", "c", "data")], dtype)
    if _is_huge(value):
        return
    dense = np.full(shape, 7, np.asarray(data).dtype)
    dense[row, col] = data
    yield lambda: make.from_dense(dense, 7, dtype)
    if dense.dtype.kind in "iuf" and dense.dtype != np.float16:
        csr = scipy.sparse.csr_array((np.asarray(data), (row, col)), shape)
        yield lambda: make.from_scipy(csr, dtype)


def _is_huge(value):
    return isinstance(value, int) and value == 2**70


class _Graph:
    def order(self):
        return ("a", "b", "c")

    def edges(self):
        yield from (("a", "b", "data"), ("b", "c", "data"))


def test_refused_entry_is_named_where_it_is():
    make = algebra.SparseMatrix
    with pytest.raises(ValueError, match=r"^data\[1\] is 1\.9, which int32 does not have; whole"):
        make.from_coo([0, 1], [1, 2], [1, 1.9], (3, 3), "int32")
    with pytest.raises(ValueError, match=r"^data is 300, which int8 does not have; .* -128 to 127"):
        make.from_coo([0, 1], [1, 2], 300, (3, 3), "int8")
    with pytest.raises(ValueError, match=r"^matrix\[1, 0\] is 1e\+39, .*real numbers up to ±3.4"):
        make.from_dense([[0.0, 1.0], [1e39, 0.0]], 0)
    with pytest.raises(ValueError, match=r"^the weight of b → c is -1, which uint8 does not have"):
        make.from_graph(_Graph(), lambda *edge: 1 if edge[0] == "a" else -1, "uint8")
    with pytest.raises(ValueError, match=r"^weight is nan, which int32 does not have"):
        make.from_graph(_Graph(), nan, "int32")
    with pytest.raises(ValueError, match=r"\[2, 1\] is 2, which bool does not have; False"):
        casting.fit(np.array([[0, 1], [1, 1], [1, 2]]), np.dtype(bool), "mask")


def test_infinity_cast_to_integers_is_no_path_in_every_tropical_semiring():
    data = [5.0, inf]
    for dtype in ("int8", "int32", "uint16"):
        A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], data, (3, 3), dtype)
        top = np.iinfo(dtype).max
        assert algebra.shortest_paths(A, 0).tolist() == [0, 5, top]
        assert algebra.widest_paths(A, 0).tolist() == [top, 5, 5]


@given(
    st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans()),
    st.sampled_from(["bool", "int8", "uint8", "int32", "uint32", "float16", "float32"]),
)
def test_fit_is_exact_or_rounds_or_refuses(value, dtype):
    dtype = np.dtype(dtype)
    given_array = np.asarray([value])
    try:
        found = casting.fit(given_array, dtype, "x")[0].item()
    except mmsb.StructureError:
        found = None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            rounded = given_array.astype(dtype)[0].item()
        does_fit = np.isinf(rounded) <= np.isinf(float(value))
        expected = rounded if does_fit else None
    elif dtype.kind == "b":
        expected = bool(value) if value in (0, 1) else None
    else:
        ends = np.iinfo(dtype)
        expected = {inf: int(ends.max), -inf: int(ends.min)}.get(value)
        if expected is None and not np.isnan(value) and not np.isinf(value):
            expected = int(value) if value == int(value) in range(ends.min, ends.max + 1) else None
    assert found == expected or (found != found and expected != expected)


# -- other entrances -------------------------------------------------------------------------


def test_python_numbers_take_the_default_dtype_only_where_they_fit_it():
    s, A = algebra.min_plus, algebra.SparseMatrix.from_coo([0], [1], [1.0], (2, 2))
    assert A.dtype == s.fold_add([1.5, 2]).dtype == jnp.float32
    assert s.vecmat([inf, 2.0], A).tolist() == [inf, inf]
    for value, dtype in ((2**40, "int32"), (2**31, "int32"), (1e300, "float32")):
        for call in (
            lambda value=value: s.fold_add([value]),
            lambda value=value: s.star_of([value]),
            lambda value=value: s.vecmat([value, value], jnp.zeros((2, 2))),
            lambda value=value: A.with_data([value]),
            lambda value=value: A.map(lambda data: [value]),
            lambda value=value: algebra.SparseMatrix.from_coo([0], [1], [value], (2, 2)),
            lambda value=value: algebra.SparseMatrix.from_dense([[value]], 0),
            lambda value=value: algebra.SparseMatrix.from_graph(_Graph(), value),
            lambda value=value: algebra.SparseMatrix.from_graph(_Graph(), lambda *edge: value),
            lambda value=value: s.check(values=[value]),
        ):
            with pytest.raises(mmsb.StructureError, match=f"which {dtype} does not have"):
                call()


def test_arrays_of_64_bits_are_refused_while_jax_has_none():
    with jax.enable_x64(True):
        wide = jnp.array([1e300, 2.0])
        A = algebra.SparseMatrix.from_coo([0, 1], [1, 0], wide, (2, 2))
        assert algebra.shortest_paths(A, 0).tolist() == [0, 1e300]
        plan = algebra.plan_matmul(A, A)
    s, x = algebra.min_plus, jnp.zeros(2)
    for call in (
        lambda: A.to_dense(0),
        lambda: s.fold_add(wide),
        lambda: s.fold_mul(wide),
        lambda: s.accumulate(wide),
        lambda: s.star_of(wide),
        lambda: s.star(A),
        lambda: s.power(A, 2),
        lambda: s.vecmat(wide, A),
        lambda: s.matvec(A, x),
        lambda: s.matmul(A, A, plan=plan),
        lambda: s.vecmat(x, jnp.zeros((2, 2)), into=wide),
        lambda: A.with_data(wide),
        lambda: A.map(lambda data: data),
        lambda: algebra.shortest_paths(A, 0),
        lambda: s.eye(2, "float64"),
        lambda: s.check("float64"),
        lambda: s.check(values=wide),
        lambda: algebra.SparseMatrix.from_coo([0, 1], [1, 0], [1, 2], (2, 2), "float64"),
        lambda: algebra.SparseMatrix.from_coo([0, 1], [1, 0], np.ones(2), (2, 2)),
        lambda: algebra.SparseMatrix.from_dense(np.ones((2, 2)), 0),
    ):
        with pytest.raises(mmsb.StructureError, match=r"float64, .*only with jax_enable_x64"):
            call()
    # What asks for no values has nothing to cast.
    assert algebra.reachable(A, 0).tolist() == [True, True]
    assert A.to_coo()[2].tolist() == [1e300, 2.0]


def test_scalars_of_jax_in_a_list_are_numbers():
    for dtype in (jnp.bfloat16, jnp.float32, jnp.int8):
        values = list(jnp.arange(2, dtype=dtype))
        A = algebra.SparseMatrix.from_coo([0, 1], [1, 0], values, (2, 2))
        assert A.dtype == algebra.min_plus.fold_add(values).dtype == dtype
        assert algebra.SparseMatrix.from_coo([0], [1], values[1], (2, 2), "uint8").data[0] == 1


def test_numbers_in_another_byte_order_are_the_same_numbers():
    A = algebra.SparseMatrix.from_coo(
        np.array([0], ">i4"), np.array([1], ">i8"), np.array([2.5], ">f4"), (2, 2)
    )
    assert A.dtype == np.float32
    assert algebra.min_plus.vecmat(np.zeros(2, ">f4"), A).tolist() == [inf, 2.5]
    assert A.map(lambda data: np.array([3], ">i4")).data.tolist() == [3]
    assert algebra.min_plus.zero_of(">i2") == 2**15 - 1


def test_zero_of_a_dense_matrix_is_cast_like_an_entry():
    A = algebra.SparseMatrix.from_coo([0], [1], [3], (2, 2), "int32")
    top = 2**31 - 1
    assert A.to_dense(inf).tolist() == [[top, 3], [top, top]]
    assert A.to_dense(jnp.float32(-inf))[0, 0] == -(2**31)
    assert jax.jit(lambda zero: A.to_dense(zero))(7).tolist() == [[7, 3], [7, 7]]
    for zero in (0.5, nan, 2**31, 1j):
        with pytest.raises(mmsb.StructureError, match=r"zero is .*, which int32 does not have"):
            A.to_dense(zero)
        with pytest.raises(mmsb.StructureError, match=r"zero is .*, which int32 does not have"):
            algebra.SparseMatrix.from_dense(np.zeros((2, 2), np.int32), zero)
    with pytest.raises(mmsb.StructureError, match=r"traced float32\[\]; .* one int32 was expected"):
        jax.jit(lambda zero: A.to_dense(zero))(0.0)


@pytest.mark.parametrize("zero", [algebra.min_plus, algebra.max_plus, inf, -inf, nan, 0.0])
def test_from_dense_gives_back_what_to_dense_made(zero):
    A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], [3.0, 4.0], (3, 3), "float32")
    again = algebra.SparseMatrix.from_dense(A.to_dense(zero), zero)
    assert [x.tolist() for x in again.to_coo()] == [[0, 1], [1, 2], [3.0, 4.0]]
    if zero is not nan:
        whole = A.map(lambda data: data.astype(jnp.int32))
        again = algebra.SparseMatrix.from_dense(whole.to_dense(zero), zero)
        assert [x.tolist() for x in again.to_coo()] == [[0, 1], [1, 2], [3, 4]]


def test_source_and_k_are_not_cast():
    A = algebra.SparseMatrix.from_coo(np.arange(299), np.arange(1, 300), 1.0, (300, 300), "float32")
    reached = jax.jit(lambda source: algebra.reachable(A, source))
    for source in (np.uint32(2**32 - 1), np.int8(-1), np.uint32(2**31), np.uint16(300)):
        assert not reached(source).any()
    # 300, the node that is none, is no int8.
    assert reached(np.int8(127)).sum() == reached(np.uint8(127)).sum() == 173
    assert not reached(np.int8(-128)).any()
    hops = jax.jit(lambda k: algebra.k_hop(A, 0, k))
    for k, expected in ((np.uint32(2**32 - 1), 300), (np.int8(5), 6), (np.int32(-3), 1)):
        assert hops(k).sum() == expected
    assert algebra.k_hop(A, 0, 2**40).all()
    with jax.enable_x64(True):
        for source in (np.int64(2**32), np.int64(-(2**32)), np.uint64(2**64 - 1)):
            assert not reached(source).any()
        assert hops(np.int64(2**32)).all()
        assert hops(np.int64(1 - 2**32)).sum() == 1


def test_constants_of_a_semiring_are_cast_like_entries():
    made = algebra.Semiring("made", jnp.minimum, jnp.maximum, zero=inf, one=-inf, endless=-inf)
    assert made.zero_of("uint8") == 255
    assert made.one_of("int16") == made.endless_of("int16") == -(2**15)
    assert made.zero_of("bfloat16") == inf
    unfit = [(300, "int8"), (-1, "uint8"), (0.5, "int32"), (nan, "int32"), (1e39, "float32")]
    for zero, dtype in unfit:
        broken = algebra.Semiring("broken", jnp.minimum, jnp.maximum, zero=zero, one=0)
        for call in (
            lambda: broken.zero_of(dtype),
            lambda: broken.fold_add(jnp.zeros(0, dtype)),
        ):
            with pytest.raises(mmsb.StructureError, match=f"zero of broken is .*, which {dtype}"):
                call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add": jnp.logaddexp}, r"add of int32\[2\] and int32\[2\] gives float32\[2\]"),
        ({"multiply": jnp.true_divide}, r"multiply of .* gives float32\[2\]; int32\[2\] was exp"),
        ({"multiply": jnp.vdot}, r"multiply of int32\[2\] and int32\[2\] gives int32\[\]"),
        ({"reduce": jnp.mean}, r"reduce of int32\[2, 2\] gives float32\[2\]"),
        ({"reduce": lambda xs, axis: xs}, r"reduce of int32\[2, 2\] gives int32\[2, 2\]"),
        ({"product": jnp.vecdot}, r"product of .* gives int32\[2\]; int32\[2, 2\] was expected"),
        ({"add": lambda a, b: None}, "add of .* gives a NoneType"),
        ({"add": lambda a: a}, "add of .* fails with TypeError: .*<lambda>"),
        (
            {"add": np.minimum},
            "add of .* fails with TracerArrayConversionError.*A fun",
        ),
    ],
)
def test_operation_that_changes_shape_or_dtype_is_refused(changes, message):
    fields = {"add": jnp.minimum, "multiply": jnp.add, "zero": inf, "one": 0}
    made = algebra.Semiring("made", **(fields | changes))
    x, A = jnp.zeros(2, jnp.int32), algebra.SparseMatrix.from_coo([0], [1], 1, (2, 2))
    for call in (
        lambda: made.fold_add(x),
        lambda: made.vecmat(x, A),
        lambda: made.matmul(A, A),
        lambda: algebra.SparseMatrix.from_coo([0, 0], [1, 1], [1, 2], (2, 2), combine=made),
    ):
        with pytest.raises(mmsb.StructureError, match=f"^made: {message}"):
            call()


def test_closure_that_changes_the_dtype_is_refused():
    made = algebra.Semiring("made", jnp.minimum, jnp.add, inf, 0, closure=lambda a: a > 0)
    with pytest.raises(mmsb.StructureError, match=r"closure of float32\[2\] gives bool\[2\]"):
        made.star(jnp.zeros((2, 2)))
    made = algebra.Semiring("made", jnp.minimum, jnp.add, inf, 0, converges=jnp.abs, endless=0)
    with pytest.raises(mmsb.StructureError, match=r"converges of float32\[2\] gives float32\[2\]"):
        made.star_of(jnp.zeros(2))
