"""Waves: budgets 7, 10 and 10b, beside other libraries, and how they grow.

A *wave alone* is what `Waves.run` takes: from changed arrays to the words of all that follows. A
*commit* is that with what the log asks for: it compares, digests, encodes and writes every array.
"""

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from benchmarks import _peers
from benchmarks._measure import Row, mean_us, median_ms
from mmsb_jax._compile.body import Slot
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._graph.dag.graph import PageGraph
from mmsb_jax._graph.run.node import Arguments, Node, Rule, Tracer, bind
from mmsb_jax._graph.run.runner import NodeRunner
from mmsb_jax._graph.wave.node_table import NodeTable
from mmsb_jax._graph.wave.wave import WaveRequest, Waves

_ELEMENTS = 256  # 1 KB of float32
_HELD_BYTES = 256 << 20

Graph = _peers.Graph


def _increment(x: Any) -> Any:
    return x + 1


_THREE = (
    lambda a, b: a * 0.5 + b,
    lambda a, b: jnp.maximum(a, b) - 0.25,
    lambda a, b: a - b * 0.5,
)


def _chain(length: int) -> Graph:
    names = ["s0", *(f"n{i}" for i in range(length))]
    return [(name, (above,), _increment) for above, name in itertools.pairwise(names)]


def _fan(width: int, source: str = "s0") -> Graph:
    return [(f"{source}.{i}", (source,), _increment) for i in range(width)]


def _layered(width: int, depth: int, functions: Iterable[Callable[..., Any]] = _THREE) -> Graph:
    """``depth`` layers of ``width`` nodes, each of two of the layer before."""
    turn = itertools.cycle(functions)
    layers = [[f"s{j}" for j in range(width)]]
    layers += [[f"n{i}.{j}" for j in range(width)] for i in range(depth)]
    return [
        (name, (above[j], above[(j + 1) % width]), next(turn))
        for above, layer in itertools.pairwise(layers)
        for j, name in enumerate(layer)
    ]


def rows() -> Iterator[Row]:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _one_hop(Path(folder))
    yield from _chain_rows()
    yield from _fan_rows()
    yield from _layered_rows()
    yield from _growth_rows()


class _Alone:
    """A graph with its values, without a bus.

    Attributes:
        first_s: seconds of the first wave, with compilation.
    """

    def __init__(self, graph: Graph, sources: int = 1) -> None:
        tracer, spec = Tracer(), LeafSpec("jax", "float32", (_ELEMENTS,))
        nodes = [
            bind(
                tracer,
                Rule(name, reads, function, name),
                serial,
                Arguments(tuple(map(Slot, range(len(reads)))), [*reads], [spec] * len(reads)),
            )
            for serial, (name, reads, function) in enumerate(graph)
        ]
        self._waves = Waves(_flow_of(nodes), NodeRunner())
        self._words = {name: np.zeros(_ELEMENTS, np.uint32) for name, _, _ in graph}
        self._words |= {f"s{i}": _value(0) for i in range(sources)}
        self._sources, self._numbers = (
            frozenset(f"s{i}" for i in range(sources)),
            itertools.count(1),
        )
        begun = time.perf_counter_ns()
        self._run(WaveRequest(frozenset(), first_run=frozenset(node.name for node in nodes)))
        self.first_s = (time.perf_counter_ns() - begun) / 1e9

    def _run(self, due: WaveRequest) -> tuple[float, int]:
        """Microseconds of a wave, and how many nodes ran."""
        begun = time.perf_counter_ns()
        wave = self._waves.run(due, self._words.__getitem__, {})
        taken_us = (time.perf_counter_ns() - begun) / 1e3
        self._words |= wave.results  # type: ignore[arg-type]
        return taken_us, len(wave.ran)

    def time_us(self, ran: int, changed: Iterable[str] = (), rounds: int = 21) -> float:
        """Median time of a wave of ``ran`` nodes after a change of sources; of all for none."""
        due, found = WaveRequest(frozenset(changed) or self._sources), []
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds + 2):
                self._words |= dict.fromkeys(due.changed, _value(next(self._numbers)))
                found.append(self._run(due))
        finally:
            gc.enable()
        assert {count for _, count in found} == {ran}
        return statistics.median(taken_us for taken_us, _ in found[2:])


def _flow_of(nodes: list[Node]) -> NodeTable:
    """A flow of nodes, entered at once."""
    flow = NodeTable()
    flow._set_graph(
        PageGraph.from_edges([(source, node.name) for node in nodes for source in node.inputs])
    )
    for node in nodes:
        flow._enter(node)
    flow.commit()
    return flow


def _value(number: int) -> np.ndarray:
    return np.full(_ELEMENTS, number, np.float32).view(np.uint32)


class _OnBus:
    """The same graph on a bus."""

    def __init__(self, place: Path | None, graph: Graph, sources: int = 1, held: int = 0) -> None:
        self.bus = mmsb.open(place, snapshots=False)
        self._names = [f"s{i}" for i in range(sources)]
        self._turn = itertools.count(1)
        self._value = np.zeros(_ELEMENTS, np.float32)
        if held:
            self.bus.create("held", nbytes=held)
            self.bus.write("held", np.ones(held, np.uint8))
        with self.bus.batch():
            for name in (*self._names, "apart"):
                self.bus.create(name, (_ELEMENTS,))
        with self.bus.batch():
            for name, reads, function in graph:
                self.bus.derive(name, reads, function)

    def write(self, name: str = "s0") -> None:
        """Change one element of one source."""
        turn = next(self._turn)
        self._value[turn % _ELEMENTS] = turn
        self.bus.write(name, self._value)

    def write_all(self) -> None:
        """Change every element of every source."""
        self._value[:] = next(self._turn)
        with self.bus.batch():
            for name in self._names:
                self.bus.write(name, self._value)


