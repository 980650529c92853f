"""A second reader of the log on disk, written from docs/format.md alone.

It shares no code with `mmsb_jax`, and the tests hold the library against it. It is as plain as can
be: it reads whole files, replays from the oldest version, and keeps every version. It needs Python,
xxhash and zstandard, no more; no NumPy and no JAX, so arrays are bytes with a dtype and a shape.

Each module follows sections of the page, and imports only what stands before it: `frames` (3),
`manifest` (4, 5), `commits` (6), `codings` (7), `digests` (8), `states` (10, 11), `segments` (5,
12), `log` (9, 12), `streams` (16).

`ReadLog` reads a log, and its `states` replays it, with every digest computed from the bytes. A log
that is not to be read raises `DamagedError` or `NewerFormatError`; what a crash has left at the end
is left out, and `left_out` says why. `read_stream` reads a stream. From the project's root:

>>> from pathlib import Path
>>> from tools import format_reader as reader
>>> log = reader.ReadLog(Path("tests/golden/v1/whole"))
>>> [(commit.version, commit.step, commit.source) for commit in log.commits[:3]]
[(1, 0, 'train'), (2, 1, 'train'), (3, None, 'nothing changed')]
>>> first, *_ = log.states()
>>> [(array.name, array.dtype, array.shape) for array in first.arrays.values()][:2]
[('params/w', 'float32', (8, 12)), ('params/b', 'bfloat16', (5,))]
>>> first.by_name()["step"]
b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
"""

from tools.format_reader.commits import (
    CHUNK,
    COMMIT,
    DIGEST,
    DIGEST_ONLY,
    DIGESTS,
    EXTRA_IS_JSON,
    HAS_STEP,
    OPERATION,
    RECORD,
    STRUCTURE_CHANGED,
    Commit,
    Operation,
    itemsize,
)
from tools.format_reader.digests import (
    array_term,
    constant_term,
    hash_of_frames,
    lanes_of,
    mix,
)
from tools.format_reader.frames import (
    HEADER,
    BadError,
    DamagedError,
    NewerFormatError,
    ceil64,
)
from tools.format_reader.log import ARCHIVE, ARCHIVED, BLOCK, INDEX, ReadLog
from tools.format_reader.manifest import ANCESTOR, ARCHIVE_ENTRY, COMPACTION, MANIFEST
from tools.format_reader.segments import SEGMENT
from tools.format_reader.states import State, read_blob
from tools.format_reader.streams import STREAM, read_stream

__all__ = [
    "ANCESTOR",
    "ARCHIVE",
    "ARCHIVED",
    "ARCHIVE_ENTRY",
    "BLOCK",
    "CHUNK",
    "COMMIT",
    "COMPACTION",
    "DIGEST",
    "DIGESTS",
    "DIGEST_ONLY",
    "EXTRA_IS_JSON",
    "HAS_STEP",
    "HEADER",
    "INDEX",
    "MANIFEST",
    "OPERATION",
    "RECORD",
    "SEGMENT",
    "STREAM",
    "STRUCTURE_CHANGED",
    "BadError",
    "Commit",
    "DamagedError",
    "NewerFormatError",
    "Operation",
    "ReadLog",
    "State",
    "array_term",
    "ceil64",
    "constant_term",
    "hash_of_frames",
    "itemsize",
    "lanes_of",
    "mix",
    "read_blob",
    "read_stream",
]
