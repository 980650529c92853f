"""What a log holds, so that two logs can be compared."""

from pathlib import Path
from typing import Any

from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.log.log import Log


def records_of(path: Path) -> list[Any]:
    """Every commit and its data, without what carries the id of the log."""
    log = Log(DiskFiles(path), str(path))
    found = []
    for version in range(1, log.version + 1):
        commit = log.find(version)
        record = commit.record
        record.log_id = record.previous_chain = bytes(16)
        data = log.chunks_of(commit)
        parts = [bytes(part if isinstance(part, memoryview) else part.group.data) for part in data]
        found.append((commit.offset, commit.end_offset, record.encode(), parts))
    return found
