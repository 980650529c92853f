"""What a commit did, told to those who asked.

`Events` keeps order: who listens, what waits, and whose turn it is. An `EventLog` is a handler that
keeps events as rows of an array.
"""
