"""What follows from what: the graph of arrays, and the waves that recompute along it."""

from mmsb_jax._graph.dag.graph import PageGraph

__all__ = ["PageGraph"]
