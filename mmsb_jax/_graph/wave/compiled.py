"""A wave as a value: a pure function of pages and a delta, which knows no bus.

`DerivedGraph.compile` makes one. Nodes are laid out in groups that run the same function; a group
is one loop over the places of what its nodes read and make, so that the program grows with the
functions, not with the graph.
"""

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from mmsb_jax._base.arguments import check_size
from mmsb_jax._compile.body import Body
from mmsb_jax._core.delta import (
    NO_PAGE,
    Delta,
    check_pages_and_delta,
    check_whole,
    diff,
    mark_written,
    most_of_branches,
)
from mmsb_jax._core.layout import Layout, check_pages
from mmsb_jax._core.pack import rows_of_array, take_rows
from mmsb_jax._core.pages import Pages, as_version
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._core.tree.words import from_words
from mmsb_jax._graph.run.interpreter import judge
from mmsb_jax._graph.run.node import Node
from mmsb_jax._graph.run.pagewise import call_by_rows
from mmsb_jax.algebra import SparseMatrix, best_paths, lor_land
from mmsb_jax.kernels import LINE_WORDS
from mmsb_jax.kernels.varying import varying_as


class WaveResult(eqx.Module):
    """What a compiled wave has done.

    Attributes:
        delta: all that changed, sources and derived: ``apply(before, delta)`` gives the pages
            after. Inside a jitted function it costs nothing where nobody uses it.
        changed: ``bool[arrays]``: which arrays count as changed, in the order of
            `CompiledWave.arrays`.
        dirty: ``bool[nodes]``: which nodes follow from a source that changed, in the order of
            `CompiledWave.nodes`.
        ran: ``bool[nodes]``: which of them were computed; those behind a result that came out
            unchanged were not.
    """

    delta: Delta
    changed: Bool[Array, " arrays"]
    dirty: Bool[Array, " nodes"]
    ran: Bool[Array, " nodes"]

    @property
    def overflow(self) -> Bool[Array, ""]:
        """Whether `delta` leaves blocks out, or the delta that came in did."""
        return self.delta.overflow


class _Group(NamedTuple):
    """Nodes that run one function.

    Attributes:
        model: one of them.
        numbers: which nodes (int32[n]).
        reads: the arrays that each reads (int32[n, reads]).
        makes: the arrays that each makes (int32[n, outputs]).
        constants: what each was traced with, slot by slot, each with a leading axis.
    """

    model: Node
    numbers: np.ndarray
    reads: np.ndarray
    makes: np.ndarray
    constants: list[Any]


