"""What runs the nodes of a graph: small ones in one program, large ones alone or page by page.

`bind` makes a `Node` of a `Rule` and the arrays that it reads. The `NodeRunner` decides how it
runs: a `Schedule` lays many small ones out for one run of the `Interpreter`; a `SingleRunner`
calls one function; a `PagewiseRunner` calls it where something changed.
"""
