"""A flow that is interrupted anywhere is taken back, or kept, by calling again."""

from collections.abc import Callable
from typing import Any

import pytest

from mmsb_jax._graph.run.node import Node, Rule
from mmsb_jax._graph.wave import node_table
from mmsb_jax._graph.wave.node_table import NodeTable
from tests._sampled import stepped
from tests.graph._interrupts import interrupted, moments


def node(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], serial: int = 0) -> Node:
    return Node(Rule(name, inputs, None, "none"), serial, inputs, outputs, inputs)


def flow() -> NodeTable:
    made = NodeTable()
    made.add(node("c", ("a", "b"), ("c",)))
    made.add(node("pair", ("c",), ("pair/x", "pair/y"), 1))
    made.add(node("d", ("pair/x",), ("d",), 2))
    made.link([("a", "pair/y", "control"), ("b", "kept", "control"), ("a", "d", "compiler")])
    made.commit()
    return made


def change(flow: NodeTable) -> None:
    """Everything that can be done to a flow."""
    flow.add(node("c", ("b",), ("c",)))
    flow.add(node("pair", ("c", "e"), ("pair/x",), 1))
    flow.add(node("wild", ("c", "a"), ("wild",), 3))
    flow.remove("d")
    flow.link([("wild", "kept", "control"), ("a", "f", "device_sync")])
    flow.unlink([("b", "kept", "control")])
    flow.forget("e")


def told(flow: NodeTable) -> dict[str, Any]:
    """All that a flow says."""
    return {
        "graph": flow.graph,
        "gates": dict(flow.gates),
        "nodes": {name: (n.inputs, n.outputs) for name, n in flow.nodes.items()},
        "makers": {name: n.name for name, n in flow.makers.items()},
        "patterned": set(flow.patterned),
        "readers": {array: set(by_name) for array, by_name in flow._readers.items() if by_name},
        "eager": {name: flow.is_eager(n) for name, n in flow.nodes.items()},
        "below": flow.below(frozenset({"a", "kept"})),
        "journal": flow._journal,
    }


BEFORE = told(flow())


def after() -> dict[str, Any]:
    changed = flow()
    change(changed)
    changed.commit()
    return told(changed)


def restored(subject: NodeTable, epochs: set[int]) -> None:
    assert told(subject) == BEFORE
    assert subject.epoch not in epochs  # plans that were made meanwhile are not taken up


def asked(subject: NodeTable) -> set[int]:
    """Fill the caches of a changed flow, as a step does; the epochs up to here."""
    told(subject)
    return set(range(1, subject.epoch + 1))


@stepped(3)
def test_change_that_is_interrupted_anywhere_is_taken_back(step):
    first = flow()
    moment = 0
    while interrupted(lambda: change(first), node_table, moment):
        epochs = asked(first) - {flow().epoch}
        first.revert()
        restored(first, epochs)
        moment += step
    assert moment > 300
    assert told(first) != BEFORE


def test_revert_that_is_interrupted_anywhere_goes_on_when_called_again():
    count = 0
    for twice in range(0, 400, 7):  # and interrupted again, somewhere
        subject = flow()
        change(subject)
        epochs = asked(subject)
        if not interrupted(subject.revert, node_table, twice):
            break
        interrupted(subject.revert, node_table, twice // 2)
        subject.revert()
        restored(subject, epochs)
        count += 1
    assert count > 20


@pytest.mark.parametrize("act", [change, lambda flow: flow.link([("a", "kept", "control")])])
def test_revert_that_is_interrupted_once_anywhere_ends_where_it_should(act):
    subject = flow()
    for moment in range(2000):
        act(subject)
        epochs = asked(subject)
        was_cut = interrupted(subject.revert, node_table, moment)
        subject.revert()
        restored(subject, epochs)
        if not was_cut:
            break
    assert 20 < moment < 2000


def test_commit_that_is_interrupted_anywhere_is_done_when_called_again():
    wanted, subject = after(), flow()
    change(subject)
    journal = list(subject._journal)
    count = 0
    for _ in moments(subject.commit, node_table):
        subject.commit()
        assert told(subject) == wanted
        subject._journal[:] = journal
        count += 1
    assert count > 3


@pytest.mark.parametrize("act", [NodeTable.commit, NodeTable.revert])
def test_calling_again_when_all_is_done_changes_nothing(act: Callable[[NodeTable], None]):
    subject = flow()
    change(subject)
    act(subject)
    once = told(subject)
    act(subject)
    act(subject)
    assert told(subject) == once
