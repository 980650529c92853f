"""Logs that say what no writer says, with hashes that fit."""

import json
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from mmsb_jax._store.files.protocol import Files as AnyFiles
from mmsb_jax._store.format.chunk import Chunk
from mmsb_jax._store.format.data import NewCommit
from mmsb_jax._store.format.frame import Kind, build_frame
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import MANIFEST_NAME
from mmsb_jax._store.writer import writer as _writer
from tests.store._logs import Scribe, names_of
from tests.torture._bundle import Frame, frames_of
from tests.torture._forged_record import ForgedRecord
from tests.torture._seal import Files, seal

MACHINE_BYTES = 64 << 20
"""What a small machine has in all."""


def append_forged(scribe: Scribe, chunks: Sequence[Chunk] = (), **fields: Any) -> None:
    """A commit behind the newest that says ``fields``, with hashes and a chain that fit."""
    said: dict[str, Any] = {"next_id": 3} | fields
    scribe.writer.append(NewCommit(ForgedRecord(b"", b"", 0, 0, 1, **said), chunks))
    scribe.writer.sync()


def append_forged_tags(scribe: Scribe, changes: Any) -> None:
    """A frame that says anything of tags."""
    with mock.patch.object(_writer, "encode_tags", lambda said: json.dumps(said).encode()):
        scribe.writer.append_tags(changes)


def publish_forged(files: AnyFiles, manifest: Manifest) -> None:
    """Put a manifest in place, whatever it says."""
    kind = Kind.MANIFEST if manifest.compaction is None else Kind.COMPACTED
    files.publish(MANIFEST_NAME, build_frame(kind, 0, 0, manifest._encode())[1])


def forge(files: AnyFiles, name: str, change: Callable[[list[Frame]], object]) -> None:
    """Change the frames of one file; the chain and the digests of all are made to fit."""
    parts: Files = {known: frames_of(files.read(known))[0] for known in names_of(files)}
    change(parts[name])
    seal(parts, with_digests=True)
    for known, frames in parts.items():
        files.publish(known, [frame.encode() for frame in frames])
