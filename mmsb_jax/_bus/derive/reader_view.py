"""A view of derived arrays beside a reader: computed when they are read, and logged nowhere."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from mmsb_jax._base.errors import StructureError
from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.derive.inputs import Arrays, arguments_of
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._bus.trees.places import PlaceOf
from mmsb_jax._bus.trees.tree import TreeShape, info_of
from mmsb_jax._graph.dag.refusals import cycle_error
from mmsb_jax._graph.run.interpreter import word_count
from mmsb_jax._graph.run.node import Node, Rule, Tracer, bind
from mmsb_jax._graph.run.runner import NodeRunner
from mmsb_jax._graph.wave.function import DerivedGraph
from mmsb_jax._graph.wave.node_table import NodeTable
from mmsb_jax._graph.wave.wave import WaveRequest, Waves
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.record import Op, OpCode
from mmsb_jax._store.state.state import StoredState


class DerivedView:
    """The derived arrays of a reader."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._shape: TreeShape | None = None
        self._machine, self._tracer = NodeRunner(), Tracer()
        self._recorded: tuple[bytes, Derivations] | None = None
        self._bound: tuple[bytes, NodeTable, Arrays] | None = None
        self._computed: dict[str, tuple[bytes, dict[str, Any]]] = {}

    def derive(self, rule: Rule, state: StoredState, shape: TreeShape | None) -> None:
        """Take a rule up; its function is traced now, so that faults come to light."""
        known = self.recorded(state).flow.makers
        if state.table.ids.get(rule.name) is not None and rule.name not in known:
            raise StructureError(
                f"{rule.call}: there is an array named {rule.name!r} already, which was written. "
                f"Choose another name."
            )
        rules = self._rules | {rule.name: rule}
        self._shape = shape
        self._bound = (state.table.chain, *self._bind(rules, state))
        self._rules = rules
        self._computed.clear()

    def recorded(self, state: StoredState) -> Derivations:
        """What the log says is derived."""
        if self._recorded is None or self._recorded[0] != state.table.chain:
            self._recorded = state.table.chain, Derivations(state.table)
        return self._recorded[1]

    def graph(self, state: StoredState) -> DerivedGraph:
        """What the log says, with what is derived here."""
        recorded, flow = self.recorded(state).flow, self._flow(state)[0]
        nodes = [*recorded.nodes.values(), *flow.nodes.values()]
        return DerivedGraph.of(recorded.graph.extend(flow.graph.edges()), nodes)

    def _flow(self, state: StoredState) -> tuple[NodeTable, Arrays]:
        """What is derived here, over the arrays of ``state``."""
        if self._bound is None or self._bound[0] != state.table.chain:
            self._bound = (state.table.chain, *self._bind(self._rules, state))
        return self._bound[1:]

    def _bind(self, rules: dict[str, Rule], state: StoredState) -> tuple[NodeTable, Arrays]:
        flow, arrays = NodeTable(), Arrays(state.table, Draft(), self._shape)
        for serial, rule in enumerate(_in_order(rules)):
            arguments = arguments_of(rule.inputs, arrays, (rule.name,), flow.nodes)
            node = bind(self._tracer, rule, serial, arguments)
            flow.add(node)
            assert node.recipe is not None
            for name, spec in zip(node.outputs, node.recipe.body.outputs, strict=True):
                info = info_of(arrays.next_id, name, spec, member=False)
                arrays.operate(Op(OpCode.CREATE, info))
        return flow, arrays

    def read(self, name: str, state: StoredState, place_of: PlaceOf) -> Any:
        """The value of a derived array at ``state``; None where it is not derived here."""
        if not self._rules:
            return None
        flow, arrays = self._flow(state)
        node = flow.makers.get(name)
        if node is None:
            return None
        chain, values = self._computed.get(node.name, (None, {}))
        if chain != state.table.chain:
            values = self._compute(node, flow, state)
            self._computed[node.name] = (state.table.chain, values)
        info = arrays.find(name)
        assert info is not None
        return checkouts.array_of(info, values[name].view(np.uint8)[: info.nbytes], place_of)

    def _compute(self, node: Node, flow: NodeTable, state: StoredState) -> dict[str, Any]:
        above = flow.graph.ancestors(node.outputs)
        first_run = {flow.makers[name].name for name in above if name in flow.makers} | {node.name}
        sizes = {
            name: word_count(spec)
            for maker in map(flow.nodes.__getitem__, first_run)
            if maker.recipe is not None
            for name, spec in zip(maker.outputs, maker.recipe.body.outputs, strict=True)
        }

        def words(name: str) -> np.ndarray:
            if name in sizes:
                return np.zeros(sizes[name], np.uint32)
            return state.words[state.table.ids[name]]

        due = WaveRequest(frozenset(), first_run=frozenset(first_run), is_deferred=True)
        wave = Waves(flow, self._machine).run(due, words, {})
        return {name: wave.words(name, words) for name in node.outputs}


def _in_order(rules: Mapping[str, Rule]) -> list[Rule]:
    """Rules behind those that they read."""
    sorter = TopologicalSorter(
        {name: [n for n in rules if n != name and _reads(rule, n)] for name, rule in rules.items()}
    )
    try:
        return [rules[name] for name in sorter.static_order()]
    except CycleError as error:
        raise cycle_error(error.args[1][:-1]) from error


def _reads(rule: Rule, name: str) -> bool:
    """Whether a rule reads what one of another name makes."""
    exact = any(text.startswith(f"{name}/") for text in rule.inputs)
    return exact or matcher(rule.inputs).fullmatch(name) is not None
