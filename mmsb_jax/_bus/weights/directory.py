"""A directory of versions, ``weight_v000001/`` and so on, as servers look for them.

A version is there as a whole or not at all: its files are written and synced under another name,
and the folder is renamed last. A number is never used twice, whatever became of its version.
"""

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmsb_jax._base.arguments import is_integer
from mmsb_jax._base.errors import CorruptionError, DivergenceError, LocationError, LockedError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._bus.weights.version_index import INDEX_NAME, VersionIndex, text_of
from mmsb_jax._store.files.disk import DiskFiles, make_folder, new_file, sync_folder
from mmsb_jax._store.files.protocol import Buffer

_VERSION = re.compile(r"weight_v(\d{6,18})")
_ON_ITS_WAY = re.compile(r"\.weight_v\d+\.[0-9a-f]+\.(draft|removed)")
_MARK = ".mmsb_published.json"
"""The newest number that was ever given, and the log that gave it."""


class Mark(NamedTuple):
    """What the directory says of the newest number that was given.

    Attributes:
        number: the number; 0 where none was.
        log_id: id of the log that published it.
    """

    number: int
    log_id: str


class WeightDirectory:
    """A directory of versions.

    Args:
        root: where it is; made where it is not there.
        system: where the calls of `os` go; a test puts a disk that fails beneath.

    Raises:
        LocationError: it cannot be made, or is no directory.
    """

    def __init__(self, root: Path, system: Any = os) -> None:
        self.root = root
        self._os = system
        with self._naming():
            make_folder(system, root)

    def path_of(self, number: int) -> Path:
        """Where a version is."""
        return self.root / f"weight_v{text_of(number)}"

    def numbers(self) -> list[int]:
        """The numbers of the versions that are there, ascending."""
        with self._naming():
            found = [_VERSION.fullmatch(name) for name in self._folders()]
        return sorted(int(match[1]) for match in found if match)

    def index_of(self, number: int) -> VersionIndex:
        """What a version that is there says of itself.

        Raises:
            DivergenceError: another publisher wrote it.
            CorruptionError: it does not parse.
        """
        path = self.path_of(number) / INDEX_NAME
        try:
            index = VersionIndex.decode(self._files().read(f"{path.parent.name}/{path.name}"))
        except FileNotFoundError:
            index = None
        except ValueError as error:
            raise CorruptionError(
                f"{path} does not parse: {error}. Take {path.parent} away: the next version will "
                f"be a full one, under the next number."
            ) from error
        if index is None or index.number != number:
            raise DivergenceError(
                f"{path.parent} was not published from a log. Publish into a directory of its own."
            )
        return index

    def mark(self) -> Mark:
        """The newest number that was given, whether its version is there still or not."""
        try:
            said = parse_json(self._files().read(_MARK))
        except FileNotFoundError:
            return Mark(0, "")
        except ValueError:
            said = None
        if not isinstance(said, dict) or not (
            is_integer(said.get("number")) and isinstance(said.get("log_id"), str)
        ):
            raise CorruptionError(
                f"{self.root / _MARK} does not parse. Publish into a new directory: servers that "
                f"follow this one may have versions that are not here any more."
            )
        return Mark(said["number"], said["log_id"])

    def nbytes_of(self, number: int) -> int:
        """Bytes of the files of a version that is there."""
        folder = self.path_of(number)
        with self._naming():
            with self._os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
            return sum(self._os.stat(folder / name).st_size for name in names)

    def put(self, index: VersionIndex, files: Iterable[tuple[str, Iterable[Buffer]]]) -> int:
        """Put a version in place, durably, and give the bytes that it takes.

        Raises:
            LockedError: meanwhile another publisher gave the number.
            LocationError: it cannot be written; nothing is there of it.
        """
        final = self.path_of(index.number)
        draft = self._other_name(final, "draft")
        with self._naming():
            self._clear()
            try:
                nbytes = self._write(draft, files)
                self._refuse_taken(final)
                mark = Mark(index.number, index.provenance.log_id)
                self._files().publish(_MARK, [json.dumps(mark._asdict()).encode()])
                self._rename(draft, final)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._delete(draft)
                raise
            sync_folder(self._os, self.root)
        return nbytes

    def remove(self, numbers: Iterable[int]) -> None:
        """Take versions away, the newest first: what is there of them can be pulled until it goes.

        Cost: a sync each, and their files, deleted.
        """
        with self._naming():
            for number in sorted(numbers, reverse=True):
                path = self.path_of(number)
                self._os.replace(path, self._other_name(path, "removed"))
                sync_folder(self._os, self.root)
            self._clear()

    def _write(self, draft: Path, files: Iterable[tuple[str, Iterable[Buffer]]]) -> int:
        """Write the files of a version under another name, and see that they are durable."""
        nbytes = 0
        self._os.mkdir(draft)
        for name, buffers in files:
            file = new_file(self._os, draft / name)
            try:
                for buffer in buffers:
                    file.append((buffer,))
                    nbytes += len(buffer)
                file.sync()  # and its entry in the draft
            finally:
                file.close()
        return nbytes

    def _rename(self, draft: Path, final: Path) -> None:
        self._refuse_taken(final)
        try:
            self._os.replace(draft, final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise _taken(final) from error
            raise

    def _refuse_taken(self, final: Path) -> None:
        if final.name in self._folders():
            raise _taken(final)

    def _clear(self) -> None:
        """Delete what others left: drafts of publishers that died, versions half removed.

        Each gets another name first, so that whoever still writes it cannot put it in place.
        """
        for name in self._folders():
            if _ON_ITS_WAY.fullmatch(name):
                self._delete(self.root / name)

    def _delete(self, folder: Path) -> None:
        gone = folder
        if folder.suffix == ".draft":
            gone = folder.with_suffix(".removed")
            try:
                self._os.replace(folder, gone)
            except FileNotFoundError:
                return  # it was put in place, or never made
        with contextlib.suppress(FileNotFoundError):
            with self._os.scandir(gone) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                self._os.unlink(gone / name)
            self._os.rmdir(gone)

    def _folders(self) -> list[str]:
        with self._os.scandir(self.root) as entries:
            return [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]

    def _files(self) -> DiskFiles:
        return DiskFiles(self.root, self._os)

    def _other_name(self, final: Path, state: str) -> Path:
        return self.root / f".{final.name}.{secrets.token_hex(8)}.{state}"

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Turn an error of the file system into one that says what it was about."""
        try:
            yield
        except LocationError:
            raise
        except OSError as error:
            raise LocationError(
                error.errno,
                f"{self.root} cannot be written or read: {error.strerror or error}. See to the "
                f"disk and to the directory, and try again.",
            ) from error


def _taken(final: Path) -> LockedError:
    return LockedError(
        f"another publisher has put {final} in place meanwhile; nothing was published. Publish "
        f"into one directory from one place."
    )
