"""Schedules: small nodes in their order, and where all that they need stands in one buffer."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._compile.program import on_device
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._graph.run.interpreter import (
    CHANGED,
    COUNT,
    FIRST,
    NOTHING,
    RAN,
    ROW,
    RUN,
    Interpreter,
    word_count,
)
from mmsb_jax._graph.run.node import Node
from mmsb_jax._graph.run.pagewise import ChangedRows
from mmsb_jax._graph.run.single import as_input, words_of_array

Words = Callable[[str], np.ndarray]
"""The words of an array by its name; not to be written to."""


class RunResult(NamedTuple):
    """What became of nodes that were due.

    Attributes:
        nodes: those that ran, in order.
        results: their arrays that count as changed, with their words; of arrays that nothing
            depends on perhaps more than that.
    """

    nodes: list[Node]
    results: dict[str, np.ndarray | ChangedRows]


class _Result(NamedTuple):
    """An array that is made: where its status is, what this says if it counts as changed."""

    name: str
    status: int
    wanted: np.uint32
    words: slice


class BufferPlan:
    """Where everything that nodes need stands in one buffer, whatever program runs them.

    First what is loaded: an order for each node, the statuses of the arrays that are not made here,
    these arrays, the constants, and the results of before, where something depends on them or a
    function compares them. Then the results of the other nodes: whether they changed, the commit
    sees by itself.

    Args:
        nodes: the nodes, in order.
        heads: statuses in front of the results of a node.
        is_read: whether anything depends on an array.

    Attributes:
        cells: where the cell of each node is.
        orders: where the order of the first node is; the others follow.
        status_of: array → its status, for those that are not made here.
        results: the arrays made here.
        loaded: words that are loaded.
        words: words in all.
    """

    def __init__(self, nodes: Sequence[Node], heads: int, is_read: Callable[[str], bool]) -> None:
        self.nodes = nodes
        self.cells: list[int] = []
        self.status_of: dict[str, int] = {}
        self.results: list[_Result] = []
        self.words = 0
        self._heads = heads
        self._names: list[str] = []  # the arrays that are loaded, in order
        self._gaps = [bytearray()]  # what lies in front of each, and behind the last
        self._numbers: list[tuple[int, LeafSpec, LeafSpec]] = []
        self._places: dict[Any, int] = {}
        self._statuses: dict[str, int] = {}
        self._add_bytes(bytes(WORD_BYTES * (NOTHING + 1)))
        self.orders = self._add_bytes(bytes(WORD_BYTES * len(nodes)))
        self._add_inputs({name for node in nodes for name in node.outputs})
        self._add_constants()
        kept = {node for node in nodes if _is_compared(node, is_read)}
        cells = {node: self._add_cell(node) for node in nodes if node in kept}
        self.loaded = self.words
        cells |= {node: self._add_empty_cell(node) for node in nodes if node not in kept}
        for node in nodes:
            self.cells.append(cells[node])
            self._add_results(node, cells[node], CHANGED if node in kept else RAN)

    def _add_bytes(self, raw: bytes) -> int:
        place = self.words
        self._gaps[-1] += raw
        self.words += len(raw) // WORD_BYTES
        return place

    def _add_array(self, name: str, words: int) -> int:
        place = self.words
        self._names.append(name)
        self._gaps.append(bytearray())
        self.words += words
        return place

    def _add_inputs(self, made: Collection[str]) -> None:
        for name in (name for node in self.nodes for name in node.inputs):
            if name not in made and name not in self.status_of:
                self.status_of[name] = self._add_bytes(bytes(WORD_BYTES))
        for node in self.nodes:
            for name, spec, wanted in _reads(node):
                if name in made or (name, wanted.dtype) in self._places:
                    continue
                if spec.dtype != wanted.dtype:
                    self._numbers.append((len(self._names), spec, wanted))
                self._places[name, wanted.dtype] = self._add_array(name, word_count(wanted))
        self._statuses |= self.status_of

    def _add_constants(self) -> None:
        for raw in (_bytes_of(value) for node in self.nodes for value in node.constants):
            if raw not in self._places:
                self._places[raw] = self._add_bytes(raw)

    def _add_cell(self, node: Node) -> int:
        cell = self._add_bytes(bytes(WORD_BYTES * self._heads))
        for name, spec in _makes(node):
            self._add_array(name, word_count(spec))
        return cell

    def _add_empty_cell(self, node: Node) -> int:
        cell = self.words
        self.words += self._heads + sum(word_count(spec) for _, spec in _makes(node))
        return cell

    def _add_results(self, node: Node, cell: int, wanted: np.uint32) -> None:
        start = cell + self._heads
        for status, (name, spec) in enumerate(_makes(node), cell):
            self._statuses[name] = status
            self._places[name, spec.dtype] = start
            stop = start + word_count(spec)
            self.results.append(_Result(name, status, wanted, slice(start, stop)))
            start = stop

    def rows(self, interpreter: Interpreter) -> np.ndarray:
        """The rows of the schedule (uint32[steps, columns])."""
        shape = interpreter.shape
        branch = {recipe: i + 1 for i, recipe in enumerate(shape.recipes)}
        rows = np.zeros((shape.steps, shape.columns), np.uint32)
        rows[:, ROW : ROW + shape.inputs] = NOTHING
        for i, (row, node) in enumerate(zip(rows, self.nodes, strict=False)):
            assert node.recipe is not None
            row[:ROW] = branch[node.recipe], self.cells[i], self.orders + i
            row[ROW:][: len(node.inputs)] = [self._statuses[name] for name in node.inputs]
            operands = [self._places[name, wanted.dtype] for name, _, wanted in _reads(node)]
            operands += [self._places[_bytes_of(value)] for value in node.constants]
            row[ROW + shape.inputs :][: len(operands)] = operands
        return rows

    def fill(self, buffer: np.ndarray, words: Words) -> None:
        """Load all that is loaded; the statuses say nothing."""
        arrays = list(map(words, self._names))
        for i, spec, wanted in self._numbers:
            arrays[i] = as_input(arrays[i], spec, wanted)
        pieces: list[Any] = [b""] * (2 * len(arrays) + 1)
        pieces[0::2], pieces[1::2] = self._gaps, arrays
        buffer[: self.loaded] = np.frombuffer(b"".join(pieces), np.uint32)
        buffer[COUNT] = len(self.nodes)


def _reads(node: Node) -> list[tuple[str, LeafSpec, LeafSpec]]:
    """What a node reads: each array, what it is, and as what the body takes it."""
    assert node.recipe is not None
    return list(zip(node.reads, node.specs, node.recipe.body.inputs, strict=True))


def _makes(node: Node) -> list[tuple[str, LeafSpec]]:
    assert node.recipe is not None
    return list(zip(node.outputs, node.recipe.body.outputs, strict=True))


def _is_compared(node: Node, is_read: Callable[[str], bool]) -> bool:
    """Whether it matters to a wave what the results of a node were before."""
    assert node.recipe is not None
    return not isinstance(node.recipe.cutoff, str) or any(map(is_read, node.outputs))


def _bytes_of(constant: Any) -> bytes:
    return words_of_array(constant).tobytes()


_ORDERS = {False: RUN, True: RUN | FIRST}


class Schedule:
    """Small nodes in their order, ready to run any number of times."""

    def __init__(self, plan: BufferPlan, interpreter: Interpreter) -> None:
        self._plan, self._interpreter = plan, interpreter
        self._rows = on_device(plan.rows(interpreter))
        results = sorted(plan.results, key=lambda result: result.words.start)
        names, statuses, wanted, words = zip(*results, strict=True)
        self._names: Sequence[str] = names
        self._slices: Sequence[slice] = words
        self._places = np.array([*plan.cells, *statuses])
        self._wanted = np.array([RAN] * len(plan.cells) + list(wanted))
        self._grid = _grid(words)

    def run(self, words: Words, changed: Collection[str], forced: Mapping[Node, bool]) -> RunResult:
        """Run what is due, in order.

        Args:
            words: array → its words.
            changed: the arrays that changed; what reads one runs.
            forced: nodes that run in any case → whether they have no value yet.
        """
        plan, buffer, statuses = self._plan, self._interpreter.buffer, self._plan.status_of
        plan.fill(buffer, words)
        for name in changed if len(changed) <= len(statuses) else statuses.keys() & changed:
            if name in statuses:
                buffer[statuses[name]] = CHANGED
        if forced:
            asked = map(forced.get, plan.nodes)
            orders = [0 if is_first is None else _ORDERS[is_first] for is_first in asked]
            buffer[plan.orders :][: len(orders)] = orders
        out = self._interpreter.run(self._rows)
        said = (out[self._places] & self._wanted).tolist()
        ran, hits = said[: len(plan.nodes)], said[len(plan.nodes) :]
        made = compress(self._words(out), hits)
        results: dict[str, np.ndarray | ChangedRows] = {}
        results.update(zip(compress(self._names, hits), made, strict=True))
        return RunResult(list(compress(plan.nodes, ran)), results)

    def _words(self, out: np.ndarray) -> Iterable[np.ndarray]:
        """The words of each array that is made here."""
        if self._grid is None:
            return map(out.__getitem__, self._slices)
        first, step, size = self._grid
        stop = first + step * len(self._slices)
        return out[first:stop].reshape(-1, step)[:, :size]


def _grid(slices: Sequence[slice]) -> tuple[int, int, int] | None:
    """(first, step, size) where all slices are as long and as far from the one before; else None.

    To walk along an array is twice as fast as to cut it.
    """
    starts = np.array([words.start for words in slices])
    sizes = {words.stop - words.start for words in slices}
    steps = set(np.diff(starts).tolist()) or {1 + slices[0].stop - slices[0].start}
    if len(sizes) > 1 or len(steps) > 1:
        return None
    return int(starts[0]), steps.pop(), sizes.pop()
