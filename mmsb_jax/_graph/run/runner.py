"""The machine: what has been compiled for a graph, and the running of its nodes.

Small pure functions run together in one interpreter, whose schedule is data; large ones, and what
may fail while it runs, are called one by one. A node runs the one way or the other for good, so
that its bytes do not depend on what else runs.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from mmsb_jax._compile.body import Body
from mmsb_jax._compile.made import ProgramLog
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._graph.run.interpreter import Interpreter, Recipe, Shape, word_count
from mmsb_jax._graph.run.node import Node
from mmsb_jax._graph.run.pagewise import PagewiseRunner, capacity_of, rows_of
from mmsb_jax._graph.run.schedule import BufferPlan, RunResult, Schedule, Words
from mmsb_jax._graph.run.single import SingleRunner, as_input

_MOST_RECIPES = 32
_MOST_OPERAND_WORDS = 4096
_MOST_STEP_WORDS = 16384
_MOST_INPUTS = 16
_MOST_OPERANDS = 32
_MOST_RESULTS = 4


class NodeRunner:
    """What has been compiled.

    Attributes:
        log: the programs, and why each was compiled.
    """

    def __init__(self) -> None:
        self.log = ProgramLog()
        self._inputs_of_callers: dict[str, tuple[LeafSpec, ...]] = {}
        self._recipes: dict[Recipe, None] = {}
        self._interpreters: list[Interpreter] = []
        self._callers: dict[Recipe, SingleRunner] = {}
        self._pagers: dict[Body, PagewiseRunner] = {}
        self._limits: dict[str, int] = {"inputs": 1, "operands": 1, "results": 1, "window": 1}

    def is_small(self, node: Node) -> bool:
        """Whether the interpreter runs a node; the same answer for good."""
        recipe = node.recipe
        assert recipe is not None
        if node.paged is None and recipe in self._recipes:
            return True
        if len(self._recipes) >= _MOST_RECIPES or not _fits(node, recipe):
            return False
        self._recipes[recipe] = None
        return True

    def forget(self, nodes: Collection[Node]) -> None:
        """Forget the functions of nodes that could not be compiled, and the programs with them."""
        recipes = {node.recipe for node in nodes if node.recipe is not None}
        kept = [i for i in self._interpreters if recipes.isdisjoint(i.shape.recipes)]
        self._interpreters = kept
        for recipe in recipes:
            self._recipes.pop(recipe, None)

    def call(self, node: Node, words: Words, is_first: bool) -> RunResult:
        """Run one node by itself.

        Args:
            node: what to run.
            words: array → its words.
            is_first: whether it has no value yet, to which the new one could be equal.
        """
        recipe = node.recipe
        assert recipe is not None
        caller = self._callers.get(recipe)
        if caller is None:
            caller = self._callers[recipe] = SingleRunner(recipe)
            self.log.add(node.name, self._why_alone(node, recipe), caller.compile_time)
        old = [words(name) for name in node.outputs]
        results = caller.run(_inputs_of(node, words), node.constants, old, is_first)
        changed = zip(node.outputs, results, strict=True)
        return RunResult([node], {name: now for name, (now, differs) in changed if differs})

    def page(
        self, node: Node, words: Words, changed: Collection[str] | None, changed_words: Words
    ) -> RunResult:
        """Run a node page by page.

        Args:
            node: it has a body of one row.
            words: array → its words.
            changed: the arrays that changed; None computes all pages.
            changed_words: changed array → which of its words changed.
        """
        assert node.paged is not None
        body = node.paged.body
        pager = self._pagers.get(body)
        if pager is None:
            pager = self._pagers[body] = PagewiseRunner(body)
        rows = rows_of(node.specs, node.reads, changed, changed_words)
        capacity = capacity_of(rows)
        if capacity not in pager.capacities:
            why = f"{capacity:,} of its pages at once: no program for so many yet"
            self.log.add(node.name, why, pager.compile_time)
        old = [words(name) for name in node.outputs]
        assert node.recipe is not None
        sizes = [spec.nbytes for spec in node.recipe.body.outputs]
        made = pager.run(_inputs_of(node, words), node.paged.constants, old, sizes, rows)
        is_always = node.rule.equal == "never"
        changes = zip(node.outputs, made, strict=True)
        return RunResult(
            [node], {n: rows for n, rows in changes if is_always or rows.changes()[0].size}
        )

    def schedule(
        self, nodes: Sequence[Node], is_first: bool, is_read: Callable[[str], bool]
    ) -> Schedule:
        """A schedule of small nodes, each behind those that it depends on.

        Args:
            nodes: what may run.
            is_first: whether this is their first value: then no more is compiled than they need.
            is_read: whether anything depends on an array.
        """
        recipes = {node.recipe for node in nodes if node.recipe is not None}
        for node in nodes:
            assert node.recipe is not None
            self._grow("inputs", len(node.inputs))
            self._grow("operands", len(node.recipe.operands))
            self._grow("results", len(node.outputs))
            self._grow("window", max(32, node.recipe.result_words))
        plan = BufferPlan(nodes, self._limits["results"], is_read)
        wanted = recipes if is_first else self._recipes.keys()
        return Schedule(plan, self._interpreter(plan, recipes, wanted))

    def _why_alone(self, node: Node, recipe: Recipe) -> str:
        """Why a node that runs by itself needs a program."""
        inputs = tuple(recipe.body.inputs)
        before = self._inputs_of_callers.get(node.name)
        self._inputs_of_callers[node.name] = inputs
        if before is None:
            return "its first run: it is large or may fail, and runs by itself"
        pairs = zip(node.reads, before, inputs, strict=False)
        changed = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
        return f"other inputs: {', '.join(changed[:4])}" if changed else "another function"

    def _why_together(self, plan: BufferPlan, shape: Shape) -> str:
        """Why small nodes need another program than those that are there."""
        if not self._interpreters:
            return "the first wave of small functions"
        known = {recipe for each in self._interpreters for recipe in each.shape.recipes}
        new = [node.name for node in plan.nodes if node.recipe not in known]
        if new:
            more = f" and {len(new) - 4:,} more" if len(new) > 4 else ""
            return f"functions that no program has: {', '.join(new[:4])}{more}"
        last = self._interpreters[-1].shape
        sizes = [
            f"{name} {getattr(last, name):,} -> {getattr(shape, name):,}"
            for name in Shape._fields
            if name != "recipes" and getattr(last, name) != getattr(shape, name)
        ]
        return f"room for another wave: {', '.join(sizes)}" if sizes else "functions together anew"

    def _grow(self, name: str, least: int) -> None:
        self._limits[name] = max(self._limits[name], 1 << (least - 1).bit_length())

    def _interpreter(
        self, plan: BufferPlan, needed: Collection[Any], wanted: Collection[Any]
    ) -> Interpreter:
        """One that knows the recipes and has room: one that is there, or a new one."""
        step_words = self._limits["results"] + self._limits["window"]
        loaded = _rounded(plan.loaded, 1024)
        shape = Shape(
            recipes=tuple(wanted),
            steps=_rounded(len(plan.nodes), 1024),
            loaded=loaded,
            words=_rounded(max(plan.words + step_words, loaded), 2048),
            **self._limits,
        )
        for known in self._interpreters:
            if known.shape._replace(recipes=()) == shape._replace(recipes=()) and (
                set(known.shape.recipes).issuperset(needed)
            ):
                return known
        interpreter = Interpreter(shape)
        name = f"{len(shape.recipes):,} small functions"
        self.log.add(name, self._why_together(plan, shape), interpreter.compile_time)
        self._interpreters.append(interpreter)
        return interpreter


def _fits(node: Node, recipe: Recipe) -> bool:
    sizes = list(map(word_count, recipe.operands))
    bodies = [recipe.body, *([] if isinstance(recipe.cutoff, str) else [recipe.cutoff])]
    return (
        node.paged is None
        and not any(body.can_fail for body in bodies)
        and len(node.inputs) <= _MOST_INPUTS
        and len(sizes) <= _MOST_OPERANDS
        and len(node.outputs) <= _MOST_RESULTS
        and max(sizes, default=0) <= _MOST_OPERAND_WORDS
        and sum(sizes) <= _MOST_STEP_WORDS
        and recipe.result_words <= _MOST_OPERAND_WORDS
    )


def _rounded(size: int, least: int) -> int:
    """``size`` rounded up to one of few sizes, so that little is compiled."""
    while least < size:
        least *= 2
    return least * 3 // 4 if size <= least * 3 // 4 else least


def _inputs_of(node: Node, words: Words) -> list[np.ndarray]:
    assert node.recipe is not None
    inputs = zip(node.reads, node.specs, node.recipe.body.inputs, strict=True)
    return [as_input(words(name), spec, wanted) for name, spec, wanted in inputs]
