"""The pure core: pages, deltas, logs on the device. No files, clocks, threads or globals.

A `Layout` is static: it has a `Region` for each array of a tree. `Layout.pack` makes `Pages` of a
tree, `unpack` the tree again. `diff` makes a `Delta` of two `Pages`, `apply` puts it back,
`compose` and `invert` are its algebra. A `TLog` is a log of deltas inside one program, and
`replay` its fold.
"""
