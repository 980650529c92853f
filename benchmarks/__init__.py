"""Benchmarks: each prints its figure, the limit or peer measured in the same run, and the ratio."""
