"""Page by page: a function that works element by element, computed only where something changed.

An array is cut into rows of as many elements as a page has words. The rows that changed are
gathered, go through one compiled body of one row, and are put back: the cost is what changed,
however large the array, and a row has the same bytes whichever others run with it.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import RecomputeError
from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._compile.body import Body, Traced, equations_of, text_of
from mmsb_jax._compile.program import program_of
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._core.tree.words import from_words, to_words

ROW_ELEMENTS = 1024

# fmt: off
_ELEMENTWISE = frozenset(
    {
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2",
        "atanh", "bitcast_convert_type", "cbrt", "ceil", "clamp", "clz", "complex", "conj",
        "convert_element_type", "copy", "copy_p", "cos", "cosh", "custom_jvp_call",
        "custom_vjp_call", "custom_vjp_call_jaxpr", "digamma", "div", "eq", "erf", "erf_inv",
        "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "imag",
        "integer_pow", "is_finite", "jit", "le", "lgamma", "log", "log1p", "logistic", "lt",
        "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "pjit", "polygamma",
        "population_count", "pow", "real", "reduce_precision", "rem", "round", "rsqrt",
        "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign",
        "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor",
    }
)
# fmt: on
"""Primitives that make each element from the elements at the same place."""


@dataclass(frozen=True, slots=True)
class ChangedRows:
    """Some rows of an array: what a node computed of it.

    Attributes:
        old: the words of the array before.
        row_words: words of a row.
        rows: which, ascending.
        values: their words (uint32[rows, row_words]); the last row of an array may be longer than
            what is left of the array.
    """

    old: np.ndarray
    row_words: int
    rows: np.ndarray
    values: np.ndarray

    def changes(self) -> tuple[np.ndarray, np.ndarray]:
        """The words that differ: their places (int64[n], ascending) and their values."""
        places = (self.rows[:, None] * self.row_words + np.arange(self.row_words)).reshape(-1)
        values = self.values.reshape(-1)
        inside = np.searchsorted(places, self.old.size)
        places, values = places[:inside], values[:inside]
        differ = self.old[places] != values
        return places[differ], values[differ]

    def words(self) -> np.ndarray:
        """All words of the array after."""
        words = self.old.copy()
        places, values = self.changes()
        words[places] = values
        return words


def row_word_count(spec: LeafSpec) -> int:
    """Words of a row of an array."""
    return ROW_ELEMENTS * parse_dtype(spec.dtype).itemsize // 4


def is_whole(spec: LeafSpec) -> bool:
    """Whether an input is one number for all elements."""
    return spec.shape == ()


def row_specs(title: str, body: Body) -> list[LeafSpec]:
    """What the arguments of one row are, for a function that was traced over whole arrays."""
    strange = sorted({eqn.primitive.name for eqn in equations_of(body.jaxpr) if _mixes(eqn)})
    shapes = {spec.shape for spec in (*body.inputs, *body.outputs) if not is_whole(spec)}
    consts = [spec for spec in body.hoisted if spec.shape != ()]
    reads_none = all(map(is_whole, body.inputs))
    if strange or consts or reads_none or len(shapes) != 1 or any(map(is_whole, body.outputs)):
        why = (
            f"it uses {', '.join(strange)}"
            if strange
            else f"it closes over an array of shape {consts[0].shape}"
            if consts
            else "it reads no array"
            if reads_none
            else f"its arrays have the shapes {', '.join(map(str, sorted(shapes)))}"
        )
        raise RecomputeError(
            f"{title} does not work element by element, as pagewise=True says: {why}. Expected "
            f"arrays of one shape, numbers, and operations such as +, *, where, tanh. Leave "
            f"pagewise out."
        )
    rows = (ROW_ELEMENTS,)
    return [spec if is_whole(spec) else LeafSpec("jax", spec.dtype, rows) for spec in body.inputs]


def _mixes(eqn: Any) -> bool:
    """Whether an equation makes an element from elements at other places."""
    if eqn.primitive.name == "broadcast_in_dim":
        return eqn.invars[0].aval.shape != ()
    return eqn.primitive.name not in _ELEMENTWISE


_SHAPE = re.compile(r"\[[0-9,]*\]|shape=\([0-9, ]*\)")


def check_shapeless(title: str, whole: Traced, row: Traced) -> None:
    """Refuse a function that does something else where the shape is another."""
    texts = [_SHAPE.sub("", text_of(traced.body.jaxpr)) for traced in (whole, row)]
    constants = [[np.asarray(c).tobytes() for c in t.constants] for t in (whole, row)]
    if texts[0] != texts[1] or constants[0] != constants[1]:
        raise RecomputeError(
            f"{title} depends on the shape of its inputs, which pagewise=True does not allow: it "
            f"sees {ROW_ELEMENTS} elements at a time. Leave pagewise out, or write the number in."
        )


def capacity_of(rows: np.ndarray) -> int:
    """For how many rows a program is compiled that computes ``rows``."""
    capacity = 4
    while capacity < rows.size:
        capacity *= 4
    return capacity


class PagewiseRunner:
    """One body of a row, compiled for few numbers of rows.

    Cost: compiled once a power of four of rows; then the bytes of the rows that run.

    Attributes:
        compile_time: what compiling it has taken.
        capacities: the numbers of rows that it was compiled for.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._program = program_of(_run, body, [body], is_wide=True)
        self.compile_time = self._program.compile_time
        self.capacities: set[int] = set()

    def run(
        self,
        arguments: Sequence[np.ndarray],
        constants: Sequence[Any],
        old: Sequence[np.ndarray],
        sizes: Sequence[int],
        rows: np.ndarray,
    ) -> list[ChangedRows]:
        """Compute some rows.

        Args:
            arguments: the words of each input, whole.
            constants: those of the body.
            old: the words of each result before.
            sizes: bytes of each result.
            rows: which rows, ascending.
        """
        capacity = capacity_of(rows)
        self.capacities.add(capacity)
        gathered = [
            words if is_whole(spec) else _gather(words, row_word_count(spec), rows, capacity)
            for words, spec in zip(arguments, self._body.inputs, strict=True)
        ]
        made = self._program.on_host(np.int32(rows.size), list(constants), gathered)
        return [
            _changed_rows(words, size, rows, out[: rows.size])
            for words, size, out in zip(old, sizes, made, strict=True)
        ]


