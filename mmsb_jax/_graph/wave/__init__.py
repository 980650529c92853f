"""Waves: which nodes are stale after a change, and their recomputation in order.

The `NodeTable` knows the nodes, their levels and what is stale, and takes a change back. `Waves`
runs a `WaveRequest` and gives a `Wave`. `DerivedGraph` is the same as a pure function of typed
arrays.
"""
