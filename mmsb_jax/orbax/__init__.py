"""Checkpoints of Orbax in and out, and its manager over a log.

`from_orbax` (in `_intake`) reads a directory of checkpoints into a log; `Bus.to_orbax` writes one.
"""
