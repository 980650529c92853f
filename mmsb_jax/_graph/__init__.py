"""What follows from what: the graph of arrays, and the waves that recompute along it.

`dag` has the graph alone, `run` what computes one node or many, `wave` what is stale after a change
and in which order it is computed.
"""

from mmsb_jax._graph.dag.graph import PageGraph

__all__ = ["PageGraph"]
