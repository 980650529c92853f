"""Reading a log: its segments and archives, what they hold, and the state at any version.

`recovery` finds the `Segment` files that make the log, an `OpenedLog` looks at them and looks
again, a `LogContents` knows the commits in them, and a `Log` the state at any. `Archive` is what
is left of commits that a compaction dropped, `identity` tells a log from another one at its path.
"""
