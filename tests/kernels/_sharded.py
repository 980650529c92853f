"""`scan` under ``shard_map`` on eight devices, in each form; a process of its own has them."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mmsb_jax.kernels import laws, xla

PARTS = PartitionSpec("d")


def main():
    assert jax.device_count() == 8
    mesh = Mesh(np.array(jax.devices()), ("d",))
    shadow, new = laws.random_lines(np.random.default_rng(0), 8 * 64, 0.02)
    for form in forms():
        sharded = jax.shard_map(
            form,
            mesh=mesh,
            in_specs=(PARTS, PARTS, PartitionSpec()),
            out_specs=PARTS,
            check_vma=False,
        )
        laws.scan_law(jax.jit(sharded), shadow, new)


def forms():
    yield xla.scan
    if jax.__version_info__ >= (0, 11):
        from jax.experimental.pallas import mosaic_gpu

        from mmsb_jax.kernels import mosaic

        # Its detection of races takes the memory of all devices for one.
        yield functools.partial(mosaic.scan, interpret=mosaic_gpu.InterpretGPUParams())


if __name__ == "__main__":
    main()
