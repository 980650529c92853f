"""The shipping half of a bus: its commits in a file or over a wire, and those of another."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import overload

from mmsb_jax._base.arguments import check_number, path_text, show
from mmsb_jax._base.errors import DivergenceError, LocationError
from mmsb_jax._bus.derive.deriving import Deriving
from mmsb_jax._bus.query.follow import Following
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.transfer.import_ import Intake
from mmsb_jax._store.transfer.stream import (
    open_stream,
    write_file,
    write_joining_stream,
    write_stream,
)
from mmsb_jax._store.writer.writer import disk_error


class Shipping(Deriving, Following):
    """What a bus can do to be the same as another one elsewhere."""

    @overload
    def export(self, since: int | None = None, path: None = None) -> bytes: ...

    @overload
    def export(self, since: int | None, path: str | os.PathLike[str]) -> Path: ...

    @overload
    def export(self, *, path: str | os.PathLike[str]) -> Path: ...

    def export(
        self, since: int | None = None, path: str | os.PathLike[str] | None = None
    ) -> bytes | Path:
        """The commits behind ``since`` as a stream, for `import_` or a `Replica` elsewhere.

        It ends at the newest durable version, so that no receiver is ahead of this log after a
        power cut; a bus that writes syncs first.

        Args:
            since: the version that the receiver has; 0 for all commits from the first on. None
                for a receiver that has nothing: the newest snapshot (or one made now), its commit,
                and the commits behind it.
            path: the file to write, put in place as a whole; bytes in memory for None.

        Returns:
            The bytes; with ``path``, the path.

        Raises:
            VersionError: there is no version ``since``, or commits behind it were compacted away;
                the message says which.
            LocationError: the file cannot be written.
            CorruptionError: a commit does not read back.

        Cost: one read of what is shipped; for None the state, once.

        >>> import mmsb_jax as mmsb
        >>> here, there = mmsb.open(), mmsb.open()
        >>> commit = here.commit({"w": 1.0})
        >>> [commit.version for commit in there.import_(here.export(since=0))]
        [1]
        >>> there.tree()
        {'w': 1.0}
        """
        if since is not None:
            check_number("since", since)
        place = None if path is None else Path(path_text("path", path))
        if place is not None and not place.name:
            raise LocationError(f"path={show(path)} is a directory. Give the path of a file.")
        until = self._durable_now()
        if since is None:
            buffers = write_joining_stream(self._log, until, time.time_ns())
        else:
            buffers = write_stream(self._log, since, until)
        return b"".join(buffers) if place is None else write_file(place, buffers)

    def _durable_now(self) -> int:
        """The newest durable version; where this bus writes, that is the newest."""
        with self._events, self._lock:
            if self._engine_or_none is None:
                return self.durable_version
            self._refuse_in_batch("export")
            self._settle()
            self._record_made()
            return self._engine().writer.sync()

    def import_(self, source: Buffer | str | os.PathLike[str]) -> list[Commit]:
        """Take in the commits of another bus: what `export` made, as bytes or a file.

        The whole stream is checked, as a chain, before anything changes. What is here already is
        skipped; the rest is appended with the chain, the digests and the time that it has there.
        The bytes of derived arrays are taken as they are: no function runs. A commit is all or
        nothing; where one does not fit, those before it stay.

        What is committed here afterwards is this bus's own: from then on the other's later commits
        are of another history.

        Args:
            source: the stream, or the path of a file of it.

        Returns:
            The commits that are new here.

        Raises:
            VersionError: the stream begins behind versions that are not here; the message says
                which are missing. Export with ``since=bus.version``.
            DivergenceError: the stream is of another history; the message says from which
                version on.
            CorruptionError: the stream is damaged or cut short; nothing has changed.
            LocationError: no such file; the disk is full or fails.
            StructureError: the stream begins with a snapshot in pages of another size.

        Cost: two reads of the stream; the bytes that changed, decoded, digested and written.
        """
        with self._events, self._lock, open_stream(source) as stream:
            engine = self._engine()
            self._refuse_in_batch("import_")
            self._settle()
            if self._made:
                raise DivergenceError(
                    f"the arrays {', '.join(map(repr, self._made.specs))} were created here and "
                    f"are not recorded yet: they would be a commit of this bus's own. Delete them."
                )
            intake = Intake.of(stream, self._log)
            commits = []
            with engine.lock, _naming_the_disk(self._log.place):
                intake.open(self._log, engine.writer)
                if intake.joins:
                    engine.join(intake, self._look_anew)
                    commits += self.log(until=self._log.version)
            for shipped in intake.commits():
                is_other = bool(shipped.record.ops or shipped.record.values)
                landed = self._look_anew if is_other else _nothing
                commits.append(engine.take(shipped, stream.place, landed))
            return commits

    def _look_anew(self, commit: Commit) -> None:
        """Forget what was known of the table: of arrays, of the tree, of what is derived."""
        del commit
        self._layout = None
        if self._trees is not None:
            self._trees.forget()
        self._engine().look_anew()


def _nothing(commit: Commit) -> None:
    """The table is as it was."""


@contextlib.contextmanager
def _naming_the_disk(place: str) -> Iterator[None]:
    """Turn an error of the file system into the one that says what it means for the log."""
    try:
        yield
    except OSError as error:
        raise (error if isinstance(error, LocationError) else disk_error(error, place)) from error
