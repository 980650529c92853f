"""What a commit did, told to those who asked.

`kinds` has the table of kinds: what the events of each say of a `CommitOutcome`.
`Events` keeps order: who listens, what waits, and whose turn it is. An `EventLog` is a handler that
keeps events as rows of an array.
"""
