"""The operations, with what they take and give."""

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int32, UInt32

from mmsb_jax.kernels import xla
from mmsb_jax.kernels.dispatch import Implementation, Kernel
from mmsb_jax.kernels.xla import LINE_WORDS, TILE_LINES, Counts, Lines, Words

__all__ = ["LINE_WORDS", "TILE_LINES", "digest_lines", "fold", "scan"]


def scan(
    shadow: Lines, new: Lines, first: Any = 0, *, implementation: Implementation = None
) -> tuple[Lines, Words, Counts]:
    """Compare lines with those of a shadow, and bring the shadow up to them.

    Args:
        shadow: ``uint32[n, 32]``: the lines before; written in place where it is donated.
        new: ``uint32[m, 32]``: those that ``m`` of them have become.
        first: which line of the shadow is the first of these, an integer; at most ``n - m``.
        implementation: which form; see `mmsb_jax.kernels`.

    Returns:
        The shadow after; ``uint32[m]``, bit ``k`` of each set where word ``k`` of the line differs;
        and ``int32[ceil(m / 64)]``, how many words of each tile of 64 lines differ.

    Raises:
        KernelUnavailableError: the kernel was asked for by name, and cannot be had.

    Cost: reads both, and writes the lines of tiles with a difference (the kernel), or all (XLA).

    >>> import jax.numpy as jnp
    >>> from mmsb_jax.kernels import scan
    >>> shadow = jnp.zeros((64, 32), jnp.uint32)
    >>> shadow, bits, counts = scan(shadow, shadow.at[3, 5].set(7))
    >>> int(bits[3]), counts.tolist(), int(shadow[3, 5])
    (32, [1], 7)
    """
    _check_lines("shadow", shadow)
    _check_lines("new", new)
    if new.shape[0] > shadow.shape[0]:
        raise ValueError(f"{new.shape[0]} lines for a shadow of {shadow.shape[0]}")
    _check_first(first, shadow.shape[0] - new.shape[0])
    if not new.shape[0]:
        return shadow, jnp.zeros(0, jnp.uint32), jnp.zeros(0, jnp.int32)
    return _scan(implementation, shadow, new, jnp.asarray(first, jnp.int32).reshape(1))


def fold(
    pool: UInt32[Array, "n w"],
    rows: Int32[Array, " s"],
    starts: Int32[Array, " s+1"],
    data: UInt32[Array, "m w"],
    mask: UInt32[Array, "m w"],
    *,
    implementation: Implementation = None,
) -> tuple[UInt32[Array, "n w"], Int32[Array, " s"]]:
    """Write the entries of a log into their lines: the last writer of each byte stays.

    Args:
        pool: ``uint32[n, w]``: the lines; written in place where they are donated.
        rows: ``int32[s]``: which lines are written, ascending, each once; from ``n`` on, none is.
        starts: ``int32[s + 1]``: where the entries of each begin, and where the last one's end.
        data: ``uint32[m, w]``: what the entries write, those of a line in their order.
        mask: ``uint32[m, w]``: ``0xFF`` at each byte that is written.
        implementation: which form; see `mmsb_jax.kernels`. The kernel takes lines of 32 words, or
            of a multiple of 128.

    Returns:
        The pool after; and ``int32[s]``, the last entry of each line that changed a byte, -1 for
        none.

    Raises:
        KernelUnavailableError: the kernel was asked for by name, and cannot be had.

    Cost: the bytes of the entries. XLA makes a round for each entry of the line with the most.

    >>> import jax.numpy as jnp
    >>> from mmsb_jax.kernels import fold
    >>> pool = jnp.zeros((4, 32), jnp.uint32)
    >>> data = jnp.stack([jnp.full(32, k, jnp.uint32) for k in (1, 2, 3)])
    >>> mask = jnp.full((3, 32), 0xFFFFFFFF, jnp.uint32)
    >>> pool, last = fold(pool, jnp.array([1, 2]), jnp.array([0, 2, 3]), data, mask)
    >>> pool[:, 0].tolist(), last.tolist()
    ([0, 2, 3, 0], [1, 2])
    """
    for name, value, dtype in (
        ("pool", pool, "uint32"),
        ("rows", rows, "int32"),
        ("starts", starts, "int32"),
        ("data", data, "uint32"),
        ("mask", mask, "uint32"),
    ):
        _check_array(name, value, dtype)
    entries = (data.shape[0], pool.shape[-1])
    if starts.shape != (rows.shape[0] + 1,) or not data.shape == mask.shape == entries:
        raise ValueError(
            f"rows {list(rows.shape)}, starts {list(starts.shape)}, data {list(data.shape)}, mask "
            f"{list(mask.shape)} of a pool of {list(pool.shape)}: expected one start more than "
            f"rows, and data and mask of one shape, of lines as wide as the pool's"
        )
    if not (rows.shape[0] and data.shape[0] and pool.size):
        return pool, jnp.full(rows.shape, -1, jnp.int32)
    return _fold(implementation, pool, rows, starts, data, mask)


