"""Writing a log: make it, append, sync, rotate, close.

`create` makes a log. The `LogWriter` appends frames, `durability` says when they are synced,
`lineage` whose the next commits are, and `cleanup` removes what nobody needs any more.
"""
