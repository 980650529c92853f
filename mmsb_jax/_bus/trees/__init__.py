"""Trees against the table of arrays: in, and back out.

A `TreeShape` is the structure of a tree; `reconcile` finds what must happen to the table for it,
and `compare` where two differ. A `Stager` copies leaves without waiting. `checkout` makes trees of
states.
"""
