"""Opening a log to change what it keeps: the commands that do are the writer meanwhile."""

import contextlib
from collections.abc import Iterator

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import check_log_place
from mmsb_jax._store.files.lock import WriterLock
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.writer.writer import LogWriter, disk_error


@contextlib.contextmanager
def open_writer(path: str) -> Iterator[LogWriter]:
    """The writer of the log at ``path``.

    Raises:
        LocationError: there is no log, or the disk refuses.
        LockedError: another process writes it.
        CorruptionError, FormatError: as `Log`.
    """
    place = check_log_place(path)
    files = DiskFiles(place)
    try:
        Manifest.read(files, str(place))  # before a lock is left in a directory that is no log
        lock = WriterLock(place)
        try:
            writer = LogWriter(Log(files, str(place)), "fsync")
            try:
                yield writer
            finally:
                writer.close()
        finally:
            lock.release()
    except LocationError:
        raise
    except OSError as error:
        raise disk_error(error, str(place)) from error
    finally:
        files.close()
