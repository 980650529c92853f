"""Writing a log: append, sync, rotate, close.

The `LogWriter` appends frames, `GroupSync` syncs a group of commits in a thread, `lineage` says
whose the next commits are, `cleanup` removes what nobody needs any more.
"""
