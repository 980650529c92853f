"""The core on eight devices: a pool split among them, branches split among them, waves there."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import mmsb_jax as mmsb
from tests.core._compare import assert_same

DEVICES, PAGES_EACH = 8, 3
PARTS, WHOLE = PartitionSpec("d"), PartitionSpec()
TREE = {
    "a": np.arange(200, dtype=np.float32),
    "b": np.arange(90, dtype=np.int8),
    "c": np.zeros((5, 60), np.uint16),
}
LAYOUT = mmsb.Layout.of(TREE, page_bytes=128)


def padded(pages: mmsb.Pages) -> mmsb.Pages:
    """As many pages for each device."""
    rest = DEVICES * PAGES_EACH - pages.words.shape[0]
    assert rest >= 0
    return mmsb.Pages(jnp.pad(pages.words, ((0, rest), (0, 0))), jnp.pad(pages.version, (0, rest)))


def changed(numbers: np.random.Generator, tree: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: np.where(numbers.random(x.shape) < 0.1, x + 1, x).astype(x.dtype)
        for name, x in tree.items()
    }


def on_parts(mesh: Mesh, operation: Any, outputs: Any, *inputs: Any) -> Any:
    """``operation(first page, *arguments)`` on each device's part of the pages."""

    def local(*arguments: Any) -> Any:
        return operation(jax.lax.axis_index("d") * PAGES_EACH, *arguments)

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=True)
    )


def parts_of_a_pool(mesh: Mesh) -> None:
    """Each operation on the part of each device, with what is known of the whole pool."""
    numbers = np.random.default_rng(0)
    states = [TREE]
    for _ in range(4):
        states.append(changed(numbers, states[-1]))
    first, *rest = [padded(LAYOUT.pack(state)) for state in states]
    deltas = [mmsb.diff(old, new, 32, 8) for old, new in zip([first, *rest], rest, strict=False)]
    log = mmsb.TLog.empty(8, 128, 8)
    for delta in deltas:
        log = log.append(delta)
    expected = mmsb.apply(first, deltas[0], version=7)
    apply = on_parts(mesh, lambda at, p, d: mmsb.apply(p, d, 7, first_page=at), PARTS, PARTS, WHOLE)
    assert_same(apply(first, deltas[0]), expected)
    replay = on_parts(
        mesh, lambda at, p, log: mmsb.replay(p, log, first_page=at), PARTS, PARTS, WHOLE
    )
    assert_same(replay(first, log), mmsb.replay(first, log))

    def found(at: Any, old: mmsb.Pages, new: mmsb.Pages) -> Any:
        delta = mmsb.diff(old, new, 32, 8, first_page=at)
        back = mmsb.invert(old, delta, first_page=at)
        lanes = jax.lax.psum(mmsb.digest(new, LAYOUT, at), "d")
        return jax.tree.map(lambda x: x[None], (delta, back)), lanes

    diff = on_parts(mesh, found, (PARTS, WHOLE), PARTS, PARTS)
    (each, backs), lanes = diff(first, rest[0])
    np.testing.assert_array_equal(lanes, mmsb.digest(LAYOUT.pack(states[1]), LAYOUT))
    pages, again = first, rest[0]
    for i in range(DEVICES):
        of_device = functools.partial(jax.tree.map, lambda x, i=i: x[i])
        delta = of_device(each)
        rows = np.asarray(delta.page)[: int(delta.count)]
        assert ((rows >= i * PAGES_EACH) & (rows < (i + 1) * PAGES_EACH)).all()
        pages, again = mmsb.apply(pages, delta), mmsb.apply(again, of_device(backs))
    assert (pages.words == rest[0].words).all()
    assert (again.words == first.words).all()


