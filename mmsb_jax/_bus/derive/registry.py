"""Derivations: what a bus knows of derived arrays, and what can be asked of them."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterable

import numpy as np

from mmsb_jax._base.errors import CorruptionError, GraphCycleError, MMSBError
from mmsb_jax._bus.derive.inputs import Arrays, arguments_of, unattached
from mmsb_jax._bus.derive.log_entries import links_in, marks_in, rule_entry, rules_in
from mmsb_jax._bus.trees.tree import TreeShape, spec_of
from mmsb_jax._graph.run.node import Node, Rule, Tracer, bind, copy
from mmsb_jax._graph.run.runner import NodeRunner
from mmsb_jax._graph.wave.node_table import Mark, NodeTable
from mmsb_jax._graph.wave.wave import WaveRequest, Waves
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.state.state import StoredState, Table


class Derivations:
    """The derived arrays of a bus.

    Attributes:
        flow: the nodes and the graph.
        stale: node → why its value is not that of its inputs.
        awaited: arrays that an edge of kind control has marked, and that only their user writes.
        runs: node → how often it has run.
        is_deferred: whether commits mark what follows from them, and do not compute it.
    """

    def __init__(self, table: Table) -> None:
        self.flow = NodeTable()
        self.machine = NodeRunner()
        self.waves = Waves(self.flow, self.machine)
        self.tracer = Tracer()
        self.stale: dict[str, Mark] = {}
        self.awaited: frozenset[str] = frozenset()
        self.runs: Counter[str] = Counter()
        self.is_deferred = False
        self.next_serial = 0
        self._fingerprints: dict[str, str] = {}
        self._copies: list[Rule] = []
        if table.graph:
            self._restore(table)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that a commit could set off."""
        return not self.flow.nodes and not len(self.flow.graph)

    @property
    def is_quiet(self) -> bool:
        """Whether functions run after a commit that changes bytes, and nothing else happens."""
        is_marked = self.stale or self.awaited or self.is_deferred or self.flow.gates
        return not is_marked and not self._copies and self.flow.is_settled

    def _restore(self, table: Table) -> None:
        """Take up what the log says: nodes without functions."""
        arrays = Arrays(table, Draft(), None)
        try:
            for recorded in rules_in(table.graph):
                rule = recorded.rule
                self.flow.add(unattached(rule, recorded.serial, recorded.arrays, arrays))
                self._fingerprints[rule.name] = recorded.fingerprint
                if rule.is_copy:
                    self._copies.append(rule)
                self.next_serial = recorded.serial + 1
            self.flow.link(links_in(table.graph))
        except GraphCycleError as error:
            raise CorruptionError(f"the graph in the log has a cycle: {error}") from error
        self.flow.commit()
        self._take_marks(marks_in(table.graph))

    def _take_marks(self, marks: dict[str, Mark]) -> None:
        """Tell apart what waits for its user, what follows from it, and what is to be computed."""
        flow = self.flow
        self.awaited = frozenset(n for n in marks if n not in flow.nodes and flow.is_held(n))
        due = [flow.nodes[n] for n, mark in marks.items() if n in flow.nodes and mark != "pending"]
        waits = flow.below(self.awaited) - {node.name for node in flow.descendants(due)}
        self.stale = {
            name: mark
            for name, mark in marks.items()
            if name in flow.nodes and (mark != "pending" or name not in waits)
        }

    def stale_nodes(self) -> frozenset[str]:
        """The nodes that are stale, or follow from an array that waits for its user."""
        return self.flow.below(self.awaited) | self.stale.keys()

    def stale_arrays(self) -> tuple[str, ...]:
        """The arrays that are stale, by name."""
        made = (array for name in self.stale_nodes() for array in self.flow.nodes[name].outputs)
        return tuple(sorted([*made, *self.awaited]))

    def is_known(self, rule: Rule) -> bool:
        """Whether ``rule`` is recorded as it is, so that only its function has to be attached."""
        node = self.flow.nodes.get(rule.name)
        return (
            node is not None
            and node.recipe is None
            and (rule_entry(node.rule, 0, (), "") == rule_entry(rule, 0, (), ""))
        )

    def attach(self, rule: Rule, table: Table, shape: TreeShape | None) -> bool:
        """Give a recorded node its function again; False where it does something else now."""
        old = self.flow.nodes[rule.name]
        arrays = Arrays(table, Draft(), shape)
        arguments = arguments_of(rule.inputs, arrays, old.outputs, self.flow.nodes)
        node = bind(self.tracer, rule, old.serial, arguments)
        assert node.recipe is not None
        infos = [arrays.find(name) for name in node.outputs]
        specs = [None if info is None else spec_of(info) for info in infos]
        is_same = rule.function is copy or node.fingerprint == self._fingerprints[rule.name]
        if not is_same or node.outputs != old.outputs or specs != list(node.recipe.body.outputs):
            return False
        try:
            self.flow.add(node)
            self.flow.commit()
        except BaseException:
            self.flow.revert()
            raise
        return True

    def attach_copies(self, table: Table, shape: TreeShape | None) -> None:
        """Give what `Bus.link` made its function again, once: it is known without the user."""
        while self._copies:
            rule = dataclasses.replace(self._copies[-1], function=copy)
            if rule.name in self.flow.nodes and self.is_known(rule):
                with contextlib.suppress(MMSBError):  # as in `attach_from`
                    self.attach(rule, table, shape)
            self._copies.pop()

    def attach_from(self, other: "Derivations", table: Table, shape: TreeShape | None) -> None:
        """Take the functions of another bus for the nodes that both have."""
        for name in list(self.flow.nodes):
            known = other.flow.nodes.get(name)
            if known is not None and known.recipe is not None and self.is_known(known.rule):
                with contextlib.suppress(MMSBError):  # arrays were of other shapes then
                    self.attach(known.rule, table, shape)

    def stale_above(self, names: Iterable[str]) -> frozenset[str]:
        """The stale nodes that the arrays ``names`` are made from, their own among them."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            node = self.flow.makers.get(waiting.pop())
            if node is not None and node.name in self.stale and node.name not in found:
                found.add(node.name)
                waiting += node.inputs
        return frozenset(found)

    def deferred(self) -> frozenset[str]:
        """The stale nodes that `propagate` computes: all that each commit would have computed."""
        flow = self.flow
        eager = [flow.nodes[name] for name in self.stale if flow.is_eager(flow.nodes[name])]
        above = self.stale_above(name for node in eager for name in node.outputs)
        return self.computable(above)

    def computable(self, names: frozenset[str]) -> frozenset[str]:
        """Those of some stale nodes that have a function, and whose stale inputs have one."""
        nodes = self.flow.ordered(self.flow.nodes[name] for name in names)
        able: set[str] = set()
        for node in nodes:
            makers = [self.flow.makers.get(name) for name in node.inputs]
            if node.recipe is not None and all(
                maker is None or maker.name not in self.stale or maker.name in able
                for maker in makers
            ):
                able.add(node.name)
        return frozenset(able)

    def check(self, state: StoredState, shape: TreeShape | None) -> list[str]:
        """What is wrong with the derived arrays of ``state``: computed anew they have other bytes.

        Nodes that are stale, or have no function, are left out.
        """
        arrays = Arrays(state.table, Draft(), shape)
        faults = []
        for node in self.flow.ordered(self.flow.nodes.values()):
            if node.recipe is not None and node.name not in self.stale:
                fault = self._fault_of(node, arrays, state)
                faults += [f"{node.rule.title}: {fault}"] if fault else []
        return faults

    def _fault_of(self, node: Node, arrays: Arrays, state: StoredState) -> str | None:
        arguments = arguments_of(node.rule.inputs, arrays, node.outputs, self.flow.nodes)
        try:
            again = bind(Tracer(), node.rule, 0, arguments)
            if again.fingerprint != node.fingerprint:
                return "traced again it is another function: it depends on more than its inputs"

            def words(name: str) -> np.ndarray:
                return state.words[state.table.ids[name]]

            due = WaveRequest(frozenset(), first_run=frozenset({node.name}), is_deferred=True)
            waves = [self.waves.run(due, words, {}) for _ in range(2)]
        except MMSBError as error:
            return str(error)
        for name in node.outputs:
            first, second = (wave.words(name, words) for wave in waves)
            if not np.array_equal(first, second):
                return f"run twice it gave {name!r} different bytes"
            # With a function as `equal`, what is kept may be an older result.
            if not callable(node.rule.equal) and not np.array_equal(first, words(name)):
                return f"computed anew {name!r} has other bytes than the log"
        return None

    def revert(self) -> None:
        """Take back what a commit that did not land has done to the graph."""
        self.flow.revert()
