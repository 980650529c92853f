"""Folds, constants, and a semiring as a value."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax.algebra
from mmsb_jax import algebra
from tests.algebra._graphs import relations

X = np.array([[3, 1, 2, 5, 4], [1, 1, 0, 2, 7]], np.float32)
FOLDS = [
    (algebra.min_plus, np.min, np.sum, np.minimum.accumulate),
    (algebra.max_plus, np.max, np.sum, np.maximum.accumulate),
    (algebra.max_times, np.max, np.prod, np.maximum.accumulate),
    (algebra.max_min, np.max, np.min, np.maximum.accumulate),
    (algebra.plus_times, np.sum, np.prod, np.add.accumulate),
    (algebra.log, np.logaddexp.reduce, np.sum, np.logaddexp.accumulate),
]


@pytest.mark.parametrize("case", FOLDS, ids=lambda case: case[0].name)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_fold_is_that_of_numpy(case, axis, transform):
    semiring, add, multiply, accumulate = case
    folds = (semiring.fold_add, add), (semiring.fold_mul, multiply)
    for found, expected in (*folds, (semiring.accumulate, accumulate)):
        out = transform(lambda x, fold=found: fold(x, axis))(jnp.asarray(X))
        np.testing.assert_allclose(out, expected(X, axis=axis), rtol=1e-6)
        assert out.dtype == jnp.float32


def test_fold_of_booleans_is_any_and_all():
    x = jnp.array([[True, False], [True, True], [False, False]])
    assert algebra.lor_land.fold_add(x).tolist() == [True, True, False]
    assert algebra.lor_land.fold_mul(x).tolist() == [False, True, False]
    assert algebra.lor_land.accumulate(x[2:].T[:, 0]).tolist() == [False, False]


@pytest.mark.parametrize("semiring", [algebra.min_plus, algebra.plus_times, algebra.max_times])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float32"])
def test_fold_of_nothing_is_the_identity_of_the_same_dtype(semiring, dtype):
    nothing = jnp.zeros((3, 0), dtype)
    added, multiplied = semiring.fold_add(nothing), semiring.fold_mul(nothing)
    assert added.dtype == multiplied.dtype == dtype
    assert added.tolist() == [semiring.zero_of(dtype).item()] * 3
    assert multiplied.tolist() == [semiring.one_of(dtype).item()] * 3
    assert semiring.accumulate(nothing).shape == (3, 0)


def test_fold_of_small_integers_keeps_their_dtype():
    assert algebra.plus_times.fold_add(jnp.full(3, 100, jnp.int8)).item() == 300 - 256


def test_fold_mul_keeps_the_order_of_what_does_not_commute():
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 5, 8, 13):
        values = jnp.asarray(rng.integers(1, 16, length, np.uint8))
        expected = values[0]
        for value in values[1:]:
            expected = relations.multiply(expected, value)
        assert relations.fold_mul(values) == expected


def test_fold_of_a_semiring_without_reduce_is_a_tree_of_add():
    values = jnp.asarray(np.random.default_rng(0).integers(0, 16, (7, 4), np.uint8))
    np.testing.assert_array_equal(
        relations.fold_add(values, 0), np.bitwise_or.reduce(np.asarray(values), 0)
    )


def test_fold_under_vmap_and_scan_is_that_of_each():
    x = jnp.asarray(X)
    np.testing.assert_array_equal(
        jax.vmap(algebra.min_plus.fold_add)(x), algebra.min_plus.fold_add(x)
    )
    scanned = jax.lax.scan(lambda c, row: (c, algebra.min_plus.fold_add(row)), 0, x)[1]
    np.testing.assert_array_equal(scanned, algebra.min_plus.fold_add(x))


def test_log_fold_gradient_of_nothing_possible_is_zero():
    gradient = jax.grad(lambda x: jnp.exp(algebra.log.fold_add(x)))
    assert gradient(jnp.full(2, -jnp.inf)).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(gradient(jnp.array([0.0, -jnp.inf])), [1.0, 0.0])


def test_fold_of_another_dtype_or_axis_is_refused():
    with pytest.raises(ValueError, match="lor_land is not defined on int32; it is on bool"):
        algebra.lor_land.fold_add(jnp.array([1, 2]))
    with pytest.raises(ValueError, match=r"axis 1 of an array of shape \(2,\)"):
        algebra.min_plus.fold_add(jnp.array([1, 2]), axis=1)
    with pytest.raises(ValueError, match="xs is float64, which JAX has only with jax_enable_x64"):
        algebra.min_plus.fold_add(np.array([1.0, 2.0]))


def test_constants_have_the_dtype_asked_for():
    for semiring in (algebra.min_plus, algebra.max_min, algebra.plus_times):
        for dtype in semiring.dtypes:
            for constant in (semiring.zero_of(dtype), semiring.one_of(dtype)):
                assert constant.dtype == dtype
    assert algebra.min_plus.zero_of("int8") == 127
    assert algebra.max_min.one_of("uint8") == 255


def test_eye_is_the_identity_of_matmul():
    A = jnp.asarray(np.random.default_rng(0).integers(1, 9, (3, 3)).astype(np.float32))
    for semiring in (algebra.min_plus, algebra.max_times, algebra.plus_times, algebra.max_min):
        np.testing.assert_array_equal(semiring.matmul(A, semiring.eye(3, "float32")), A)


def test_semiring_is_a_static_argument_and_found_again():
    traces = []

    def fold(semiring, x):
        traces.append(semiring.name)
        return semiring.fold_add(x)

    jitted = jax.jit(fold, static_argnums=0)
    x = jnp.array([3, 1, 2])
    assert jitted(algebra.min_plus, x) == jitted(algebra.min_plus, x) == 1
    assert jitted(algebra.max_plus, x) == 3
    assert traces == ["min_plus", "max_plus"]
    assert jax.jit(lambda pair: pair[0].fold_add(pair[1]))((algebra.max_plus, x)) == 3


def test_semiring_star_of_has_a_marker_where_there_is_no_end():
    a = jnp.array([-1.0, 0.0, 0.5, 2.0])
    assert algebra.min_plus.star_of(a).tolist() == [-jnp.inf, 0, 0, 0]
    assert algebra.max_plus.star_of(a).tolist() == [0, 0, jnp.inf, jnp.inf]
    assert algebra.max_times.star_of(a[1:]).tolist() == [1, 1, jnp.inf]
    assert algebra.max_min.star_of(a).tolist() == [jnp.inf] * 4
    np.testing.assert_allclose(algebra.plus_times.star_of(a), [np.nan, 1, 2, np.nan])
    np.testing.assert_allclose(
        algebra.log.star_of(a), [-np.log(1 - np.exp(-1)), np.inf, np.inf, np.inf], rtol=1e-6
    )
    with pytest.raises(ValueError, match="relations is not bounded and has no endless="):
        relations.star_of(jnp.zeros(1, jnp.uint8))


MODULES = [
    f"mmsb_jax.algebra.{module.name}" for module in pkgutil.iter_modules(mmsb_jax.algebra.__path__)
]


@pytest.mark.parametrize("name", ["mmsb_jax.algebra", *MODULES])
def test_examples_of_module_run(name):
    result = doctest.testmod(
        importlib.import_module(name),
        optionflags=doctest.ELLIPSIS
        | doctest.NORMALIZE_WHITESPACE
        | doctest.IGNORE_EXCEPTION_DETAIL,
    )
    assert not result.failed


def test_public_names_are_documented_with_examples():
    assert algebra.__all__ == sorted(algebra.__all__)
    for name in algebra.__all__:
        value = getattr(algebra, name)
        assert value.__doc__, name
    for owner in (algebra.Semiring, algebra.SparseMatrix):
        for name, value in vars(owner).items():
            if callable(value) and not name.startswith("_") and name not in ("zero", "one"):
                assert value.__doc__, f"{owner.__name__}.{name}"
