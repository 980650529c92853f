"""Kernels for Mosaic GPU (JAX 0.11 and later; Ampere and later), one program a tile or a line.

Each computes what the function of its name in `benchmarks._gpu_reference` says. ``interpret`` runs
them on a CPU, slowly. Shadows, lanes and pools are written in place where they are donated.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from benchmarks._gpu_reference import (
    GOLDEN,
    LINE_WORDS,
    SALT,
    TILE_LINES,
    Counts,
    Lines,
    Words,
    mix,
)

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
    shadow: Lines,
    new: Lines,
    first: Counts | None = None,
    *,
    tile_lines: int = TILE_LINES,
    interpret: Any = None,
) -> tuple[Lines, Words, Counts]:
    """(shadow after, bits, counts): ``new`` is compared with, and written to, its lines.

    Args:
        shadow: the lines before.
        new: as many, or fewer: a multiple of ``tile_lines``.
        first: ``int32[1]``: line of the shadow that ``new`` begins at.
        tile_lines: lines of a program, a multiple of 64; a count each.
        interpret: parameters of the interpreter; None compiles.
    """
    lines = new.shape[0]
    first = jnp.zeros(1, jnp.int32) if first is None else first

    def scan_tile(new: Any, first: Any, shadow: Any, bits: Any, counts: Any) -> None:
        tile = lax.axis_index("tile")
        source = pl.ds(tile * tile_lines, tile_lines)
        place = pl.ds(first[0] + tile * tile_lines, tile_lines)
        after, before = _load(new.at[source, :], _TILE), _load(shadow.at[place, :], _TILE)
        column = plgpu.broadcasted_iota(jnp.int32, (tile_lines, LINE_WORDS), 1, layout=_TILE)
        differs = jnp.where(before != after, jnp.int32(1), jnp.int32(0))
        bits[source] = jnp.sum(differs << column, axis=1)
        count = jnp.sum(jnp.sum(differs, axis=1))
        counts[tile] = count

        @pl.when(count > 0)
        def _() -> None:
            shadow[place, :] = after

    held = jax.new_ref(shadow)
    bits, counts = plgpu.kernel(
        scan_tile,
        out_type=[_out(lines), _out(lines // tile_lines)],
        grid=(lines // tile_lines,),
        grid_names=("tile",),
        interpret=interpret,
    )(new, first, held)
    return held[...], lax.bitcast_convert_type(bits, jnp.uint32), counts


def digest_update(
    new: Lines, first: Words, second: Words, *, interpret: Any = None
) -> tuple[Words, Words, Counts, Counts]:
    """(lanes after, flags, counts): lanes are written in tiles where one differs."""
    lines = new.shape[0]

    def digest_tile(new: Any, first: Any, second: Any, flags: Any, counts: Any) -> None:
        tile = lax.axis_index("tile")
        place = pl.ds(tile * TILE_LINES, TILE_LINES)
        words = _load(new.at[place, :], _TILE)
        column = plgpu.broadcasted_iota(jnp.int32, (TILE_LINES, LINE_WORDS), 1, layout=_TILE)
        key = mix(column.astype(jnp.uint32) + jnp.uint32(GOLDEN))
        one = jnp.sum(mix(words ^ key), axis=1, dtype=jnp.uint32)
        other = jnp.sum(mix((words + key) ^ jnp.uint32(SALT)), axis=1, dtype=jnp.uint32)
        differs = (one != _load(first.at[place], _COLUMN)) | (
            other != _load(second.at[place], _COLUMN)
        )
        flag = jnp.where(differs, jnp.int32(1), jnp.int32(0))
        count = jnp.sum(flag)
        flags[place] = flag
        counts[tile] = count

        @pl.when(count > 0)
        def _() -> None:
            first[place] = one
            second[place] = other

    held = jax.new_ref(first), jax.new_ref(second)
    flags, counts = plgpu.kernel(
        digest_tile,
        out_type=[_out(lines), _out(lines // TILE_LINES)],
        grid=(lines // TILE_LINES,),
        grid_names=("tile",),
        interpret=interpret,
    )(new, *held)
    return held[0][...], held[1][...], flags, counts


def compact(
    flags: Counts, lines: Lines, counts: Counts, capacity: int, *, interpret: Any = None
) -> tuple[Counts, Lines]:
    """(places, lines) of the flagged lines; what is behind the last one is not written.

    Args:
        flags: 1 for each line to be taken.
        lines: the lines.
        counts: flags of each tile.
        capacity: lines that there is room for.
        interpret: parameters of the interpreter; None compiles.
    """
    starts = jnp.cumsum(counts) - counts

    def compact_tile(
        flags: Any, lines: Any, starts: Any, counts: Any, out: Any, places: Any, flag: Any,
        line: Any, arrived: Any,
    ) -> None:  # fmt: skip
        tile = lax.axis_index("tile")

        @pl.when(counts[tile] > 0)
        def _() -> None:
            source = pl.ds(tile * TILE_LINES, TILE_LINES)
            plgpu.copy_gmem_to_smem(flags.at[source], flag, arrived.at[0])
            plgpu.copy_gmem_to_smem(lines.at[source], line, arrived.at[1])
            plgpu.barrier_wait(arrived.at[0])
            plgpu.barrier_wait(arrived.at[1])

            def take(row: Array, place: Array) -> Array:
                is_taken = (flag[row] != 0) & (place < capacity)

                @pl.when(is_taken)
                def _() -> None:
                    plgpu.copy_smem_to_gmem(line.at[row], out.at[place])
                    places[place] = tile * TILE_LINES + row

                return place + is_taken.astype(jnp.int32)

            lax.fori_loop(0, TILE_LINES, take, starts[tile])
            plgpu.wait_smem_to_gmem(0)

    out, places = plgpu.kernel(
        compact_tile,
        out_type=[jax.ShapeDtypeStruct((capacity, LINE_WORDS), jnp.uint32), _out(capacity)],
        grid=(lines.shape[0] // TILE_LINES,),
        grid_names=("tile",),
        scratch_types=[
            plgpu.SMEM((TILE_LINES,), jnp.int32),
            plgpu.SMEM((TILE_LINES, LINE_WORDS), jnp.uint32),
            plgpu.Barrier(num_barriers=2),
        ],
        interpret=interpret,
    )(flags, lines, starts, counts)
    return places, out


def fold(
    pool: Lines, rows: Counts, starts: Counts, data: Lines, mask: Lines, *, interpret: Any = None
) -> Lines:
    """The pool after the entries; one program a line that is written."""

    def fold_line(rows: Any, starts: Any, data: Any, mask: Any, pool: Any) -> None:
        number = lax.axis_index("number")
        row = rows[number]

        @pl.when((row >= 0) & (row < pool.shape[0]))
        def _() -> None:
            def merge(entry: Array, line: Array) -> Array:
                written = _load(mask.at[entry], _LINE)
                return (line & ~written) | (_load(data.at[entry], _LINE) & written)

            line = _load(pool.at[row], _LINE)
            pool[row, :] = lax.fori_loop(starts[number], starts[number + 1], merge, line)

    held = jax.new_ref(pool)
    plgpu.kernel(
        fold_line,
        out_type=(),
        grid=(rows.shape[0],),
        grid_names=("number",),
        interpret=interpret,
    )(rows, starts, data, mask, held)
    return held[...]


def interpreter() -> Any:
    """Parameters that run a kernel on a CPU."""
    return plgpu.InterpretGPUParams()


def _load(ref: Any, layout: Any) -> Array:
    # Tiles are smaller than the vectorised form of a load asks for.
    return plgpu.load(ref, layout=layout, optimized=False)  # pyright: ignore[reportCallIssue]


def _out(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), jnp.int32)
