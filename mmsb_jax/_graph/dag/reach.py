"""What is reached along edges, the order it is kept in, and graphs made of parts of another."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mmsb_jax._graph.dag.bulk import Listing
from mmsb_jax._graph.dag.kinds import kinds_of
from mmsb_jax._graph.dag.records import Records


def by_level(records: Records, numbers: Iterable[int]) -> list[int]:
    """Nodes in topological order: by level, then in the order in which they were added.

    The records are settled.
    """
    return sorted(sorted(numbers), key=records.label)


def reached(starts: list[int], neighbours: Callable[[int], Iterable[int]]) -> set[int]:
    """The nodes that a walk of one step or more leads to from any of ``starts``."""
    waiting = list(starts)
    found: set[int] = set()
    while waiting:
        new = [number for number in neighbours(waiting.pop()) if number not in found]
        found.update(new)
        waiting += new
    return found


def edges(records: Records, mask: int) -> Iterator[tuple[str, str, str]]:
    """The edges of the kinds in ``mask`` as (parent, child, kind), sorted by their numbers."""
    for number in records.live():
        parent = records.name(number)
        for child, kinds in sorted(records.links_below(number).items()):
            for kind in kinds_of(kinds & mask):
                yield parent, records.name(child), kind


def induced(records: Records, numbers: Iterable[int]) -> Listing:
    """Some of the nodes, and the edges between them."""
    kept = sorted(numbers)
    position = {number: i for i, number in enumerate(kept)}
    triples = [
        (position[number], position[child], mask)
        for number in kept
        for child, mask in records.links_below(number).items()
        if child in position
    ]
    parents, children, masks = np.array(triples, np.int64).reshape(-1, 3).T
    return Listing(_numbered(records, kept), parents, children, masks.astype(np.uint8))


def joined(records: Records, new: Listing) -> Listing:
    """All nodes and edges, followed by those of another listing."""
    old = induced(records, records.live())
    numbers = dict(old.numbers)
    place = np.array([numbers.setdefault(name, len(numbers)) for name in new.numbers], np.int64)
    return Listing(
        numbers,
        np.concatenate([old.parents, place[new.parents]]),
        np.concatenate([old.children, place[new.children]]),
        np.concatenate([old.masks, new.masks]),
    )


def closed(records: Records, mask: int, made: int) -> Listing:
    """All nodes, and an edge ``made`` wherever a path along edges of the kinds in ``mask`` leads.

    The records are settled.
    """
    live = records.live()
    position = {number: i for i, number in enumerate(live)}
    # Bit i of below[j]: a path leads from node j to node i.
    below = [0] * len(live)
    for number in reversed(by_level(records, live)):
        bits = 0
        for child in map(position.__getitem__, records.children(number, mask)):
            bits |= below[child] | 1 << child
        below[position[number]] = bits
    children = [_ones(bits) for bits in below]
    parents = np.repeat(np.arange(len(live)), list(map(len, children)))
    masks = np.full(len(parents), made, np.uint8)
    return Listing(_numbered(records, live), parents, np.concatenate([_ones(0), *children]), masks)


def _numbered(records: Records, numbers: list[int]) -> dict[str, int]:
    return dict(zip(map(records.name, numbers), range(len(numbers)), strict=True))


def _ones(bits: int) -> np.ndarray:
    """Places of the ones in ``bits``, int64."""
    octets = np.frombuffer(bits.to_bytes((bits.bit_length() + 7) // 8, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(octets, bitorder="little"))
