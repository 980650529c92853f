"""A wave: all that is recomputed because of one commit.

A node runs when an input has changed, at most once, after all that it reads. One that may not run
now (it is computed when read, the wave is deferred, its function is not there) is marked stale,
and so are those behind it. Nothing is altered here: a wave says what is to be.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmsb_jax._base.errors import RecomputeError
from mmsb_jax._graph.run.node import Node
from mmsb_jax._graph.run.pagewise import ChangedRows
from mmsb_jax._graph.run.runner import NodeRunner
from mmsb_jax._graph.run.schedule import RunResult, Schedule, Words
from mmsb_jax._graph.wave.node_table import Mark, NodeTable

_MOST_PLANS = 64
_NOTHING: Mapping[Node, bool] = {}
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\w*: .*$", re.MULTILINE)


def _told(error: Exception) -> str:
    """What an error says; of one that holds the traceback of a callback, what that one says."""
    raised = _RAISED.findall(str(error))
    return raised[-1] if raised else str(error)


def _no_room(nodes: Collection[Node], error: OverflowError) -> RecomputeError:
    """The error for a Python integer that has no place in what one of the nodes reads."""
    readers = [
        node.rule.title
        for node in nodes
        if node.recipe is not None
        for spec, wanted in zip(node.specs, node.recipe.body.inputs, strict=True)
        if spec.kind == "int" and spec.dtype != wanted.dtype
    ]
    return RecomputeError(f"{', '.join(readers)}: {error}")


@dataclass(frozen=True, slots=True)
class WaveRequest:
    """What begins a wave.

    Attributes:
        changed: arrays that have changed.
        moved: arrays that have another shape or dtype, for what they control.
        first_run: nodes that have no value yet, or whose inputs are others than before.
        mark_stale: nodes that are other than before, and not to be computed now.
        recompute: stale nodes that are to be computed now, whatever their rule says.
        is_deferred: whether nothing else may run.
    """

    changed: frozenset[str]
    moved: frozenset[str] = frozenset()
    first_run: frozenset[str] = frozenset()
    mark_stale: frozenset[str] = frozenset()
    recompute: frozenset[str] = frozenset()
    is_deferred: bool = False


@dataclass(slots=True)
class Wave:
    """What a wave came to.

    Attributes:
        results: arrays that count as changed, with their words, or the rows that were computed.
        ran: the nodes that ran, in order.
        marks: node → its stale mark after, None for one that is not stale any more; only those
            that differ from before.
    """

    results: dict[str, np.ndarray | ChangedRows] = field(default_factory=dict)
    ran: list[Node] = field(default_factory=list)
    marks: dict[str, Mark | None] = field(default_factory=dict)

    def words(self, name: str, before: Words) -> np.ndarray:
        """The words of an array after it; ``before`` gives those of one that did not change."""
        known = self.results.get(name)
        if isinstance(known, ChangedRows):
            return known.words()
        return before(name) if known is None else known


@dataclass(slots=True)
class Phase:
    """Nodes that can be taken together: small ones, in one program; or others, one by one."""

    is_small: bool
    nodes: list[Node]
    schedules: dict[tuple[str, ...], Schedule] = field(default_factory=dict)


class Waves:
    """Plans and runs waves over one flow."""

    def __init__(self, flow: NodeTable, machine: NodeRunner) -> None:
        self.flow = flow
        self.machine = machine
        self._plans: OrderedDict[object, list[Phase]] = OrderedDict()

    def run(
        self,
        due: WaveRequest,
        words: Words,
        stale: Mapping[str, Mark],
        changed_words: Words | None = None,
    ) -> Wave:
        """Run a wave.

        Args:
            due: what begins it.
            words: array → its words, with the changes that began the wave.
            stale: the marks before.
            changed_words: changed array → which of its words changed (int64[n], ascending); None
                computes arrays whole.
        """
        return _Run(self, due, words, stale, changed_words).finish()

    def run_schedule(
        self,
        schedule: Schedule,
        nodes: Sequence[Node],
        words: Words,
        changed: Collection[str],
        forced: Mapping[Node, bool] = _NOTHING,
        first_run: Collection[str] = (),
    ) -> RunResult:
        """Run small nodes in one program.

        Args:
            schedule: the nodes in their order.
            nodes: the same.
            words: array → its words.
            changed: the arrays that changed.
            forced: nodes that run in any case → whether they have no value yet.
            first_run: names of nodes that are called for the first time.
        """
        try:
            return schedule.run(words, changed, forced)
        except OverflowError as error:
            raise _no_room(nodes, error) from error
        except Exception as error:
            made = [node for node in nodes if node.name in first_run] or nodes
            self.machine.forget(made)
            raise RecomputeError(
                f"{', '.join(node.rule.title for node in made)} raised {type(error).__name__} "
                f"when it was compiled: {' '.join(str(error).split()[:40])}"
            ) from error

    def schedule(self, phase: Phase, nodes: Sequence[Node], is_first: bool) -> Schedule:
        """The schedule of nodes of a small phase that can run, in order; kept with the phase."""
        key = tuple(node.name for node in nodes) if len(nodes) < len(phase.nodes) else ()
        if key not in phase.schedules:
            phase.schedules[key] = self.machine.schedule(nodes, is_first, self.flow.is_read)
        return phase.schedules[key]

    def phases(self, due: WaveRequest) -> list[Phase]:
        """The nodes that a wave may meet, in the order in which they are taken."""
        key = (self.flow.epoch, due)
        phases = self._plans.get(key)
        if phases is None:
            phases = self._plans[key] = self._planned(due)
            if len(self._plans) > _MOST_PLANS:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return phases

    def _planned(self, due: WaveRequest) -> list[Phase]:
        flow = self.flow
        begun = [flow.nodes[name] for name in (*due.first_run, *due.mark_stale, *due.recompute)]
        levels: dict[str, int] = {}
        phases: list[Phase] = []
        for node in flow.affected(due.changed | due.moved, begun):
            makers = (flow.makers.get(name) for name in self._upstream(node))
            least = max((levels.get(maker.name, 0) for maker in makers if maker), default=0)
            is_small = (
                self.may_run(node, due)
                and not flow.is_gated(node)
                and (self.machine.is_small(node))
            )
            place = least + (least % 2 == (1 if is_small else 0))
            levels[node.name] = place
            while len(phases) <= place:
                phases.append(Phase(len(phases) % 2 == 0, []))
            phases[place].nodes.append(node)
        return phases

    def _upstream(self, node: Node) -> Collection[str]:
        if not self.flow.is_gated(node):
            return node.inputs
        gates = (self.flow.graph.parents(name, "control") for name in node.outputs)
        return [*node.inputs, *(gate for some in gates for gate in some)]

    def may_run(self, node: Node, due: WaveRequest) -> bool:
        """Whether a node may be computed in this wave, if it has to."""
        if node.recipe is None:
            return False
        if node.name in due.first_run or node.name in due.recompute:
            return True
        return not due.is_deferred and self.flow.is_eager(node)


class _Run:
    """One wave under way."""

    def __init__(
        self,
        waves: Waves,
        due: WaveRequest,
        words: Words,
        stale: Mapping[str, Mark],
        changed_words: Words | None,
    ) -> None:
        self._waves, self._flow, self._machine = waves, waves.flow, waves.machine
        self._due, self._source, self._before = due, words, stale
        self._source_changes = changed_words
        self._changed = set(due.changed)
        self._wave = Wave()
        for name in due.mark_stale:
            self._set_mark(self._flow.nodes[name], "new")

    def finish(self) -> Wave:
        """Run all phases."""
        for phase in self._waves.phases(self._due):
            if phase.is_small:
                self._run_small(phase)
            else:
                for node in phase.nodes:
                    self._take(node)
        return self._wave

    def _words(self, name: str) -> np.ndarray:
        return self._wave.words(name, self._source)

    def _changed_words(self, name: str) -> np.ndarray:
        """Which words of a changed array changed, ascending."""
        known = self._wave.results.get(name)
        if isinstance(known, ChangedRows):
            return known.changes()[0]
        if known is not None:
            return np.flatnonzero(known != self._source(name))
        assert self._source_changes is not None
        return self._source_changes(name)

    def _mark(self, node: Node) -> Mark | None:
        return self._wave.marks.get(node.name, self._before.get(node.name))

    def _set_mark(self, node: Node, mark: Mark | None) -> None:
        if mark is not None and self._is_first(node):
            mark = "new"
        if mark != self._mark(node):
            self._wave.marks[node.name] = mark

    def _is_first(self, node: Node) -> bool:
        """Whether a node has no value yet."""
        return node.name in self._due.first_run or self._mark(node) == "new"

    def _has_stale_input(self, node: Node) -> bool:
        if not self._before and not self._wave.marks:
            return False
        makers = map(self._flow.makers.get, node.inputs)
        return any(maker is not None and self._mark(maker) for maker in makers)

    def _is_due(self, node: Node) -> bool:
        return self._is_forced(node) or not self._changed.isdisjoint(node.inputs)

    def _take(self, node: Node) -> None:
        """Compute one node, mark it, or leave it as it is."""
        due = self._due
        is_asked = node.name in due.first_run or node.name in due.recompute
        if not is_asked and self._is_hit(node):
            self._set_mark(node, "dirty")
        elif self._has_stale_input(node):
            self._set_mark(node, "dirty" if self._is_due(node) else "pending")
        elif not self._waves.may_run(node, due):
            self._set_mark(node, "dirty" if self._is_due(node) else None)
        else:
            if self._is_due(node):
                self._keep(self._run_alone(node))
            self._set_mark(node, None)

    def _is_hit(self, node: Node) -> bool:
        """Whether an array that controls the node has changed."""
        gates = [g for n in node.outputs for g in self._flow.graph.parents(n, "control")]
        return not (self._changed.isdisjoint(gates) and self._due.moved.isdisjoint(gates))

    def _run_alone(self, node: Node) -> RunResult:
        if self._machine.is_small(node):
            schedule = self._machine.schedule([node], True, self._flow.is_read)
            return self._run_together(schedule, [node], {node: self._is_first(node)})
        is_partial = self._source_changes is not None and not self._is_forced(node)
        try:
            if node.paged is not None:
                changed = self._changed if is_partial else None
                return self._machine.page(node, self._words, changed, self._changed_words)
            return self._machine.call(node, self._words, self._is_first(node))
        except Exception as error:
            raise RecomputeError(
                f"{node.rule.title} raised {type(error).__name__} while it ran: {_told(error)}"
            ) from error

    def _run_together(
        self, schedule: Schedule, nodes: Sequence[Node], forced: Mapping[Node, bool]
    ) -> RunResult:
        words, first_run = self._words if self._wave.results else self._source, self._due.first_run
        run = self._waves.run_schedule
        return run(schedule, nodes, words, self._changed, forced, first_run)

    def _run_small(self, phase: Phase) -> None:
        """Run the small nodes of a phase that can run, in one program; mark the others."""
        runnable, blocked = phase.nodes, []
        forced: dict[Node, bool] = {}
        if self._before or self._wave.marks or self._due.first_run:
            runnable = []
            for node in phase.nodes:
                is_forced, is_first = self._is_forced(node), self._is_first(node)
                if self._has_stale_input(node):
                    self._set_mark(node, "dirty" if is_forced else "pending")
                    blocked.append(node)
                else:
                    self._set_mark(node, None)
                    runnable.append(node)
                    if is_forced:
                        forced[node] = is_first
        if runnable:
            schedule = self._waves.schedule(phase, runnable, bool(self._due.first_run))
            self._keep(self._run_together(schedule, runnable, forced))
        for node in blocked:
            if not self._changed.isdisjoint(node.inputs):
                self._set_mark(node, "dirty")

    def _is_forced(self, node: Node) -> bool:
        return self._is_first(node) or self._mark(node) == "dirty"

    def _keep(self, ran: RunResult) -> None:
        self._wave.ran += ran.nodes
        self._wave.results |= ran.results
        self._changed |= ran.results.keys()
