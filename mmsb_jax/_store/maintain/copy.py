"""Copies: a log elsewhere that follows another, a file at a time, and is whole at every moment.

Files of a log do not change once they are sealed, so each is copied once, under a name of its own
until it is there. Segments come first, oldest first, then snapshots, and last the manifest. What a
copy lacks at any moment is its end.
"""

from collections.abc import Iterator

from mmsb_jax._base.errors import DivergenceError, LocationError
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import LOG_FOLDER, SNAPSHOT_FOLDER, snapshot_name
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import LogSegment
from mmsb_jax._store.writer.cleanup import is_of_a_log, remove_leftovers
from mmsb_jax._store.writer.create import is_log

_PART_BYTES = 1 << 23


class LogCopy:
    """The copy of a log that is written here.

    Args:
        source: the log.
        target: the directory of the copy.
        place: what to call it in messages.

    Raises:
        LocationError: a copy of another log is there.
        DivergenceError: the copy is ahead of the log, or went another way.

    Attributes:
        version: the newest version that it has.
    """

    def __init__(self, source: Log, target: Files, place: str) -> None:
        self._source = source
        self._target = target
        self._place = place
        self._seen: dict[str, int] | None = None
        self._copied = dict[str, int]()
        self.version = 0
        self._look()

    def _look(self) -> None:
        """See what is there: a copy that goes on here, or parts of one that never was a log."""
        target, there = self._target, _sizes(self._target)
        if is_log(target):
            self._check(Log(target, self._place))
        else:
            for name in there:
                target.remove(name)
            there = {}
        self._seen, self._copied = there, dict(there)

    def _check(self, there: Log) -> None:
        source = self._source
        if there.manifest.ids.own != source.manifest.ids.own:
            raise LocationError(
                f"{self._place} holds a copy of another log than {source.place}. Give each log a "
                f"directory of its own."
            )
        is_ahead = there.version > source.version
        if is_ahead or there.scan.chain != source.chain_at(there.version):
            what = f"has version {there.version}" if is_ahead else "went another way"
            raise DivergenceError(
                f"{self._place}, the copy of {source.place}, {what}, and that ends at version "
                f"{source.version}: another process has written to one of them. Begin from the "
                f"copy in a new directory (restore_from=), or give another one for the copy."
            )
        self.version = there.version

    def run(self, whole: bool = False) -> None:
        """Bring the copy forward: to the last segment that is sealed, or to the end.

        Called while no file of the log is taken away. What is behind the last sync must not be
        asked for.

        Raises:
            DivergenceError: somebody else has changed the copy.
            OSError: its disk fails; it is as whole as before.
        """
        there = _sizes(self._target)
        is_gone = not there and not is_log(self._target)
        if self._seen is None or is_gone:  # what was done last was cut short; or it is made anew
            self.version = 0
            self._look()
        elif there != self._seen:
            raise DivergenceError(
                f"{self._place} was changed by another process than the one that copies "
                f"{self._source.place} there. Give another directory for the copy."
            )
        # The writer goes on meanwhile: what is there now is looked at once.
        manifest, pieces = self._source.manifest, list(self._source.pieces)
        last = self._source.version if whole else pieces[-1].segment.first_version - 1
        pieces = pieces if whole else pieces[:-1]
        if not pieces:
            return
        wanted, self._seen = self._wanted(pieces, last), None
        for name, size in wanted.items():
            if self._copied.get(name) != size:
                self._target.publish(name, _parts(self._source.files, name, size))
                self._copied[name] = size
        if not is_log(self._target) or Manifest.read(self._target, self._place) != manifest:
            manifest.publish(self._target)
        remove_leftovers(self._target, manifest)
        self._seen = _sizes(self._target)
        self.version = last

    def _wanted(self, pieces: list[LogSegment], last: int) -> dict[str, int]:
        """The files of a copy up to version ``last``, in the order in which they are made."""
        source = self._source
        self._refuse_gap(pieces[0].segment.number)
        wanted = {a.entry.name: source.files.size(a.entry.name) for a in source.view.archives}
        for piece in pieces:
            end = source.scan.offset if piece.end_offset is None else piece.end_offset
            wanted[piece.segment.name] = end
        known = set(source.files.names(LOG_FOLDER))
        for piece in pieces[:-1]:  # it says that another segment follows
            if (name := piece.segment.index_name) in known:
                wanted[name] = source.files.size(name)
        for version in source.snapshots():
            if version <= last:
                wanted[snapshot_name(version)] = source.files.size(snapshot_name(version))
        return wanted

    def _refuse_gap(self, oldest: int) -> None:
        """A log of which a part is gone that the copy never had would not be whole on the way."""
        if self.version and self.version + 1 < self._source.kept_since:
            raise LocationError(
                f"{self._place} ends at version {self.version}, and {self._source.place} begins "
                f"behind it, with segment {oldest}: it was compacted before it was copied. Remove "
                f"the copy: the next one is made anew."
            )


def restore(copy: Files, place: str, target: Files) -> None:
    """Make in ``target``, a new directory, the log of which there is a copy.

    The manifest is written last: without it the directory is not a log.

    Raises:
        CorruptionError: the copy does not read back.
    """
    source = Log(copy, place)
    LogCopy(source, target, place).run(whole=True)


def _sizes(files: Files) -> dict[str, int]:
    names = [*files.names(LOG_FOLDER), *files.names(SNAPSHOT_FOLDER)]
    return {name: files.size(name) for name in names if is_of_a_log(name)}


def _parts(files: Files, name: str, size: int) -> Iterator[bytes]:
    start = 0
    while start < size:
        part = files.read(name, start, min(_PART_BYTES, size - start))
        if not part:
            raise OSError(f"{name} ends at byte {start} of {size}")
        yield part
        start += len(part)
