"""Edges added and removed with the labels kept in order, so that a cycle is found where it closes.

Labels grow along every edge. A new edge against that order moves labels: those of what follows
from its child up, or those of what its parent follows from down, whichever is done with fewer
edges visited (the two-way search of Bender, Fineman, Gilbert and Tarjan, "A New Approach to
Incremental Cycle Detection and Related Problems", 2016). A label moved down is no level any more;
`settle` makes levels of the labels when somebody asks for them, from what was moved alone.
"""

import heapq
from collections.abc import Iterator

from mmsb_jax._base.errors import GraphCycleError
from mmsb_jax._graph.dag.records import Records
from mmsb_jax._graph.dag.refusals import cycle_error


def add_edge(records: Records, parent: str, child: str, mask: int) -> None:
    """Add edges of the kinds in ``mask``, and the nodes that are missing.

    Cost: the edges of what has to be moved, from the side where there are fewer.
    """
    if parent == child:
        raise cycle_error([parent])
    above, below = records.number(parent), records.number(child)
    if above is None:
        above = _add_above(records, parent, below)
    if below is None:
        below = records.add_node(child, records.label(above) + 1)
    existing = records.mask(above, below)
    if existing | mask == existing:
        return
    if records.label(above) >= records.label(below):
        _make_room(records, above, below)
    records.link(above, below, existing | mask)


def _add_above(records: Records, name: str, below: int | None) -> int:
    """A node without parents, to go above another."""
    label = 0 if below is None else min(0, records.label(below) - 1)
    number = records.add_node(name, label)
    if label:
        records.unsettle(number, children=True)
    return number


def remove_edge(records: Records, parent: int, child: int, mask: int) -> None:
    """Remove the edges of the kinds in ``mask`` from one node to another.

    Cost: a constant; `settle` pays for the levels.
    """
    left = records.mask(parent, child) & ~mask
    if not left:
        _unsettle_below(records, parent, child)
    records.link(parent, child, left)


def remove_node(records: Records, number: int) -> None:
    """Remove a node and its edges.

    Cost: its edges; `settle` pays for the levels.
    """
    for child in records.children(number):
        _unsettle_below(records, number, child)
    records.drop_node(number)


def _unsettle_below(records: Records, parent: int, child: int) -> None:
    """Note that the level of ``child`` may sink when no edge from ``parent`` leads to it."""
    # Labels still grow along edges; only where this one set the child's level, that may be less.
    if records.label(parent) + 1 == records.label(child) or parent in records.unsettled:
        records.unsettle(child, children=False)


def _make_room(records: Records, above: int, below: int) -> None:
    """Move labels until that of ``above`` is less than that of ``below``."""
    up, down = _moved(records, below, above, 1), _moved(records, above, below, -1)
    for raised, lowered in zip(up, down, strict=False):
        if raised is not None:
            for number, label in raised.items():
                records.relabel(number, label)
            return
        if lowered is not None:
            for number, label in lowered.items():
                records.relabel(number, label)
                records.unsettle(number, children=True)
            return


def _moved(records: Records, start: int, goal: int, sign: int) -> Iterator[dict[int, int] | None]:
    """None for each edge visited, then the labels that let ``start`` lie beyond ``goal``.

    With sign 1, labels are raised along edges; with −1, lowered against them.
    """
    neighbours = records.children if sign > 0 else records.parents
    least = {start: sign * records.label(goal) + 1}
    came: dict[int, int] = {}
    # In the order of the old labels, a node is visited after all that may move it.
    waiting = [(sign * records.label(start), start)]
    while waiting:
        _, number = heapq.heappop(waiting)
        needed = least[number] + 1
        for neighbour in neighbours(number):
            if neighbour == goal:
                raise _cycle_through(records, number, goal, came, sign)
            label = sign * records.label(neighbour)
            if label < needed:
                if neighbour not in least:
                    heapq.heappush(waiting, (label, neighbour))
                    came[neighbour] = number
                least[neighbour] = max(needed, least.get(neighbour, needed))
            yield None
    yield {number: sign * label for number, label in least.items()}


def _cycle_through(
    records: Records, number: int, goal: int, came: dict[int, int], sign: int
) -> GraphCycleError:
    walked = [goal, number]
    while walked[-1] in came:
        walked.append(came[walked[-1]])
    # Raising walks from the new edge's child to its parent, lowering the other way round.
    path = walked[::-1] if sign > 0 else walked
    return cycle_error([records.name(n) for n in path])


def settle(records: Records) -> None:
    """Make every label the level: 0 without parents, one more than the highest parent's otherwise.

    Cost: the edges of the nodes whose level changed, and the parents of those where it might have.
    """
    levels: dict[int, int] = {}
    moved: set[int] = set()
    waiting = [(records.label(number), number) for number in records.unsettled]
    heapq.heapify(waiting)
    queued = {number for _, number in waiting}
    while waiting:
        label, number = heapq.heappop(waiting)
        # No parent has moved: none lies higher than just below.
        highest = None if number in moved else label - 1
        level = _level(records, number, levels, highest)
        if level != label:
            levels[number] = level
        elif not records.unsettled.get(number, False):
            continue
        for child in records.children(number):
            moved.add(child)
            if child not in queued:
                queued.add(child)
                heapq.heappush(waiting, (records.label(child), child))
    for number, level in levels.items():
        records.relabel(number, level)
    records.unsettled = type(records.unsettled)()


def _level(records: Records, number: int, levels: dict[int, int], highest: int | None) -> int:
    found = -1
    for parent in records.parents(number):
        level = levels.get(parent)
        found = max(found, records.label(parent) if level is None else level)
        if found == highest:
            break
    return found + 1
