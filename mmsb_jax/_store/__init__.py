"""The log on disk, and the state in memory. It imports no JAX.

From the bottom up: `files`, `format`, `encoding`, `state`, `log`, `writer`, `commit` and `query`,
`maintain`, `transfer`. Each knows only those before it.
"""
