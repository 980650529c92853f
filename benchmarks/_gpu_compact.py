"""Compaction, by XLA and as a kernel: measured, and not taken into the library.

There the words that changed are picked, and not their lines.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from mmsb_jax.kernels.xla import LINE_WORDS, TILE_LINES, Counts, Lines


def compact_by_xla(
    flags: Counts, lines: Lines, counts: Counts, capacity: int
) -> tuple[Counts, Lines]:
    """(places of the flagged lines, ascending; the lines), the first ``capacity`` of them.

    The flags of each tile are of no use here.
    """
    del counts
    place = jnp.nonzero(flags, size=capacity, fill_value=lines.shape[0])[0].astype(jnp.int32)
    return place, lines.at[place].get(mode="fill", fill_value=0)


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
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

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
        out_type=[
            jax.ShapeDtypeStruct((capacity, LINE_WORDS), jnp.uint32),
            jax.ShapeDtypeStruct((capacity,), jnp.int32),
        ],
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
