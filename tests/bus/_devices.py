"""What a bus refuses of arrays on many devices, and of arrays of many processes."""

import multiprocessing
import socket
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

import mmsb_jax as mmsb


def a_mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("d",))


def shards_that_are_gone() -> None:
    """A shard deleted under an array that JAX calls whole: refused, and nothing is lost."""
    x = jax.device_put(jnp.arange(64.0), NamedSharding(a_mesh(), PartitionSpec("d")))
    for shadow in (None, "bytes", "digest"):
        with mmsb.open(shadow=shadow) as bus:
            bus.commit({"x": x})
            bus.commit({"x": x + 1})
            for wait in (True, False):
                gone = x + 2
                gone.addressable_shards[3].data.delete()
                with pytest.raises(mmsb.StructureError, match="x was donated or deleted"):
                    bus.commit({"x": gone}, wait=wait)
            bus.commit({"x": x + 5})
            np.testing.assert_array_equal(bus.read("x"), np.arange(64.0) + 5)
            assert bus.verify(deep=True)


def mesh_that_is_gone() -> None:
    """`like` of a mesh without devices; the arrays go to another one all the same."""
    with mmsb.open() as bus:
        bus.commit({"x": jnp.arange(64.0)})
        parts = PartitionSpec("d")
        for mesh in (AbstractMesh((8,), ("d",)), AbstractMesh((16,), ("d",))):
            sharding = NamedSharding(mesh, parts)
            like = {"x": jax.ShapeDtypeStruct((64,), jnp.float32, sharding=sharding)}
            with pytest.raises(mmsb.StructureError, match=r"abstract mesh.*which has no devices"):
                bus.checkout(like=like)
        half = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("d",)), parts)
        like = {"x": jax.ShapeDtypeStruct((64,), jnp.float32, sharding=half)}
        assert bus.checkout(like=like)["x"].sharding == half


def _a_process(number: int, port: int, results: Any) -> None:
    """One of two processes, each with a half of an array."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
    mesh = a_mesh()
    values = np.arange(16, dtype=np.float32)

    def make(spec: PartitionSpec) -> jax.Array:
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback((16,), sharding, values.__getitem__)

    try:
        with mmsb.open(shadow="bytes") as bus:
            for wait in (True, True, False):
                bus.commit({"x": make(PartitionSpec())}, wait=wait)
            with pytest.raises(mmsb.StructureError, match="x lies partly on devices of other proc"):
                bus.commit({"x": make(PartitionSpec("d"))})
            np.testing.assert_array_equal(bus.read("x"), values)
            assert bus.verify(deep=True)
        results.put("done")
    except BaseException as error:
        results.put(repr(error))
        raise


def two_processes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    both = [context.Process(target=_a_process, args=(k, port, results)) for k in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=100) for _ in both]
    for process in both:
        process.join(20)
    assert found == ["done", "done"], found
