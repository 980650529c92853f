"""The state of a log at one version, and its snapshots.

A `StoredState` is a `Table` of arrays, their words, and what `apply` does to both. A snapshot is
all of it in one file. `BytesAside` are of arrays that were saved apart from the others.
"""