def _one_hop(folder: Path) -> Iterator[Row]:
    graph = _chain(1)
    alone_us = _Alone(graph).time_us(1, rounds=301)
    program = jax.jit(_increment)
    words = np.zeros(_ELEMENTS, np.float32)
    program_us = mean_us(lambda: np.asarray(program(words)), 1000)
    yield Row("7", "one hop of 1 KB, wave alone", alone_us, "µs", "jax.jit of its function, called",
              program_us, "–", "–", True)  # fmt: skip
    empty = _OnBus(folder / "empty.mmsb", graph)
    empty_us = median_ms(empty.write, 501, 50) * 1e3
    full = _OnBus(folder / "full.mmsb", graph, held=_HELD_BYTES)
    full_us = median_ms(full.write, 501, 50) * 1e3
    write_us = median_ms(lambda: full.write("apart"), 501, 50) * 1e3
    what = "one hop: write 1 KB, recompute its child, log it"
    yield Row("7", f"{what}; 256 MB on the bus", full_us, "µs", "the write alone", write_us,
              "≤ 60 µs", "30 µs", full_us <= 60)  # fmt: skip
    yield Row("7", f"{what}; 256 MB on the bus", full_us, "µs", "nothing else on the bus", empty_us,
              "×1.5", "×1.1", full_us <= 1.5 * empty_us)  # fmt: skip
    held = np.ones(_HELD_BYTES // 4, np.uint32)
    copy_us = median_ms(held.copy, 3, 1) * 1e3
    yield Row("7", f"{what}; 256 MB on the bus", full_us, "µs", "a copy of the 256 MB", copy_us,
              "÷100", "–", full_us * 100 <= copy_us)  # fmt: skip


def _chain_rows() -> Iterator[Row]:
    graph, most = _chain(128), 300
    alone_us = _Alone(graph).time_us(128, rounds=101)
    yield Row("10", "chain of 128 × 1 KB, wave alone", alone_us, "µs", "memcpy of its bytes",
              _memcpy_us(128), f"≤ {most} µs", "150 µs", alone_us <= most)  # fmt: skip
    bus = _OnBus(None, graph)
    yield Row("10", "chain of 128 × 1 KB, commit", median_ms(bus.write_all, 31) * 1e3, "µs",
              "the wave alone", alone_us, "–", "–", True)  # fmt: skip


def _fan_rows() -> Iterator[Row]:
    width = 10_000
    graph, copy_us = _fan(width), _memcpy_us(width)
    alone_us = _Alone(graph).time_us(width)
    yield Row("10", "fan-out to 10,000 × 1 KB, wave alone", alone_us, "µs", "memcpy of its bytes",
              copy_us, "×3", "×2", alone_us <= 3 * copy_us)  # fmt: skip
    bus = _OnBus(None, graph)
    yield Row("10", "fan-out to 10,000 × 1 KB, commit", median_ms(bus.write_all, 5, 2) * 1e3, "µs",
              "the wave alone", alone_us, "–", "–", True)  # fmt: skip


def _memcpy_us(arrays: int) -> float:
    """Time to copy arrays of 1 KB that lie end to end, and not in the cache."""
    count = max(2, (256 << 20) // (arrays * 4 * _ELEMENTS))
    count = min(count, 64)
    pool = np.ones((2, count, arrays * _ELEMENTS), np.float32)
    turn = itertools.cycle(range(count))

    def copy() -> None:
        i = next(turn)
        pool[0, i] = pool[1, i]

    return median_ms(copy, 3 * count, count) * 1e3


def _layered_rows() -> Iterator[Row]:
    width, depth = 5, 500
    nodes, graph = width * depth, _layered(width, depth)
    alone = _Alone(graph, width)
    alone_us = alone.time_us(nodes) / nodes
    what = "layered graph 5 × 500, 1 KB a node, three functions, all dirty"
    for peer in _peers.PEERS:
        size = peer.layers_at_most or depth
        shown = f"{peer.name}, NumPy" + (f" (5 × {size})" if size < depth else "")
        plain = _layered(width, size, _peers.THREE)
        peer_us = peer.time_us(plain, width) / (width * size)
        yield Row("10b", f"{what}, wave alone, a node", alone_us, "µs", shown, peer_us, "≤ 1 µs",
                  "0.3 µs", alone_us <= 1)  # fmt: skip
    yield Row("10b", f"{what}: first wave, with compilation", alone.first_s, "s", "limit", 2,
              "≤ 2 s", "–", alone.first_s <= 2)  # fmt: skip
    bus = _OnBus(None, graph, width)
    commit_us = median_ms(bus.write_all, 7, 2) * 1e3 / nodes
    yield Row("10b", f"{what}, commit, a node", commit_us, "µs", "the wave alone", alone_us, "–",
              "–", True)  # fmt: skip


def _growth_rows() -> Iterator[Row]:
    sizes, everything = (10, 100, 1_000, 10_000), 100_000
    graph = [node for i, size in enumerate(sizes) for node in _fan(size, f"s{i}")]
    graph += _fan(everything - len(graph), f"s{len(sizes)}")
    alone = _Alone(graph, len(sizes) + 1)
    times = [alone.time_us(size, [f"s{i}"]) for i, size in enumerate(sizes)]
    exponent = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    shown = ", ".join(f"{t:,.0f}" for t in times)
    yield Row("growth", f"wave of 10 … 10,000 nodes in a graph of 100,000: {shown} µs", exponent,
              "exponent", "at most", 1.1, "≤", "–", exponent <= 1.1)  # fmt: skip
