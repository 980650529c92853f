"""Opening a log to read or to change it, and finding a version in it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import click

from mmsb_jax._base.errors import ArrayNotFoundError, LocationError
from mmsb_jax._base.patterns import matcher
from mmsb_jax._display.text import printable
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import check_log_place
from mmsb_jax._store.files.lock import WriterLock
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.superseded import superseded_at
from mmsb_jax._store.writer.writer import LogWriter, disk_error
from mmsb_jax.cli.common.command import tell


@contextlib.contextmanager
def open_log(path: str, salvage: bool = False, quiet: bool = False) -> Iterator[Log]:
    """The log at ``path`` as a reader sees it; the writer's lock is not touched.

    Args:
        path: the log's directory.
        salvage: open what is whole before a damage.
        quiet: say nothing on stderr of what recovery left out.

    Raises:
        LocationError, CorruptionError, FormatError: as `Log`.
    """
    place = check_log_place(path)
    files = DiskFiles(place)
    try:
        log = Log(files, str(place), salvage)
        for note in () if quiet else log.recovered:
            tell(f"note: {printable(note)}")
        yield log
    finally:
        files.close()


@contextlib.contextmanager
def open_writer(path: str) -> Iterator[LogWriter]:
    """The writer of the log at ``path``, which the command is meanwhile.

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


def find_version(
    log: Log, version: int | str | None, step: int | None = None, time_ns: int | None = None
) -> int:
    """The version that is named in one of three ways; the newest where none is.

    Raises:
        click.UsageError: it is named twice.
        VersionError: no such tag, step or time.
    """
    if sum(given is not None for given in (version, step, time_ns)) > 1:
        raise click.UsageError("a version, a step and a time exclude each other: give one of them")
    if isinstance(version, str):
        return log.tagged(version)
    if version is not None:
        return version
    if step is None and time_ns is None:
        return log.version
    return log.last_with(step, time_ns, superseded_at(log, log.version))


def wanted_names(
    patterns: Iterable[str], names: Iterable[str], where: str
) -> Callable[[str], bool] | None:
    """Which names the patterns select; None for all.

    Raises:
        ArrayNotFoundError: a pattern selects none of ``names``.
    """
    names = set(names)  # two versions, or an array made anew, have the same
    for pattern in patterns:
        if not any(map(matcher([pattern]).fullmatch, names)):
            known = ", ".join(sorted(names)[:8]) or "none"
            raise ArrayNotFoundError(
                f"no array {where} matches {pattern!r}. There are {len(names)}, among them: {known}"
            )
    if not patterns:
        return None
    selected = matcher(patterns)
    return lambda name: selected.fullmatch(name) is not None
