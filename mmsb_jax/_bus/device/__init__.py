"""State that stays on devices: a commit moves what changed to the host, and no more.

A `Shadow` knows, for each device, the state as it was committed last: a `DeviceShadow` of the
`Piece`s that lie there, which is their bytes (`ByteShadow`) or the digests of their lines
(`DigestShadow`). `find` compares arrays with it where they are, and a `FoundChanges` brings what
differs to the host: patches for the draft of a commit. `policy` says when a shadow is worth its
memory; `audit` is for the one that can err.
"""