def digest_lines(
    lines: Lines,
    first: Words,
    second: Words,
    seed: UInt32[Array, "2"],
    *,
    implementation: Implementation = None,
) -> tuple[Words, Words, Counts, Counts]:
    """Digest lines, and compare with the digests before.

    Args:
        lines: ``uint32[n, 32]``.
        first, second: ``uint32[n]``: the two lanes of each line before; written in place where they
            are donated.
        seed: ``uint32[2]``: other seeds give other lanes.
        implementation: which form; see `mmsb_jax.kernels`.

    Returns:
        The lanes of each line now; ``int32[n]``, 1 where they differ from those before; and
        ``int32[ceil(n / 64)]``, such lines of each tile of 64. A line of which one word changed
        always differs; of those with more changes one in 2⁶⁴ does not.

    Raises:
        KernelUnavailableError: the kernel was asked for by name, and cannot be had.

    Cost: reads the lines, and 12 bytes for each; their arithmetic takes longer than that on a GPU.

    >>> import jax.numpy as jnp
    >>> from mmsb_jax.kernels import digest_lines
    >>> none, seed = jnp.zeros(64, jnp.uint32), jnp.array([1, 2], jnp.uint32)
    >>> lines = jnp.zeros((64, 32), jnp.uint32)
    >>> first, second, *_ = digest_lines(lines, none, none, seed)
    >>> _, _, differs, counts = digest_lines(lines.at[3, 5].set(7), first, second, seed)
    >>> differs.nonzero()[0].tolist(), counts.tolist()
    ([3], [1])
    """
    _check_lines("lines", lines)
    for name, value, shape in (
        ("first", first, lines.shape[:1]),
        ("second", second, lines.shape[:1]),
        ("seed", seed, (2,)),
    ):
        _check_array(name, value, "uint32")
        if value.shape != shape:
            raise ValueError(f"{name} is uint32{list(value.shape)}: expected uint32{list(shape)}")
    if not lines.shape[0]:
        return first, second, jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32)
    return _digest_lines(implementation, lines, first, second, seed)


def _check_array(name: str, value: Any, dtype: str) -> None:
    found = getattr(value, "dtype", type(value).__name__)
    if found != dtype or not hasattr(value, "shape"):
        raise TypeError(f"{name} is {found}: expected an array of {dtype}")


def _check_first(first: Any, most: int) -> None:
    dtype = getattr(first, "dtype", None)
    is_one = isinstance(first, int) or (
        dtype is not None and jnp.issubdtype(dtype, jnp.integer) and first.size == 1
    )
    if isinstance(first, bool) or not is_one:
        raise TypeError(f"first={first!r}: expected the number of a line, one integer")
    if not isinstance(first, Tracer) and not 0 <= int(first) <= most:
        raise ValueError(f"first={int(first)}: expected 0 to {most}, so that all lines are inside")


def _check_lines(name: str, lines: Any) -> None:
    _check_array(name, lines, "uint32")
    if lines.ndim != 2 or lines.shape[1] != LINE_WORDS or lines.dtype != jnp.uint32:
        raise ValueError(
            f"{name} is {lines.dtype}{list(lines.shape)}: expected uint32[n, {LINE_WORDS}]"
        )


def _fits(*operands: Any) -> str:
    del operands
    return ""


def _fold_misfit(pool: Any, *rest: Any) -> str:
    del rest
    width = pool.shape[1]
    if width == LINE_WORDS or (width and width % 128 == 0):
        return ""
    return f"lines have {width} words, and it takes {LINE_WORDS}, or a multiple of 128"


_scan = Kernel("scan", xla.scan, _fits)
_fold = Kernel("fold", xla.fold, _fold_misfit)
_digest_lines = Kernel("digest_lines", xla.digest_lines, _fits)
