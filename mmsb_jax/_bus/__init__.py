"""The bus: a head, a log, a queue. The only place with state.

`Bus` (in `bus`) is what users hold. It composes: a `Session` (the log, its lock, and the `Engine`
if it writes), an `ArrayWriter` with the `TreeWriter` beside it, and `DerivedArrays`. `open` is for
users, `opening` makes, opens and forks logs for both.
"""