def graph(place: Any) -> mmsb.Bus:
    bus = mmsb.open(page_bytes=128)
    numbers = np.random.default_rng(1)
    x = place(numbers.standard_normal((64, 128)).astype(np.float32))
    bus.commit({"x": x, "gain": jnp.float32(2)})
    bus.derive("scaled", ["x", "gain"], lambda x, gain: x * gain)
    bus.derive("rows", ["scaled"], lambda x: x.max(axis=1))
    bus.derive("paged", ["x"], lambda x: jnp.tanh(x) * 2, pagewise=True)
    return bus


def waves_under_a_mesh(mesh: Mesh) -> None:
    """The bus, its graph as a function, and the compiled wave, of arrays that are sharded."""
    place = lambda x: jax.device_put(x, NamedSharding(mesh, PARTS))  # noqa: E731
    alone = graph(jnp.asarray)
    with jax.set_mesh(mesh):
        bus = graph(place)
        x = place(np.asarray(alone.read("x")) + 1)
        bus.commit({"x": x, "gain": jnp.float32(3)})
        function = jax.jit(bus.graph.as_function(["x", "gain"], ["scaled", "rows", "paged"]))
        made = function(x, jnp.float32(3))
        layout, wave = bus.layout, bus.graph.compile(bus.layout)
        pages = layout.pack({name: bus.read(name) for name in wave.arrays})
    alone.commit({"x": np.asarray(x), "gain": np.float32(3)}, structure="new")
    for name in wave.arrays:
        assert np.asarray(bus.read(name)).tobytes() == np.asarray(alone.read(name)).tobytes()
    for name, value in zip(["scaled", "rows", "paged"], made, strict=True):
        np.testing.assert_array_equal(value, alone.read(name))
    assert made[0].sharding.is_equivalent_to(x.sharding, 2)
    delta = mmsb.diff(pages, layout.set(pages, "gain", jnp.float32(5)))
    expected = wave(pages, delta)[0].words
    with jax.set_mesh(mesh):
        assert (np.asarray(wave(pages, delta)[0].words) == np.asarray(expected)).all()
        run = jax.jit(lambda p, x: wave(p, mmsb.diff(p, layout.set(p, "x", x), 512))[0].words)
        inside = run(jax.device_put(pages, NamedSharding(mesh, WHOLE)), x + 1)
    outside = wave(pages, mmsb.diff(pages, layout.set(pages, "x", np.asarray(x) + 1)))[0].words
    assert (np.asarray(inside) == np.asarray(outside)).all()
    assert bus.verify(derive=True)


def branches_among_devices(mesh: Mesh) -> None:
    """A vmap of branches in each device: what one device makes of them all."""
    with graph(jnp.asarray) as bus:
        layout, wave = bus.layout, bus.graph.compile(bus.layout)
        base = layout.pack({name: bus.read(name) for name in wave.arrays})

    def play(base: mmsb.Pages, gain: Any) -> Any:
        def step(pages: mmsb.Pages, _: None) -> Any:
            new = layout.set(pages, "gain", layout.get(pages, "gain") + gain)
            return wave(pages, mmsb.diff(pages, new, 2))[0], None

        return jax.lax.scan(step, base, length=3)[0].words

    def on_device(gains: Any) -> Any:
        varying = jax.lax.pcast(base, "d", to="varying")  # as what the scan carries becomes
        return jax.vmap(play, (None, 0))(varying, gains)

    gains = jnp.arange(16, dtype=jnp.float32)
    among = jax.shard_map(on_device, mesh=mesh, in_specs=PARTS, out_specs=PARTS, check_vma=True)
    assert (jax.jit(among)(gains) == jax.jit(jax.vmap(play, (None, 0)))(base, gains)).all()


def main(axis_type: str) -> None:
    assert jax.device_count() == DEVICES
    if axis_type == "Auto":
        mesh = Mesh(np.array(jax.devices()), ("d",))
        parts_of_a_pool(mesh)
        branches_among_devices(mesh)
    waves_under_a_mesh(jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType[axis_type],)))
    print("done")
