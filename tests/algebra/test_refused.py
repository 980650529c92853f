"""Every public call with every kind of bad argument: the library's own error says what is wrong."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax import algebra

PACKAGE = str(Path(mmsb.__file__).parent)
SAYS_WHAT_TO_DO = (
    r"expected|must |there (is|are) no|pass |cast one|[Mm]ake one with|use "
    r"|is not defined on .*; it is on|JAX has only with|takes over 64 bits|is for a|are for"
)

A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], [1.0, 2.0], (3, 3), "float32")
WIDE = algebra.SparseMatrix.from_coo([0], [1], [1.0], (2, 3), "float32")
X = jnp.zeros(3)
BATCH = jax.vmap(A.with_data)(jnp.ones((2, 2)))
s = algebra.min_plus

NO_NUMBERS = {
    "None": None,
    "text": "x",
    "object": object(),
    "dict": {"a": 1},
    "function": jnp.add,
    "ragged": [[1.0], [1.0, 2.0]],
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, 1.0]),
    "dates": np.array(["2020-01-01"] * 3, "datetime64[D]"),
    "fields": np.zeros(3, [("a", "f4")]),
    "key": jax.random.key(0),
    "huge": [2**70, 1, 1],
}
NO_ARRAYS = NO_NUMBERS | {
    "wide": np.zeros(3),
    "unfit": [1e300, 1.0, 1.0],
    "long": jnp.zeros(7),
    "complex": jnp.zeros(3, jnp.complex64),
}
NO_MATRICES = NO_ARRAYS | {"vector": X, "scipy": A.to_scipy(), "batch": BATCH}
NO_GRAPHS = {
    "None": None,
    "number": 3,
    "text": "A",
    "array": np.zeros((3, 3), np.float32),
    "scipy": A.to_scipy(),
    "rectangle": WIDE,
    "batch": BATCH,
}
NO_INTEGERS = {
    "None": None,
    "text": "0",
    "half": 0.5,
    "float": np.float32(0),
    "bool": True,
    "numpy bool": np.True_,
    "list": [0],
    "vector": np.array([0]),
    "object": object(),
    "negative": -7,
    "complex": 1j,
    "key": jax.random.key(0),
}
NO_SOURCES = NO_INTEGERS | {"outside": 3, "huge": 2**70}
NO_DTYPES = {
    "unknown": "float33",
    "object": object(),
    "number": 3,
    "objects": "O",
    "dates": "datetime64[s]",
    "spans": "timedelta64[s]",
    "text": "U3",
    "fields": [("a", "f4")],
    "wide": "float64",
    "longer": np.longdouble,
    "key": jax.random.key(0).dtype,
}
# A constant of float64 is NumPy's, and there without JAX's.
NOT_ITS_DTYPES = {k: v for k, v in NO_DTYPES.items() if k != "wide"} | {"None": None, "b": "bool"}
NO_SEMIRINGS = {"None": None, "text": "min_plus", "function": jnp.minimum, "matrix": A}
NO_INDICES = {
    "None": None,
    "text": "ab",
    "floats": [0.0, 1.0],
    "bools": [True, False],
    "outside": [0, 3],
    "negative": [0, -1],
    "short": [0],
    "table": [[0, 1]],
    "ragged": [[0], [0, 1]],
    "huge": [0, 2**70],
}
NO_SHAPES = {
    "None": None,
    "number": 3,
    "text": "33",
    "floats": (3.0, 3.0),
    "three": (3, 3, 3),
    "negative": (3, -1),
    "huge": (3, 2**31),
    "bools": (True, True),
}
NO_ZEROS = NO_NUMBERS | {"vector": X, "unfit": 1j, "overflow": 1e39}
NO_FLAGS = {"one": 1, "None": None, "text": "yes"}
NO_FUNCTIONS = {"number": 1, "text": "add"}
NO_PLANS = {"text": "plan", "matrix": A, "other": algebra.plan_matmul(WIDE, WIDE.T)}
NO_MASKS = NO_ARRAYS | {"floats": X, "short": jnp.ones(2, bool)}


class _Graph:
    def __init__(self, edges=(("a", "b", "data"),)):
        self.listed = edges

    def order(self):
        return ("a", "b", "c")

    def edges(self):
        return self.listed


GRAPHS = {
    "None": None,
    "matrix": A,
    "edges": [("a", "b")],
    "stranger": _Graph([("a", "x", "data")]),
}
WEIGHTS = NO_NUMBERS | {"vector": X, "vectors": lambda *edge: X, "nothing": lambda *edge: None}
WEIGHTS.pop("function")
make = algebra.SparseMatrix
COO = {"row": [0, 1], "col": [1, 2], "data": [1.0, 2.0], "shape": (3, 3), "dtype": None,
       "combine": None}  # fmt: skip
CSR = {"indptr": [0, 1, 2, 2], "indices": [1, 2], "data": [1.0, 2.0], "shape": (3, 3),
       "dtype": None, "combine": None}  # fmt: skip
NO_DATA = NO_NUMBERS | {"three": [1.0, 2.0, 3.0], "wide": np.zeros(2)}
OTHERS = {k: v for k, v in NO_SEMIRINGS.items() if v is not None}

# The call, arguments that are right, and for each what is not.
CALLS = {
    "best_paths": (
        algebra.best_paths,
        {"semiring": s, "A": A, "source": 0},
        {
            "semiring": NO_SEMIRINGS
            | {"not selective": algebra.plus_times, "other dtype": algebra.lor_land},
            "A": NO_GRAPHS,
            "source": NO_SOURCES,
        },
    ),
    **{
        name: (
            getattr(algebra, name),
            {"A": A, "source": 0},
            {"A": NO_GRAPHS, "source": NO_SOURCES},
        )
        for name in ("shortest_paths", "longest_paths", "widest_paths", "reachable")
    },
    "k_hop": (
        algebra.k_hop,
        {"A": A, "source": 0, "k": 1},
        {"A": NO_GRAPHS, "source": NO_SOURCES, "k": NO_INTEGERS},
    ),
    "path_counts": (
        algebra.path_counts,
        {"A": A, "source": 0, "dtype": "uint32"},
        {
            "A": NO_GRAPHS,
            "source": NO_SOURCES,
            "dtype": NO_DTYPES | {"None": None, "signed": "int32", "long": "uint64"},
        },
    ),
    "plan_matmul": (
        algebra.plan_matmul,
        {"A": A, "B": A, "mask": None},
        {
            "A": {k: v for k, v in NO_GRAPHS.items() if k != "rectangle"},
            "B": NO_GRAPHS,
            "mask": {k: v for k, v in NO_GRAPHS.items() if v is not None},
        },
    ),
    "Semiring": (
        algebra.Semiring,
        {"name": "made", "add": jnp.minimum, "multiply": jnp.add, "zero": jnp.inf, "one": 0,
         "dtypes": ("float32",)},
        {
            "name": {"None": None, "number": 1},
            "add": NO_FUNCTIONS | {"None": None},
            "multiply": NO_FUNCTIONS | {"None": None},
            "zero": {"None": None, "text": "0", "array": X, "list": [0]},
            "one": {"None": None, "text": "0", "array": X, "list": [0]},
            "endless": {"text": "0", "array": X, "list": [0]},
            "dtypes": {
                "None": None,
                "text": "float32",
                "list": ["float32"],
                "types": (jnp.float32,),
                "unknown": ("float33",),
            },
            **dict.fromkeys(("idempotent", "selective", "commutative", "bounded"), NO_FLAGS),
            **dict.fromkeys(
                ("reduce", "product", "contains", "converges", "closure"), NO_FUNCTIONS
            ),
        },
    ),
    **{
        f"Semiring.{name}": (getattr(s, name), {"dtype": "float32"}, {"dtype": NOT_ITS_DTYPES})
        for name in ("zero_of", "one_of", "endless_of", "check_dtype")
    },
    "Semiring.check": (
        s.check,
        {"dtype": "float32", "values": jnp.ones(2)},
        {
            "dtype": NO_DTYPES,
            "values": {k: v for k, v in NO_NUMBERS.items() if v is not None}
            | {"matrix": jnp.ones((2, 2)), "integers": [1]},
        },
    ),
    **{
        f"Semiring.{name}": (
            getattr(s, name),
            {"xs": X, "axis": 0},
            {
                "xs": {k: v for k, v in NO_ARRAYS.items() if k != "long"} | {"scalar": 1.0},
                "axis": NO_INTEGERS | {"outside": 1, "huge": 2**70},
            },
        )
        for name in ("fold_add", "fold_mul", "accumulate")
    },
    "Semiring.star_of": (
        s.star_of,
        {"a": X},
        {"a": {k: v for k, v in NO_ARRAYS.items() if k != "long"}},
    ),
    "Semiring.vecmat": (
        s.vecmat,
        {"x": X, "A": A, "mask": None, "into": None},
        {
            "x": NO_ARRAYS | {"integers": jnp.zeros(3, jnp.int32), "matrix": A},
            "A": NO_MATRICES,
            "mask": {k: v for k, v in NO_MASKS.items() if v is not None},
            "into": {k: v for k, v in NO_ARRAYS.items() if v is not None},
        },
    ),
    "Semiring.matvec": (
        s.matvec,
        {"A": A, "x": X, "mask": None, "into": None},
        {
            "x": NO_ARRAYS | {"integers": jnp.zeros(3, jnp.int32), "matrix": A},
            "A": NO_MATRICES,
            "mask": {k: v for k, v in NO_MASKS.items() if v is not None},
            "into": {k: v for k, v in NO_ARRAYS.items() if v is not None},
        },
    ),
    "Semiring.matmul": (
        s.matmul,
        {"A": A, "B": A, "mask": None, "into": None, "plan": None},
        {
            "A": NO_MATRICES,
            "B": NO_MATRICES,
            "mask": {k: v for k, v in NO_MATRICES.items() if v is not None},
            "into": {"array": jnp.zeros((3, 3)), "text": "x"},
            "plan": NO_PLANS,
        },
    ),
    "Semiring.star": (s.star, {"A": A}, {"A": NO_MATRICES | {"rectangle": WIDE}}),
    "Semiring.power": (
        s.power,
        {"A": A, "exponent": 2},
        {"A": NO_MATRICES | {"rectangle": WIDE}, "exponent": NO_INTEGERS},
    ),
    "Semiring.eye": (
        s.eye,
        {"n": 2, "dtype": "float32"},
        {"n": NO_INTEGERS, "dtype": NO_DTYPES | {"None": None, "bool": "bool"}},
    ),
    "SparseMatrix.from_coo": (
        make.from_coo,
        COO,
        {
            "row": NO_INDICES,
            "col": NO_INDICES,
            "data": NO_DATA,
            "shape": NO_SHAPES,
            "dtype": NO_DTYPES,
            "combine": OTHERS,
        },
    ),
    "SparseMatrix.from_csr": (
        make.from_csr,
        CSR,
        {
            "indptr": NO_INDICES | {"descends": [0, 2, 1, 2], "early": [0, 1, 1, 1]},
            "indices": NO_INDICES,
            "data": NO_DATA,
            "shape": NO_SHAPES,
            "dtype": NO_DTYPES,
            "combine": OTHERS,
        },
    ),
    "SparseMatrix.from_scipy": (
        make.from_scipy,
        {"matrix": A.to_scipy(), "dtype": None},
        {
            "matrix": {"None": None, "array": X, "ours": A, "text": "x"},
            "dtype": NO_DTYPES,
        },
    ),
    "SparseMatrix.from_dense": (
        make.from_dense,
        {"matrix": np.ones((2, 2), np.float32), "zero": 0, "dtype": None},
        {
            "matrix": NO_NUMBERS | {"vector": X, "wide": np.ones((2, 2)), "ours": A},
            "zero": NO_ZEROS,
            "dtype": NO_DTYPES,
        },
    ),
    "SparseMatrix.from_graph": (
        make.from_graph,
        {"graph": _Graph(), "weight": 1.0, "dtype": None, "kinds": None, "combine": None},
        {
            "graph": GRAPHS,
            "weight": WEIGHTS,
            "dtype": NO_DTYPES,
            "kinds": {"text": "data", "number": 3},
            "combine": OTHERS,
        },
    ),
    "SparseMatrix.with_data": (A.with_data, {"data": jnp.ones(2)}, {"data": NO_DATA}),
    "SparseMatrix.map": (
        A.map,
        {"function": jnp.abs},
        {
            "function": {
                "None": None,
                "number": 1,
                "nothing": lambda data: None,
                "longer": lambda data: jnp.ones(3),
            }
        },
    ),
    "SparseMatrix.to_dense": (A.to_dense, {"zero": 0}, {"zero": NO_ZEROS}),
    **{
        f"SparseMatrix.{name}": (
            lambda matrix, name=name: getattr(matrix, name)(),
            {"matrix": A},
            {"matrix": {"batch": BATCH, "bfloat16": A.map(lambda x: x.astype(jnp.bfloat16))}}
            if name == "to_scipy"
            else {"matrix": {"batch": BATCH}},
        )
        for name in ("to_coo", "to_scipy")
    },
}  # fmt: skip
CASES = [
    pytest.param(call, given | {name: value}, id=f"{label}-{name}-{kind}")
    for label, (call, given, bad) in CALLS.items()
    for name, kinds in bad.items()
    for kind, value in kinds.items()
]


@pytest.mark.parametrize("label", CALLS)
def test_call_with_what_is_right_is_not_refused(label):
    call, given, bad = CALLS[label]
    call(**given)
    assert set(bad) - set(given) <= set(algebra.Semiring.__dataclass_fields__)


@pytest.mark.parametrize(("call", "given"), CASES)
@pytest.mark.filterwarnings("error")
def test_call_with_a_bad_argument_raises_an_error_of_the_library(call, given):
    with pytest.raises(mmsb.StructureError, match=SAYS_WHAT_TO_DO) as caught:
        call(**given)
    assert str(caught.traceback[-1].path).startswith(PACKAGE)


def test_table_has_every_public_call():
    calls = {name for name in algebra.__all__ if callable(getattr(algebra, name))}
    calls -= {"LawError", "ProductPlan", "SparseMatrix", *(i.name for i in _instances())}
    for owner in (algebra.Semiring, algebra.SparseMatrix):
        fields = owner.__dataclass_fields__
        ours = [each for each in owner.__mro__ if each.__module__.startswith("mmsb_jax")]
        calls |= {
            f"{owner.__name__}.{name}"
            for each in ours
            for name, value in vars(each).items()
            if not name.startswith("_") and name not in fields and not isinstance(value, property)
        }
    # These take no argument.
    calls -= {f"SparseMatrix.{name}" for name in ("transpose", "into_columns", "into_rows")}
    assert calls == set(CALLS)


def _instances():
    return [value for value in vars(algebra).values() if isinstance(value, algebra.Semiring)]


# -- tracers -------------------------------------------------------------------------------------

TRACED = {
    "from_coo row": lambda t: make.from_coo(t, [1, 2, 0], 1.0, (3, 3)),
    "from_coo data": lambda t: make.from_coo([0, 1, 2], [1, 2, 0], t, (3, 3)),
    "from_coo list": lambda t: make.from_coo([0, 1], [1, 2], [t[0], t[1]], (3, 3)),
    "from_csr": lambda t: make.from_csr(t, [1, 2], 1.0, (2, 3)),
    "from_dense": lambda t: make.from_dense(jnp.stack([t, t]), 0),
    "from_graph": lambda t: make.from_graph(_Graph(), lambda *edge: t[0]),
    "to_coo": lambda t: A.with_data(t[:2]).to_coo(),
    "to_scipy": lambda t: A.with_data(t[:2]).to_scipy(),
    "plan_matmul": lambda t: algebra.plan_matmul(A.with_data(t[:2]), A),
    "matmul": lambda t: s.matmul(A.with_data(t[:2]), A),
    "list of them": lambda t: s.fold_add([t[0], t[1]]),
    "axis": lambda t: s.fold_add(X, t[0].astype(int)),
    "exponent": lambda t: s.power(A, t[0].astype(int)),
    "n of eye": lambda t: s.eye(t[0].astype(int), "float32"),
    "shape": lambda t: make.from_coo([], [], [], (t[0].astype(int), 3)),
    "source of floats": lambda t: algebra.shortest_paths(A, t[0]),
    "sources": lambda t: algebra.shortest_paths(A, t.astype(int)),
    "bool source": lambda t: algebra.path_counts(A, t[0] > 0),
    "list of sources": lambda t: algebra.reachable(A, [t[0].astype(int)]),
    "k of floats": lambda t: algebra.k_hop(A, 0, t[0]),
    "ks": lambda t: algebra.k_hop(A, 0, t.astype(int)),
    "zero of another dtype": lambda t: A.to_dense(t[0].astype(int)),
    "zeros": lambda t: A.to_dense(t),
}


SAYS_WHY = r"traced|under a transformation|outside of (jit|it)|one integer was expected"


@pytest.mark.parametrize("name", TRACED)
def test_traced_argument_where_none_can_be_is_refused(name):
    for transformed in (jax.jit, jax.vmap):
        with pytest.raises(mmsb.StructureError, match=SAYS_WHY):
            transformed(TRACED[name])(jnp.ones(3) if transformed is jax.jit else jnp.ones((2, 3)))


def test_what_is_not_traced_is_read_while_a_program_is():
    dense = A.to_dense(s)

    kept = []

    def program(x):
        # All of it is known when the program is made.
        plan = algebra.plan_matmul(A, A)
        made = make.from_coo([0, 0], [1, 1], [3.0, 2.0], (3, 3), combine=s)
        kept.append((plan, made))
        entries = sum(A.to_coo()[2].tolist()) + made.to_coo()[2].item()
        return (
            x + entries,
            s.matmul(A, A, plan=plan).data,
            s.matmul(A, A).data,
            s.star(dense),
            algebra.shortest_paths(A, 0),
            algebra.shortest_paths(made, 0, predecessors=True),
            algebra.path_counts(A, 0),
            algebra.k_hop(A, 0, 1),
        )

    expected = program(1.0)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(program)(1.0), expected)
    # Nothing that was made holds on to the program.
    jax.tree.map(np.testing.assert_array_equal, kept[1], kept[0])
    lanes = jax.vmap(program)(jnp.ones(2))
    jax.tree.map(lambda lane, one: np.testing.assert_array_equal(lane[1], one), lanes, expected)
