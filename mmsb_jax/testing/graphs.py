"""Graphs to try algorithms on: of the Graph 500, and a square grid as a road network."""

import numpy as np


def kronecker(
    scale: int, edges_per_node: int = 16, seed: int = 0
) -> tuple[int, np.ndarray, np.ndarray]:
    """The Graph 500 generator: ``n, row, col``; edges drawn twice kept once, nodes shuffled."""
    rng = np.random.default_rng(seed)
    n = 1 << scale
    row = np.zeros(edges_per_node * n, np.int64)
    col = np.zeros_like(row)
    for bit in range(scale):
        quadrant = rng.random(row.shape)
        row |= (quadrant > 0.76).astype(np.int64) << bit
        col |= (((quadrant > 0.57) & (quadrant <= 0.76)) | (quadrant > 0.95)).astype(
            np.int64
        ) << bit
    names = rng.permutation(n)
    row, col = np.divmod(np.unique(names[row] * n + names[col]), n)
    return n, row, col


def grid(side: int) -> tuple[int, np.ndarray, np.ndarray]:
    """A square of nodes, an edge both ways between neighbours: ``n, row, col``."""
    node = np.arange(side * side).reshape(side, side)
    pairs = [(node[:, :-1], node[:, 1:]), (node[:-1], node[1:])]
    one, other = (np.concatenate([pair[end].ravel() for pair in pairs]) for end in (0, 1))
    return side * side, np.concatenate([one, other]), np.concatenate([other, one])