def _changed_rows(old: np.ndarray, size: int, rows: np.ndarray, values: np.ndarray) -> ChangedRows:
    """``values`` as the rows of an array of ``size`` bytes; what lies behind its end is zero."""
    row_words = values.shape[1]
    row, word = divmod(old.size - 1, row_words)
    if size % WORD_BYTES and rows.size and rows[-1] == row:
        values = values.copy()
        values[-1, word] &= (1 << 8 * (size % WORD_BYTES)) - 1
    return ChangedRows(old, row_words, rows, values)


def _gather(words: np.ndarray, row_words: int, rows: np.ndarray, capacity: int) -> np.ndarray:
    """Rows of an array, the last one filled with zeros (uint32[capacity, row_words])."""
    out = np.zeros((capacity, row_words), np.uint32)
    whole = words.size // row_words
    inside = int(np.searchsorted(rows, whole))
    out[:inside] = words[: whole * row_words].reshape(-1, row_words)[rows[:inside]]
    if inside < rows.size:
        rest = words[whole * row_words :]
        out[inside, : rest.size] = rest
    return out


def call_by_rows(body: Body, hoisted: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """What ``body`` gives for all rows of whole arrays, one after another; pure, to be traced."""
    shape = next(x.shape for x in arguments if x.shape != ())
    size = math.prod(shape)
    count = -(-size // ROW_ELEMENTS)

    def cut(array: Any) -> Any:
        flat = jnp.pad(array.reshape(-1), (0, count * ROW_ELEMENTS - size))
        return flat.reshape(count, ROW_ELEMENTS)

    def step(_: Any, rows: Sequence[Any]) -> Any:
        given = iter(rows)
        row = [x if is_whole(spec) else next(given) for x, spec in paired]
        return None, body.call(hoisted, row)

    paired = list(zip(arguments, body.inputs, strict=True))
    _, made = lax.scan(step, None, [cut(x) for x, spec in paired if not is_whole(spec)])
    return [rows.reshape(-1)[:size].reshape(shape) for rows in made]


def _run(body: Body, count: Any, hoisted: Any, arguments: Any) -> Any:
    arrays = zip(arguments, body.inputs, strict=True)
    capacity = next(words.shape[0] for words, spec in arrays if not is_whole(spec))

    def step(i: Any, outputs: Any) -> Any:
        row = [
            from_words(
                words if is_whole(spec) else lax.dynamic_index_in_dim(words, i, keepdims=False),
                spec,
            )
            for words, spec in zip(arguments, body.inputs, strict=True)
        ]
        made = body.call(hoisted, row)
        return [
            lax.dynamic_update_index_in_dim(out, to_words(value), i, 0)
            for out, value in zip(outputs, made, strict=True)
        ]

    empty = [jnp.zeros((capacity, row_word_count(spec)), jnp.uint32) for spec in body.outputs]
    return lax.fori_loop(np.int32(0), count, step, empty)


def rows_of(
    specs: Sequence[LeafSpec],
    names: Sequence[str],
    changed: Collection[str] | None,
    changed_words: Callable[[str], np.ndarray],
) -> np.ndarray:
    """The rows to compute: those with a changed word in an input.

    Args:
        specs: the inputs.
        names: their arrays.
        changed: those that changed; None computes everything.
        changed_words: which words of an array changed, ascending.
    """
    inputs = list(zip(names, specs, strict=True))
    size = max(int(np.prod(spec.shape, dtype=np.int64)) for _, spec in inputs)
    if changed is None or any(is_whole(spec) and name in changed for name, spec in inputs):
        return np.arange(-(-size // ROW_ELEMENTS))
    found: Iterable[np.ndarray] = (
        changed_words(name) // row_word_count(spec)
        for name, spec in dict(inputs).items()
        if name in changed
    )
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))