class CompiledWave:
    """What follows from a delta, as a pure function of pages: ``pages, done = wave(pages, delta)``.

    It applies the delta and computes what is derived from the arrays in which a byte changed, each
    node at most once, after all that it reads, with the cutoffs that it was derived with: the bytes
    are those that the bus's own wave gives. It can be jitted, carried through ``scan`` and mapped
    by ``vmap``; it holds no bus and never changes.

    Under ``vmap`` every branch computes what any of them needs, and keeps its own. XLA may then
    compile a function in another way than for one branch, and sum in another order or contract a
    product and a sum: the last bits of its results may differ. There are no gradients through
    words: `DerivedGraph.as_function` has them.

    Attributes:
        layout: where the arrays stand in the pages.
        arrays: their names, in the order of the layout.
        nodes: the names of what is derived, in the order in which it is computed.
    """

    def __init__(self, layout: Layout, nodes: Sequence[Node]) -> None:
        self.layout = layout
        self.arrays = tuple(region.name for region in layout.regions)
        ordered = _grouped(nodes)
        self.nodes = tuple(node.name for group in ordered for node in group)
        self._first = np.array([region.page for region in layout.regions], np.int32)
        self._end = self._first + np.array([region.pages for region in layout.regions], np.int32)
        place = {name: number for number, name in enumerate(self.arrays)}
        starts = np.cumsum([0, *map(len, ordered)])
        self._groups = [
            _laid_out(group, int(start), place)
            for group, start in zip(ordered, starts, strict=False)
        ]
        made = [number for group in self._groups for number in group.makes.reshape(-1)]
        self._is_derived = np.zeros(layout.pages, bool)
        for number in made:
            self._is_derived[self._first[number] : self._end[number]] = True
        self._derived_pages = int(self._is_derived.sum())
        with any_settings():
            self._edges = _edges_of(self._groups, len(self.arrays))
        self._is_wide = any(map(_is_wide, nodes))
        self._program = jax.jit(functools.partial(_run, self), static_argnums=(3, 4))

    def __call__(
        self, pages: Pages, delta: Delta, version: Any = None, capacity: int | None = None
    ) -> tuple[Pages, WaveResult]:
        """The pages after ``delta`` and after all that follows from it; and what was done.

        Args:
            pages: of the wave's layout, with what is derived as it follows from the rest: as the
                bus has them, or as `start` gives them.
            delta: what changes; blocks in derived arrays are left out, since only their functions
                write them.
            version: number for the pages in which a byte changes; None leaves the numbers.
            capacity: blocks to make room for in the result's delta; None for all of ``delta`` and
                of what is derived.

        Raises:
            StructureError: pages of another layout.
            InvalidDeltaError: the delta's blocks do not divide these pages; it overflowed (seen
                outside of transformations only: inside, check ``done.overflow``).
            VersionError: a version that is not an integer from 0 to 2³² − 1.

        Cost: compiled once, about as long as its functions; inside a jitted function a run costs
        the delta, 1 µs a node (CPU) and what its functions compute, where ``pages`` are donated;
        else a copy of the pool besides. Using ``done.delta`` costs a copy and one pass more, and
        so does a call outside of one, which gives everything.
        """
        check_pages_and_delta(pages, delta)
        check_whole(delta)
        return self._called(pages, delta, version, capacity)

    def start(self, pages: Pages, version: Any = None) -> tuple[Pages, WaveResult]:
        """The pages with everything derived computed from the rest, whatever was there before.

        Args, Raises and Cost: as for a call.
        """
        return self._called(pages, None, version, None)

    def _called(
        self, pages: Pages, delta: Delta | None, version: Any, capacity: int | None
    ) -> tuple[Pages, WaveResult]:
        check_pages(self.layout, pages)
        number = None if version is None else as_version(version)
        block_words = LINE_WORDS if delta is None else delta.block_words
        room = capacity
        if capacity is not None:
            check_size("capacity", capacity)
        else:
            derived = self._derived_pages * (self.layout.page_words // block_words)
            room = derived + (0 if delta is None else delta.capacity)
        wide = jax.enable_x64(True) if self._is_wide else nullcontext()
        with any_settings(), wide:
            return self._program(pages, delta, number, room, block_words)

    def __repr__(self) -> str:
        return f"CompiledWave({len(self.nodes)} nodes of {len(self._groups)} functions)"


def _grouped(nodes: Sequence[Node]) -> list[list[Node]]:
    """``nodes`` in an order in which each comes after what it reads; runs of one function.

    Of those that could come next, one that runs the same function as the last comes first.
    """
    makers = {name: node for node in nodes for name in node.outputs}
    waits = {node: {makers[n] for n in node.inputs if n in makers} for node in nodes}
    readers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node, above in waits.items():
        for maker in above:
            readers[maker].append(node)
    ready: dict[Any, list[Node]] = {}
    for node in reversed(nodes):
        if not waits[node]:
            ready.setdefault(_function_of(node), []).append(node)
    groups: list[list[Node]] = []
    while ready:
        kind = next(iter(ready))
        groups.append([])
        while ready.get(kind):
            node = ready[kind].pop()
            groups[-1].append(node)
            for reader in readers[node]:
                waits[reader].discard(node)
                if not waits[reader]:
                    ready.setdefault(_function_of(reader), []).append(reader)
        del ready[kind]
    return groups


def _function_of(node: Node) -> Any:
    """What two nodes have in common that one loop runs."""
    paged = None if node.paged is None else node.paged.body
    return node.recipe, paged, node.specs


def _laid_out(nodes: Sequence[Node], start: int, place: dict[str, int]) -> _Group:
    def table(names: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([[place[name] for name in row] for row in names], np.int32)

    values = [node.constants if node.paged is None else node.paged.constants for node in nodes]
    return _Group(
        nodes[0],
        np.arange(start, start + len(nodes), dtype=np.int32),
        table([node.reads for node in nodes]),
        table([node.outputs for node in nodes]),
        [np.stack([np.asarray(v) for v in slot]) for slot in zip(*values, strict=True)],
    )


def _edges_of(groups: Sequence[_Group], arrays: int) -> SparseMatrix:
    """What follows from what (bool), and behind it one row more, for what begins a wave."""
    pairs = {
        (int(read), int(made))
        for group in groups
        for reads, makes in zip(group.reads, group.makes, strict=True)
        for read in reads
        for made in makes
    }
    row, col = np.array(sorted(pairs), np.int32).reshape(-1, 2).T
    row = np.concatenate([row, np.full(arrays, arrays, np.int32)])
    col = np.concatenate([col, np.arange(arrays, dtype=np.int32)])
    size = (arrays + 1, arrays + 1)
    return SparseMatrix.from_coo(row, col, np.ones(row.size, bool), size, "bool")


class _State(NamedTuple):
    """What the groups hand on: the pool, the pages' versions, what changed, what ran."""

    words: Array
    versions: Array
    changed: Array
    ran: Array


def _run(
    wave: CompiledWave,
    pages: Pages,
    delta: Delta | None,
    number: Array | None,
    capacity: int,
    block_words: int,
) -> tuple[Pages, WaveResult]:
    changed = jnp.zeros(len(wave.arrays), bool)
    words, versions = pages.words, pages.version
    if delta is not None and words.size:
        kept = jnp.asarray(wave._is_derived).at[delta.page].get(mode="fill", fill_value=False)
        page = jnp.where(kept, NO_PAGE, delta.page)
        words, marked = mark_written(words, eqx.tree_at(lambda d: d.page, delta, page))
        if number is not None:
            versions = jnp.where(marked, number, versions)
        changed = _any_row(wave, marked)
    before = changed
    state = _State(words, versions, changed, jnp.zeros(len(wave.nodes), bool))
    state = varying_as(state, state, delta, number)
    for group in wave._groups:
        step: Any = functools.partial(_step, wave, group.model, number, delta is None)
        rows: Any = (group.numbers, group.reads, group.makes, group.constants)
        state, _ = lax.scan(step, state, rows)
    after = Pages(state.words, state.versions)
    whole = diff(pages, after, capacity, block_words)
    if delta is not None:
        whole = eqx.tree_at(lambda d: d.overflow, whole, whole.overflow | delta.overflow)
    dirty = jnp.ones(len(wave.nodes), bool) if delta is None else _dirty(wave, before)
    return after, WaveResult(whole, state.changed, dirty, state.ran)


def _any_row(wave: CompiledWave, marked: Array) -> Array:
    """Of each array whether any of its pages is marked."""
    counted = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(marked, dtype=jnp.int32)])
    return counted[wave._end] > counted[wave._first]


