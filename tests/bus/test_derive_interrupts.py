"""A step that is interrupted anywhere is done, or taken back, by calling again."""

from collections import Counter
from typing import Any

import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.derive import registry, transaction
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.derive.transaction import DerivationTransaction, GraphEdit, prepare
from mmsb_jax._graph.run.node import Rule, Tracer
from mmsb_jax._graph.wave import node_table
from mmsb_jax._store.commit.compare import Changes
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.plan import Plan
from tests.graph._graphs import Compiled, F, head, insides
from tests.graph._interrupts import interrupted, moments


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def bus(bus, compiled) -> mmsb.Bus:
    """Two derived arrays, one of them stale, and a plot that waits."""
    compiled.lend(bus).commit({"a": F(1, 2), "gate": F(0)})
    bus.create("plot", (2,))
    with bus.batch():
        bus.derive("c", ["a"], _double)
        bus.derive("d", ["c", "plot"], _sum)
        bus.derive("gone", ["a"], _double)
        bus.link("gate", "plot", kind="control")
        bus.link("gate", "c", kind="control")
    bus.commit({"a": F(1, 2), "gate": F(1)})
    return bus


def _double(x: Any) -> Any:
    return x * 2


def _sum(x: Any, y: Any) -> Any:
    return x + y


CHANGE = GraphEdit(
    rules={"e": Rule("e", ("c",), _double, "double"), "c": Rule("c", ("a",), _double, "again")},
    dropped=["gone"],
    links=[("a", "plot", "compiler")],
    unlinked=[("gate", "plot", "control")],
    recompute=frozenset({"c", "d"}),
)


def told(bus: mmsb.Bus) -> dict[str, Any]:
    """All that a bus knows of what is derived."""
    known = insides(bus)
    flow = known.flow
    return {
        "stale": dict(known.stale),
        "awaited": known.awaited,
        "runs": dict(known.runs),
        "serial": known.next_serial,
        "graph": flow.graph,
        "gates": dict(flow.gates),
        "nodes": {name: node.reads for name, node in flow.nodes.items()},
        "makers": {name: node.name for name, node in flow.makers.items()},
        "journal": list(flow._journal),
    }


def followed(bus: mmsb.Bus) -> DerivationTransaction:
    """A step of `CHANGE`, up to where its commit would be in the log."""
    state, draft = bus._session.head(), Draft()
    draft, step = prepare(insides(bus), state.table, draft, CHANGE, bus._arrays.shape)
    assert step is not None
    step.run(Plan(state, draft), Changes())
    assert step.wave.ran
    return step


@pytest.mark.parametrize("where", [transaction, node_table])
def test_done_that_is_interrupted_anywhere_comes_to_the_same_when_called_again(bus, where):
    known, step = insides(bus), followed(bus)
    before = dict(step._stale), Counter(known.runs), known.awaited, known.next_serial
    journal, stale = list(known.flow._journal), known.stale

    def again() -> None:
        """As it was before `done`."""
        known.stale, known.runs = dict(stale), Counter(before[1])
        known.awaited, known.next_serial = before[2:]
        known.flow._journal[:] = journal
        step._stale = dict(before[0])

    step.done()
    wanted = told(bus)
    assert wanted["runs"] == {"c": 2, "d": 1, "e": 1}
    assert (wanted["stale"], wanted["awaited"]) == ({}, frozenset())
    again()
    count = 0
    for _ in moments(step.done, where):
        step.done()
        assert told(bus) == wanted
        again()
        count += 1
    assert count >= (80 if where is transaction else 5)


@pytest.mark.parametrize("where", [transaction, node_table, registry])
def test_prepare_and_undo_that_are_interrupted_anywhere_leave_all_as_it_was(bus, where):
    before, bytes_before = told(bus), head(bus)
    moment = 0
    while True:
        was_cut = interrupted(lambda: followed(bus), where, moment)
        if not was_cut:
            break
        insides(bus).flow.revert()  # as the next step does first
        assert told(bus) == before
        moment += 7 if where is transaction else 1  # one in seven of the longest
    assert moment > 20
    insides(bus).flow.revert()
    for moment in range(500):
        step = followed(bus)
        if not interrupted(step.undo, where, moment):
            break
        step.undo()
        assert told(bus) == before
    insides(bus).flow.revert()
    assert (told(bus), head(bus)) == (before, bytes_before)
    assert bus.write("plot", F(1, 1)).changed == ("plot",)


def test_undo_that_two_interrupts_cut_is_finished_by_the_next_step(bus):
    before = told(bus)
    step = followed(bus)
    assert interrupted(step.undo, node_table, 40)
    assert insides(bus).flow._journal
    bus.write("plot", F(1, 1))
    after = told(bus)
    assert (after["graph"], after["nodes"], after["journal"]) == (
        before["graph"],
        before["nodes"],
        [],
    )


@pytest.mark.parametrize("where", [node_table, registry])
def test_attach_that_is_interrupted_anywhere_leaves_the_node_as_it_was(bus, where):
    table, shape, before = bus._session.head().table, bus._arrays.shape, insides(bus).flow.graph
    rule, tracer, moment = insides(bus).flow.nodes["d"].rule, Tracer(), 0
    while True:
        known = Derivations(table)
        known.tracer = tracer
        was_cut = interrupted(lambda known=known: known.attach(rule, table, shape), where, moment)
        node = known.flow.nodes["d"]
        assert (known.flow.graph, known.flow.makers["d"], known.flow._journal) == (before, node, [])
        if not was_cut:
            break
        moment += 1
    assert moment > 50
    assert node.recipe is not None
