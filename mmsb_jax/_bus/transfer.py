"""A bus's commits in a file or over a wire, and those of another."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mmsb_jax._base.errors import DivergenceError, LocationError
from mmsb_jax._bus.engine.session import Session
from mmsb_jax._bus.write.array_writer import ArrayWriter
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.transfer.import_ import Intake
from mmsb_jax._store.transfer.stream import (
    open_stream,
    write_file,
    write_joining_stream,
    write_stream,
)
from mmsb_jax._store.writer.writer import disk_error


def export(log: Log, since: int | None, until: int, place: Path | None) -> bytes | Path:
    """The commits behind ``since`` up to ``until`` as a stream, in memory or in a file."""
    if since is None:
        buffers = write_joining_stream(log, until, time.time_ns())
    else:
        buffers = write_stream(log, since, until)
    return b"".join(buffers) if place is None else write_file(place, buffers)


def take_in(
    session: Session,
    arrays: ArrayWriter,
    source: Buffer | str | os.PathLike[str],
    commit_of: Callable[[int], Commit],
) -> list[Commit]:
    """Take in the commits of a stream; the lock of the bus is held."""
    engine, log = session.writing(), session.log
    if arrays.pending:
        raise DivergenceError(
            f"the arrays {', '.join(map(repr, arrays.pending.specs))} were created here and "
            f"are not recorded yet: they would be a commit of this bus's own. Delete them."
        )

    def look_anew(commit: Commit) -> None:
        """Forget what was known of the table: of arrays, of the tree, of what is derived."""
        del commit
        arrays.forget()
        engine.look_anew()

    with open_stream(source) as stream:
        intake = Intake.of(stream, log)
        commits = []
        with engine.lock, _naming_the_disk(log.place):
            intake.open(log, engine.writer)
            if intake.joins:
                engine.join(intake, look_anew)
                versions = log.select(None, None, None, log.version, None, None)
                commits += map(commit_of, versions)
        for shipped in intake.commits():
            is_other = bool(shipped.record.ops or shipped.record.values)
            landed = look_anew if is_other else _nothing
            commits.append(engine.take(shipped, stream.place, landed))
    return commits


def _nothing(commit: Commit) -> None:
    """The table is as it was."""


@contextlib.contextmanager
def _naming_the_disk(place: str) -> Iterator[None]:
    """Turn an error of the file system into the one that says what it means for the log."""
    try:
        yield
    except OSError as error:
        raise (error if isinstance(error, LocationError) else disk_error(error, place)) from error
