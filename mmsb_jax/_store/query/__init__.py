"""What can be asked of a log: commits, differences, patches, what lands next.

`Commit` is a commit as users see it, `StateDiff` what differs between two states, `Follower` keeps
up with a log that somebody else writes.
"""
