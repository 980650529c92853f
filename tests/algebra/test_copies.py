"""Semirings and matrices that were copied or pickled are found again as what they were."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import pytest

from mmsb_jax import algebra
from mmsb_jax.algebra._instances import INSTANCES
from tests.algebra import _graphs

WAYS = [
    copy.copy,
    copy.deepcopy,
    *(
        lambda x, protocol=protocol: pickle.loads(pickle.dumps(x, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]
IDS = ["copy", "deepcopy", *(f"pickle{p}" for p in range(pickle.HIGHEST_PROTOCOL + 1))]


def _highest(dtype):
    return jnp.iinfo(dtype).max


mine = algebra.Semiring(
    "mine", jnp.minimum, jnp.add, zero=_highest, one=0, dtypes=("int32", "uint32"),
    idempotent=True, selective=True, reduce=jnp.min,
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("semiring", INSTANCES, ids=lambda semiring: semiring.name)
def test_semiring_of_the_package_comes_back_as_itself(semiring, way):
    assert way(semiring) is semiring
    assert way({"in": [semiring]})["in"][0] is semiring


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("semiring", [mine, _graphs.relations], ids=lambda semiring: semiring.name)
def test_semiring_of_a_user_comes_back_equal_and_finds_its_programs(semiring, way):
    again = way(semiring)
    assert again == semiring
    assert hash(again) == hash(semiring)
    assert (again is semiring) == (way in (copy.copy, copy.deepcopy))
    dtype = semiring.dtypes[0]
    traces = []

    def fold(semiring, x):
        traces.append(semiring.name)
        return semiring.fold_add(x)

    jitted, x = jax.jit(fold, static_argnums=0), jnp.array([3, 1, 2], dtype)
    assert jitted(semiring, x) == jitted(again, x)
    assert traces == [semiring.name]


def test_semiring_of_the_same_name_as_one_of_the_package_stays_itself():
    twin = algebra.Semiring("min_plus", jnp.maximum, jnp.add, 0, 0)
    assert pickle.loads(pickle.dumps(twin)) == twin != algebra.min_plus


def test_semiring_of_functions_that_cannot_be_pickled_says_which():
    with pytest.raises((pickle.PicklingError, AttributeError), match="<lambda>"):
        pickle.dumps(algebra.Semiring("bare", lambda a, b: a, jnp.add, 0, 0))


def test_pickle_of_a_semiring_that_there_is_no_more_says_so():
    known = pickle.dumps(algebra.min_plus, 0)
    with pytest.raises(ValueError, match="no semiring 'min_plux' in this version"):
        pickle.loads(known.replace(b"min_plus", b"min_plux"))


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_matrix_and_plan_come_back_with_the_same_structure(way, dtype):
    A, _ = _graphs.weighted(_graphs.grid(4), "int32")
    A = A.map(lambda data: data.astype(dtype))
    for matrix in (A, A.T, algebra.SparseMatrix.from_coo([], [], [], (0, 0), dtype)):
        again = way(matrix)
        chex.assert_trees_all_equal(again, matrix)
        assert jax.tree.structure(again) == jax.tree.structure(matrix)
        assert (again.shape, again.dtype, repr(again)) == (matrix.shape, dtype, repr(matrix))
    semiring = algebra.lor_land if dtype == "bool" else algebra.min_plus
    plan = algebra.plan_matmul(A, A)
    chex.assert_trees_all_equal(
        semiring.matmul(A, A, plan=way(plan)), semiring.matmul(A, A, plan=plan)
    )
