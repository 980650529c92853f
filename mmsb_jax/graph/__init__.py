"""What follows from what: the graph of arrays, and the waves that recompute along it."""

from mmsb_jax.graph._graph import PageGraph

__all__ = ["PageGraph"]
