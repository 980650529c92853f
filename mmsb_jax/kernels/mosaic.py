"""The kernels for NVIDIA GPUs, in Pallas for Mosaic GPU (JAX 0.11 and later; Ampere and later).

Each computes what the function of its name in `xla` does, one program a tile or a line. What is
donated is written in place. ``interpret`` runs them on a CPU, slowly.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from mmsb_jax.kernels import xla
from mmsb_jax.kernels.xla import LINE_WORDS, TILE_LINES, Counts, Lines, Words

# Vectors of Mosaic are multiples of 128 elements, and a line has 32 words. So a tile of 64 lines is
# read in the layout of a matrix product, whose rows can be summed; a single line is held by each of
# the four warps.
_TILE = plgpu.Layout.WGMMA
_COLUMN = _TILE.reduce(1)
_LINE = plgpu.Layout.TILED(
    plgpu.Tiling(((32,), (1,))),
    warp_dims=(plgpu.Replicated(4),),
    lane_dims=(-2,),
    vector_dim=-1,
)


def scan(
    shadow: Lines, new: Lines, first: Counts, *, interpret: Any = None
) -> tuple[Lines, Words, Counts]:
    """See `mmsb_jax.kernels.scan`; the lines behind the last whole tile are left to XLA."""
    whole = new.shape[0] // TILE_LINES * TILE_LINES
    if not whole:
        return xla.scan(shadow, new, first)
    shadow, bits, counts = _scan_tiles(shadow, new[:whole], first, interpret)
    if whole == new.shape[0]:
        return shadow, bits, counts
    shadow, *rest = xla.scan(shadow, new[whole:], first + whole)
    return shadow, jnp.concatenate([bits, rest[0]]), jnp.concatenate([counts, rest[1]])


def _scan_tiles(
    shadow: Lines, new: Lines, first: Counts, interpret: Any
) -> tuple[Lines, Words, Counts]:
    lines = new.shape[0]

    def mmsb_scan(new: Any, first: Any, shadow: Any, bits: Any, counts: Any) -> None:
        tile = lax.axis_index("tile")
        source = pl.ds(tile * TILE_LINES, TILE_LINES)
        place = pl.ds(first[0] + tile * TILE_LINES, TILE_LINES)
        after, before = _load(new.at[source, :], _TILE), _load(shadow.at[place, :], _TILE)
        differs = jnp.where(before != after, jnp.int32(1), jnp.int32(0))
        bits[source] = jnp.sum(differs << _columns(jnp.int32), axis=1)
        count = jnp.sum(jnp.sum(differs, axis=1))
        counts[tile] = count

        @pl.when(count > 0)
        def _() -> None:
            shadow[place, :] = after

    held = jax.new_ref(shadow)
    bits, counts = plgpu.kernel(
        mmsb_scan,
        out_type=[_out(lines), _out(lines // TILE_LINES)],
        grid=(lines // TILE_LINES,),
        grid_names=("tile",),
        interpret=interpret,
    )(new, first, held)
    return held[...], lax.bitcast_convert_type(bits, jnp.uint32), counts


def fold(
    pool: Array, rows: Counts, starts: Counts, data: Array, mask: Array, *, interpret: Any = None
) -> tuple[Array, Counts]:
    """See `mmsb_jax.kernels.fold`; one program a line that is written, in one launch."""
    segments, width = rows.shape[0], pool.shape[1]
    layout = _LINE if width == LINE_WORDS else plgpu.Layout.WG_STRIDED((width,), vec_size=1)

    def mmsb_fold(rows: Any, starts: Any, data: Any, mask: Any, pool: Any, last: Any) -> None:
        number = lax.axis_index("segment")
        row = rows[number]
        is_there = (row >= 0) & (row < pool.shape[0])

        @pl.when(is_there)
        def _() -> None:
            def merge(entry: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
                line, newest = state
                written = _load(mask.at[entry], layout)
                after = (line & ~written) | (_load(data.at[entry], layout) & written)
                return after, jnp.where(after != line, entry, newest)

            line = _load(pool.at[row], layout)
            never = plgpu.layout_cast(jnp.full(width, -1, jnp.int32), layout)
            pool[row, :], last[number, :] = lax.fori_loop(
                starts[number], starts[number + 1], merge, (line, never)
            )

    held = jax.new_ref(pool)
    last = plgpu.kernel(
        mmsb_fold,
        out_type=jax.ShapeDtypeStruct((segments, width), jnp.int32),
        grid=(segments,),
        grid_names=("segment",),
        interpret=interpret,
    )(rows, starts, data, mask, held)
    is_there = (rows >= 0) & (rows < pool.shape[0])
    return held[...], jnp.where(is_there, last.max(1), -1)


def digest_lines(
    lines: Lines, first: Words, second: Words, seed: Words, *, interpret: Any = None
) -> tuple[Words, Words, Counts, Counts]:
    """See `mmsb_jax.kernels.digest_lines`; the lines behind the last whole tile go to XLA."""
    whole = lines.shape[0] // TILE_LINES * TILE_LINES
    if not whole:
        return xla.digest_lines(lines, first, second, seed)
    if whole == lines.shape[0]:
        return _digest_tiles(lines, first, second, seed, interpret)
    parts = (
        _digest_tiles(lines[:whole], first[:whole], second[:whole], seed, interpret),
        xla.digest_lines(lines[whole:], first[whole:], second[whole:], seed),
    )
    one, other, flags, counts = (jnp.concatenate(pair) for pair in zip(*parts, strict=True))
    return one, other, flags, counts


def _digest_tiles(
    lines: Lines, first: Words, second: Words, seed: Words, interpret: Any
) -> tuple[Words, Words, Counts, Counts]:
    count = lines.shape[0]

    def mmsb_digest(
        lines: Any, seed: Any, first: Any, second: Any, flags: Any, counts: Any
    ) -> None:
        tile = lax.axis_index("tile")
        place = pl.ds(tile * TILE_LINES, TILE_LINES)
        words = _load(lines.at[place, :], _TILE)
        one, other = xla.lanes(words, _columns(jnp.uint32), seed[0], seed[1])
        differs = (one != _load(first.at[place], _COLUMN)) | (
            other != _load(second.at[place], _COLUMN)
        )
        flag = jnp.where(differs, jnp.int32(1), jnp.int32(0))
        total = jnp.sum(flag)
        flags[place] = flag
        counts[tile] = total

        @pl.when(total > 0)
        def _() -> None:
            first[place] = one
            second[place] = other

    held = jax.new_ref(first), jax.new_ref(second)
    flags, counts = plgpu.kernel(
        mmsb_digest,
        out_type=[_out(count), _out(count // TILE_LINES)],
        grid=(count // TILE_LINES,),
        grid_names=("tile",),
        interpret=interpret,
    )(lines, seed, *held)
    return held[0][...], held[1][...], flags, counts


def _columns(dtype: Any) -> Array:
    """The column of each word of a tile."""
    shape = TILE_LINES, LINE_WORDS
    return plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=_TILE).astype(dtype)


def _load(ref: Any, layout: Any) -> Array:
    # Tiles are smaller than the vectorised form of a load asks for.
    return plgpu.load(ref, layout=layout, optimized=False)  # pyright: ignore[reportCallIssue]


def _out(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), jnp.int32)
