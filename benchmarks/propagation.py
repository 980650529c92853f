"""What follows from what: waves alone, commits that set them off, beside other libraries.

A *wave alone* is what `Waves.run` takes: from changed arrays to the words of all that follows. A
*commit* is that with what the log asks for: it compares, digests, encodes and writes every array.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows, beside, incremental
from benchmarks.peers.incremental import Graph
from mmsb_jax._compile.body import Slot
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._graph.dag.graph import PageGraph
from mmsb_jax._graph.run.node import Arguments, Node, Rule, Tracer, bind
from mmsb_jax._graph.run.runner import NodeRunner
from mmsb_jax._graph.wave.node_table import NodeTable
from mmsb_jax._graph.wave.wave import Wave, WaveRequest, Waves
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, figure_at_most, ratio_at_most
from mmsb_jax.bench.states import MB

_ELEMENTS = 256  # 1 KB of float32


def rows(folder: Path, long: bool) -> Rows:
    """From one node to ten thousand."""
    yield from _hop(folder)
    yield from _chains(folder)
    yield from _bundles(folder)
    yield from _fan_out(folder)
    yield from _layered(folder)
    yield _rollout()
    yield _growth(100_000, 4) if long else _growth(20_000, 3)


# ------------------------------------------------------------------------------------------ graphs


def _increment(x: Any) -> Any:
    return x + 1


_THREE = (
    lambda a, b: a * 0.5 + b,
    lambda a, b: jnp.maximum(a, b) - 0.25,
    lambda a, b: a - b * 0.5,
)


def _chain(length: int, source: str = "s0") -> Graph:
    names = [source, *(f"{source}.{i}" for i in range(length))]
    return [(name, (above,), _increment) for above, name in itertools.pairwise(names)]


def _fan(width: int, source: str = "s0") -> Graph:
    return [(f"{source}.{i}", (source,), _increment) for i in range(width)]


def _layers(width: int, depth: int, functions: Iterable[Callable[..., Any]] = _THREE) -> Graph:
    """``depth`` layers of ``width`` nodes, each of two of the layer before."""
    turn = itertools.cycle(functions)
    layers = [[f"s{j}" for j in range(width)]]
    layers += [[f"n{i}.{j}" for j in range(width)] for i in range(depth)]
    return [
        (name, (above[j], above[(j + 1) % width]), next(turn))
        for above, layer in itertools.pairwise(layers)
        for j, name in enumerate(layer)
    ]


class _Alone:
    """A graph with its values, without a bus.

    Attributes:
        first_s: seconds of the first wave, with compilation.
    """

    def __init__(self, graph: Graph, sources: int = 1) -> None:
        self._waves = Waves(_table_of(graph), NodeRunner())
        self._words: dict[str, Any] = {name: np.zeros(_ELEMENTS, np.uint32) for name, _, _ in graph}
        self._numbers = itertools.count()
        self._all = frozenset(f"s{i}" for i in range(sources))
        self._change(self._all)
        everything = frozenset(name for name, _, _ in graph)
        begun = time.perf_counter()
        wave = self._waves.run(
            WaveRequest(frozenset(), first_run=everything), self._words.__getitem__, {}
        )
        self.first_s = time.perf_counter() - begun
        self._words |= wave.results

    def _change(self, sources: Iterable[str]) -> None:
        value = np.full(_ELEMENTS, next(self._numbers), np.float32).view(np.uint32)
        self._words |= {name: value.copy() for name in sources}

    def wave(self, nodes: int, changed: Iterable[str] = ()) -> Work:
        """The wave that runs ``nodes`` nodes after a change of sources; of all of them for none."""
        due = WaveRequest(frozenset(changed) or self._all)
        self._change(due.changed)

        def take(wave: Wave) -> None:
            assert len(wave.ran) == nodes
            self._words |= wave.results
            self._change(due.changed)

        return Work(
            "the wave alone",
            lambda: self._waves.run(due, self._words.__getitem__, {}),
            after=take,
        )


def _table_of(graph: Graph) -> NodeTable:
    """A graph as the bus knows it, entered at once."""
    tracer, spec = Tracer(), LeafSpec("jax", "float32", (_ELEMENTS,))
    nodes: list[Node] = [
        bind(
            tracer,
            Rule(name, reads, function, name),
            serial,
            Arguments(tuple(map(Slot, range(len(reads)))), [*reads], [spec] * len(reads)),
        )
        for serial, (name, reads, function) in enumerate(graph)
    ]
    table = NodeTable()
    table._set_graph(
        PageGraph.from_edges([(source, node.name) for node in nodes for source in node.inputs])
    )
    for node in nodes:
        table._enter(node)
    table.commit()
    return table


def _committing(bus: mmsb.Bus, graph: Graph, sources: int = 1) -> Work:
    """A commit in which every element of every source changes, and so all of ``graph``."""
    names = [f"s{i}" for i in range(sources)]
    turn, value = itertools.count(1), np.zeros(_ELEMENTS, np.float32)
    with bus.batch():
        for name in names:
            bus.create(name, (_ELEMENTS,))
    with bus.batch():
        for name, reads, function in graph:
            bus.derive(name, reads, function)

    def write_all() -> None:
        value[:] = next(turn)
        with bus.batch():
            for name in names:
                bus.write(name, value)

    return Work("the commit", write_all)


# -------------------------------------------------------------------------------------------- rows


def _hop(folder: Path) -> Iterator[Row]:
    program, words = jax.jit(_increment), np.zeros(_ELEMENTS, np.float32)
    called = Work("jax.jit of its function, called", lambda: np.asarray(program(words)))
    alone = _Alone(_chain(1)).wave(1)
    yield compare(
        "propagation/hop-alone", "one node of 1 KB, wave alone", alone, called, rounds=301, warm=20
    )
    what = "one hop: write 1 KB, recompute its child, log both"
    with (
        works.hop(folder) as (empty, _),
        works.hop(folder, held_bytes=256 * MB) as (full, write),
    ):
        yield compare(
            "propagation/hop", f"{what}; 256 MB on the bus", full, write,
            rounds=41, must=figure_at_most(60e-6), aim=figure_at_most(30e-6),
        )  # fmt: skip
        yield compare(
            "propagation/hop-held", f"{what}; 256 MB on the bus", full,
            Work("nothing else on the bus", empty.run, calls=empty.calls),
            rounds=41, must=ratio_at_most(1.5), aim=ratio_at_most(1.1),
        )  # fmt: skip
        yield compare(
            "propagation/hop-copy", f"{what}; 256 MB on the bus", full, limits.memcpy(256 * MB),
            rounds=5, must=ratio_at_most(1 / 100),
        )  # fmt: skip


def _chains(folder: Path) -> Iterator[Row]:
    for length in (10, 128):
        graph = _chain(length)
        alone = _Alone(graph).wave(length)
        what = f"chain of {length} × 1 KB"
        yield compare(
            f"propagation/chain-{length}-alone", f"{what}, wave alone",
            alone, limits.memcpy(length * 1024), rounds=101, warm=10,
            must=figure_at_most(300e-6) if length == 128 else None,
            aim=figure_at_most(150e-6) if length == 128 else None,
        )  # fmt: skip
        with works.bus_in(folder) as bus:
            yield compare(
                f"propagation/chain-{length}", f"{what}, commit",
                _committing(bus, graph), alone, rounds=31, warm=5,
            )  # fmt: skip


def _bundles(folder: Path) -> Iterator[Row]:
    """Chains side by side, whose sources are written in one batch."""
    for sources, levels in ((32, 4), (128, 2)):
        nodes = sources * levels
        graph = [node for i in range(sources) for node in _chain(levels, f"s{i}")]
        alone = _Alone(graph, sources).wave(nodes).an_item_of(nodes)
        what = f"{sources} sources × {levels} levels of 1 KB"
        yield compare(
            f"propagation/batch-{sources}x{levels}-alone", f"{what}, wave alone, a node",
            alone, limits.memcpy(nodes * 1024).an_item_of(nodes), rounds=101, warm=10,
        )  # fmt: skip
        with works.bus_in(folder) as bus:
            yield compare(
                f"propagation/batch-{sources}x{levels}", f"{what}, one batch, a node",
                _committing(bus, graph, sources).an_item_of(nodes), alone, rounds=31, warm=5,
            )  # fmt: skip


def _fan_out(folder: Path) -> Iterator[Row]:
    width = 10_000
    graph = _fan(width)
    alone = _Alone(graph).wave(width)
    yield compare(
        "propagation/fan-out-alone", "fan-out to 10,000 × 1 KB, wave alone",
        alone, limits.memcpy(width * 1024),
        rounds=15, must=ratio_at_most(3), aim=ratio_at_most(2),
    )  # fmt: skip
    with works.bus_in(folder) as bus:
        yield compare(
            "propagation/fan-out", "fan-out to 10,000 × 1 KB, commit",
            _committing(bus, graph), alone,
            rounds=5, must=figure_at_most(60e-3), aim=figure_at_most(30e-3),
        )  # fmt: skip


def _layered(folder: Path) -> Rows:
    width, depth = 5, 500
    nodes, graph = width * depth, _layers(width, depth)
    graph_alone = _Alone(graph, width)
    alone = graph_alone.wave(nodes).an_item_of(nodes)
    what = "layered graph 5 × 500, 1 KB a node, three functions, all dirty"
    yield compare(
        "propagation/layered-memcpy", f"{what}, wave alone, a node",
        alone, limits.memcpy(nodes * 1024).an_item_of(nodes),
        rounds=21, must=figure_at_most(1e-6), aim=figure_at_most(0.3e-6),
    )  # fmt: skip
    yield Row(
        "propagation/layered-first", f"{what}: first wave, with compilation",
        "s", [graph_alone.first_s], "limit", [2.0], figure_at_most(2),
    )  # fmt: skip
    for peer in incremental.PEERS:
        yield from beside(peer.name, lambda peer=peer: _layered_beside(peer, alone, what))
    with works.bus_in(folder) as bus:
        yield compare(
            "propagation/layered", f"{what}, commit, a node",
            _committing(bus, graph, width).an_item_of(nodes), alone, rounds=7,
        )  # fmt: skip


def _layered_beside(peer: incremental.Peer, alone: Work, what: str) -> Rows:
    width, depth = 5, peer.layers_at_most or 500
    with peer.updating(_layers(width, depth, incremental.THREE), width) as update:
        yield compare(
            f"propagation/layered-{peer.slug}", f"{what}, wave alone, a node",
            alone, update.an_item_of(width * depth), rounds=3,
        )  # fmt: skip


def _rollout() -> Row:
    """One scan whose derived arrays follow in each step, alone and in a thousand branches."""
    branches, steps = 1_000, 12
    with mmsb.open(page_bytes=128) as bus:
        bus.commit({"s0": jnp.zeros(32)})
        with bus.batch():
            for name, reads, function in _chain(3):
                bus.derive(name, reads, function)
        layout, wave = bus.layout, bus.graph.compile(bus.layout)
        pages = layout.pack({region.name: bus.read(region.name) for region in layout.regions})

    def play(value: Any) -> Any:
        def step(pages: mmsb.Pages, _: None) -> Any:
            last = layout.get(pages, "s0.2")
            delta = mmsb.diff(pages, layout.set(pages, "s0", last * 0.5 + value), 1)
            return wave(pages, delta)[0], None

        return jax.lax.scan(step, pages, length=steps)[0].words

    one, many = jax.jit(play), jax.jit(jax.vmap(play))
    values = jnp.arange(float(branches))
    return compare(
        "propagation/rollout",
        f"{steps} steps, a compiled wave of 3 nodes each; of {branches:,} branches at once, one",
        Work("a thousand", lambda: jax.block_until_ready(many(values)), items=branches),
        Work("one branch alone", lambda: jax.block_until_ready(one(values[1]))),
        rounds=15, must=ratio_at_most(1),
    )  # fmt: skip


def _growth(everything: int, tenfolds: int) -> Row:
    """What a wave costs is what runs in it, in however large a graph."""
    sizes = [10**power for power in range(1, tenfolds + 1)]
    graph = [node for i, size in enumerate(sizes) for node in _fan(size, f"s{i}")]
    graph += _fan(everything - len(graph), f"s{len(sizes)}")
    alone = _Alone(graph, len(sizes) + 1)
    return grow(
        "propagation/growth-nodes", f"wave in a graph of {everything:,}, with the nodes that run",
        {size: alone.wave(size, [f"s{i}"]) for i, size in enumerate(sizes)},
        at_most=1.1, rounds=21, warm=3,
    )  # fmt: skip
