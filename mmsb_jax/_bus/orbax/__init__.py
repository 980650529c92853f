"""Checkpoints of Orbax: where they lie, what they hold, and the writing of them.

`find_steps` (in `files`) looks at a directory and gives a `CheckpointStep` for each checkpoint, of
`CheckpointItem` objects: places, and no bytes. An `ItemReader` (`read`) makes a tree of an item.
`to_orbax` (`write`) makes checkpoints of versions of a log, from a `nested` tree of what is
recorded. A `CheckpointNote` (`notes`) is what Orbax says beside trees, in the note of a commit.
Orbax itself is imported when it is called (`import_orbax`, in `library`).
"""