def _dirty(wave: CompiledWave, changed: Array) -> Array:
    """The nodes that ``changed`` arrays lead to: paths in `lor_land` from what began the wave."""
    edges = wave._edges
    flags = jnp.concatenate([jnp.ones(edges.nnz - changed.size, bool), changed])
    reached = best_paths(lor_land, edges.with_data(flags), changed.size)[: changed.size]
    first = [group.makes[:, 0] for group in wave._groups]
    return reached[np.concatenate([np.zeros(0, np.int32), *first])]


def _step(
    wave: CompiledWave,
    node: Node,
    number: Array | None,
    is_start: bool,
    state: _State,
    row: tuple[Array, Array, Array, list[Array]],
) -> tuple[_State, None]:
    """Compute one node like ``node``, if anything that it reads has changed."""
    this, reads, makes, constants = row
    assert node.recipe is not None
    page_words = state.words.shape[1]
    first = jnp.asarray(wave._first)

    def rows(array: Array, spec: LeafSpec) -> Array:
        return take_rows(state.words, first[array], -(-spec.nbytes // (4 * page_words)))

    old = [rows(makes[k], spec) for k, spec in enumerate(node.recipe.body.outputs)]
    read = [rows(reads[k], spec) for k, spec in enumerate(node.specs)]
    due = _always(state.words) if is_start else jnp.any(state.changed[reads])

    def compute(read: list[Array], constants: list[Array], old: list[Array]) -> Any:
        made = _computed(node, read, constants, old, is_start, page_words)
        return varying_as(made, state)

    def skip(read: list[Array], constants: list[Array], old: list[Array]) -> Any:
        return old, [varying_as(jnp.bool_(False), state)] * len(old)

    # Constants are not to be folded into the function: the bus passes them as arguments too.
    operands = varying_as((read, lax.optimization_barrier(constants), old), state)
    new, differs = lax.cond(most_of_branches(due), compute, skip, *operands)
    words, versions, changed = state.words, state.versions, state.changed
    for k, (was, now, differ) in enumerate(zip(old, new, differs, strict=True)):
        now = jnp.where(due, now, was)
        page = first[makes[k]]
        changed = changed.at[makes[k]].set(due & differ)
        if number is not None:
            numbers = lax.dynamic_slice(versions, (page,), now.shape[:1])
            numbers = jnp.where(jnp.any(now != was, axis=1), number, numbers)
            versions = lax.dynamic_update_slice(versions, numbers, (page,))
        words = lax.dynamic_update_slice(words, now, (page, jnp.zeros_like(page)))
    return _State(words, versions, changed, state.ran.at[this].set(due)), None


def _always(words: Array) -> Array:
    """True, which XLA does not know: it would merge what a node computes with what reads it."""
    if not words.size:
        return jnp.bool_(True)
    return lax.population_count(words[0, 0]) <= 32


def _computed(
    node: Node,
    read: Sequence[Array],
    constants: Sequence[Array],
    old: Sequence[Array],
    is_start: bool,
    page_words: int,
) -> tuple[list[Array], list[Array]]:
    """The rows of what a node makes, and of each whether it counts as changed."""
    recipe = node.recipe
    assert recipe is not None
    body, own = recipe.body, len(recipe.body.hoisted)
    specs = zip(read, node.specs, body.inputs, strict=True)
    arguments = [_argument(rows.reshape(-1), spec, wanted) for rows, spec, wanted in specs]
    if node.paged is None:
        made = body.call(constants[:own], arguments)
    else:
        made = call_by_rows(node.paged.body, constants, arguments)
    new = [rows_of_array(array, page_words) for array in made]
    if recipe.cutoff == "never":
        return new, [jnp.bool_(True)] * len(new)
    if isinstance(recipe.cutoff, str) or is_start:
        return new, [jnp.any(now != was) for now, was in zip(new, old, strict=True)]
    before, after = ([rows.reshape(-1) for rows in some] for some in (old, new))
    equal = judge(recipe, before, after, constants[own:])
    new = [jnp.where(equal, was, now) for was, now in zip(old, new, strict=True)]
    return new, [~equal] * len(new)


def _argument(words: Array, spec: LeafSpec, wanted: LeafSpec) -> Array:
    """An array as a function takes it: a Python number in JAX's own size of it."""
    if spec.dtype == wanted.dtype:
        return from_words(words, spec)
    if wanted.dtype == "int32":
        return from_words(words, wanted)  # its low word
    return from_words(words, spec).astype(wanted.dtype)


def _is_wide(node: Node) -> bool:
    """Whether JAX's 64-bit types are needed to compute a node."""
    assert node.recipe is not None
    bodies = [node.recipe.body, node.recipe.cutoff]
    pairs = zip(node.specs, node.recipe.body.inputs, strict=True)
    return any(isinstance(body, Body) and body.is_wide for body in bodies) or any(
        spec.dtype != wanted.dtype and wanted.dtype != "int32" for spec, wanted in pairs
    )
