"""State that stays on devices: a commit moves what changed to the host, and no more.

A `Shadow` keeps, on each device, the state as it was committed last: a `DeviceShadow` holds the
lines of the `Piece`s that lie there. `find` compares arrays with it where they are, and a
`FoundChanges` brings the words that differ to the host: patches for the draft of a commit.
`policy` says when a shadow is worth its memory.
"""
