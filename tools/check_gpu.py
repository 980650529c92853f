"""``make check-gpu``: compile the programs of the hot path for an H100, on a machine without one.

XLA and Mosaic compile for a GPU that is described to them. What is donated must be written in
place, no copy of the pool must be made, and the kernels must be there. It needs ``jax[cuda13]``,
some gigabytes, and prints what it found; the exit status is 1 where something is not so.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import mmsb_jax as mmsb
from mmsb_jax import kernels
from mmsb_jax._bus.device import programs
from mmsb_jax._core import replay as core_replay

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_MB = 1 << 20
_POOL_LINES = 1 << 21
"""256 MB."""


@dataclass(frozen=True)
class Case:
    """A program, and what must be so of it.

    Attributes:
        name: what it is.
        function: the program.
        operands: their shapes; the first is the pool, donated.
        kernel: a kernel that must be in it; none must for "".
        most_temp: bytes that it may take beside its operands and results.
        donated: which operands are donated.
    """

    name: str
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    kernel: str
    most_temp: int
    donated: tuple[int, ...] = (0,)


def cases(shape: Callable[..., Any]) -> Iterator[Case]:
    """The programs, in both forms."""
    pool, part = shape(_POOL_LINES, 32), shape(_POOL_LINES // 8, 32)
    number = functools.partial(shape, dtype=jnp.int32)
    entries = [shape(335_000, 32)] * 2
    segments = [number(300_000), number(300_001)]
    lanes = [shape(_POOL_LINES)] * 2
    for form in ("mosaic", "xla"):
        said = functools.partial(functools.partial, implementation=form)
        here = {"mosaic": lambda name: name, "xla": lambda _: ""}[form]
        yield Case(
            f"scan, {form}", said(kernels.scan), (pool, part, number()), here("mmsb_scan"), 4 * _MB
        )
        # The lines that are written, or the last entry of each of their words.
        yield Case(
            f"fold, {form}",
            said(kernels.fold),
            (pool, *segments, *entries),
            here("mmsb_fold"),
            40 * _MB,
        )
        yield Case(
            f"digest, {form}",
            said(kernels.digest_lines),
            (pool, *lanes, shape(2)),
            here("mmsb_digest"),
            4 * _MB if form == "mosaic" else 20 * _MB,
            (1, 2),
        )
    leaves = [shape(4096, 1024, dtype=jnp.bfloat16)] * 8
    yield Case(
        "what a commit changes, eight leaves of 8 MB",
        programs.find,
        (pool, shape(_POOL_LINES), number(64), number(8, 2), leaves),
        "mmsb_scan",
        4 * _MB,
        (0, 1, 2),
    )
    yield Case(
        "the same by digests of lines",
        programs.find_lines,
        (
            tuple(lanes),
            shape(_POOL_LINES, dtype=jnp.uint8),
            number(64),
            shape(2),
            number(8, 2),
            leaves,
        ),
        "mmsb_digest",
        24 * _MB,
        (0, 1, 2),
    )
    log = mmsb.TLog(
        number(335_000),
        number(335_000),
        entries[0],
        entries[1],
        number(335_000),
        number(335_000),
        number(),
        shape(dtype=jnp.bool_),
        shape(),
    )
    pages = mmsb.Pages(shape(_POOL_LINES // 32, 1024), shape(_POOL_LINES // 32))
    replay = core_replay._replay_until
    # Two copies of the entries, in the order of their lines.
    yield Case(
        "replay of 335,000 lines", replay, (pages, log, number(), number()), "mmsb_fold", 140 * _MB
    )
    yield _wave(shape)


def _wave(shape: Callable[..., Any]) -> Case:
    """Sixteen nodes of one function, of 4 MB each, behind a delta of 1,000 lines."""
    with mmsb.open() as bus:
        bus.commit({"x": jnp.zeros(_MB), "gain": jnp.float32(1)})
        with bus.batch():
            for k in range(16):
                bus.derive(f"y{k}", ["x", "gain"], lambda x, gain, k=k: x * gain + float(k))
        wave = bus.graph.compile(bus.layout)
    words = shape(wave.layout.pages, 1024)
    number = functools.partial(shape, dtype=jnp.int32)
    delta = mmsb.Delta(
        number(1000),
        number(1000),
        shape(1000, 32),
        shape(1000, 32),
        number(),
        shape(dtype=jnp.bool_),
    )
    return Case(
        "a compiled wave of sixteen nodes of 4 MB",
        lambda pages, delta: wave(pages, delta, version=1)[0],
        (mmsb.Pages(words, shape(wave.layout.pages)), delta),
        "",
        24 * _MB,
    )


def main() -> int:
    """Compile them all; 1 where something is not as it must be."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=_H100, topology="1x1x1")
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def shape(*lengths: int, dtype: Any = jnp.uint32) -> Any:
        return jax.ShapeDtypeStruct(lengths, dtype, sharding=sharding)

    print(f"{topology.devices[0].device_kind}, JAX {jax.__version__}")
    # As in a process that has such a GPU.
    with mock.patch("mmsb_jax.kernels.dispatch._missing", return_value=""):
        faults = [fault for case in cases(shape) for fault in check(case)]
    print(*faults, sep="\n")
    return int(bool(faults))


def check(case: Case) -> Iterator[str]:
    """Compile one program, print what it takes, and yield what is wrong."""
    plain = getattr(case.function, "__wrapped__", case.function)
    program = jax.jit(plain, donate_argnums=case.donated).lower(*case.operands).compile()
    text, memory = program.as_text() or "", program.memory_analysis()
    assert memory is not None
    donated = jax.tree_util.tree_leaves([case.operands[k] for k in case.donated])
    pool_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in donated)
    found = sorted(set(re.findall(r"mmsb_(?:scan|fold|digest)(?=\W|_mosaic)", text)))
    copies = len(re.findall(rf"= u32\[{_POOL_LINES},32\]\S* copy\(", text))
    temp, alias = memory.temp_size_in_bytes, memory.alias_size_in_bytes
    print(
        f"{case.name:45} temp {temp / _MB:8.2f} MB  in place {alias / _MB:8.2f} of "
        f"{pool_bytes / _MB:8.2f} MB  copies {copies}  {', '.join(found) or 'no kernel'}"
    )
    if temp > case.most_temp:
        most = case.most_temp / _MB
        yield f"{case.name}: {temp / _MB:.1f} MB beside its operands, more than {most:.1f}"
    if alias < pool_bytes:
        yield f"{case.name}: {pool_bytes - alias} bytes of what is donated are not written in place"
    if copies:
        yield f"{case.name}: {copies} copies of the pool"
    if found != [case.kernel][: bool(case.kernel)]:
        yield f"{case.name}: kernels {found}, expected {case.kernel or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
