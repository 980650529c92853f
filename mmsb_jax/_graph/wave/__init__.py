"""Waves: which nodes are stale after a change, and their recomputation in order."""
