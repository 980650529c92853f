"""Whether a log is still the one that was opened: a path is not a log.

A directory may be removed, moved away, or put back from a copy while a log in it is open. What was
opened goes on to be read and written then, and nobody else sees it. So the directory and the
manifest at the path are looked at, and the id in that, each time that a log is looked at.
"""

from typing import NamedTuple

from mmsb_jax._store.files.disk import DiskFiles, asked
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.names import MANIFEST_NAME


class Place(NamedTuple):
    """What the system says of a log's files now.

    Attributes:
        directory: which directory is at the path (device, number).
        manifest: which manifest is in it, and when it was written.
        segment: which file the newest segment is.
        segment_bytes: how long that is.
    """

    directory: tuple[int, ...] = ()
    manifest: tuple[int, ...] = ()
    segment: tuple[int, ...] = ()
    segment_bytes: int = 0

    def in_(self, before: "Place") -> "Place":
        """This, but for the directory and the manifest, which are those of ``before``.

        What was read in between is not known to be of those that are there now.
        """
        return self._replace(directory=before.directory, manifest=before.manifest)

    def is_same(self, other: "Place") -> bool:
        """Whether both say the same, but for what was appended."""
        return self[:3] == other[:3]


def place_of(files: Files, segment: str | None = None) -> Place:
    """What is at the path of a log, whose newest segment is that file; of one in memory, nothing.

    Without the name of a segment nothing is said of that.

    Cost: three looks, about 5 µs.
    """
    if not isinstance(files, DiskFiles):
        return Place()
    root = files.root
    directory, manifest = (
        asked(path, files.system.stat, path) for path in (root, root / MANIFEST_NAME)
    )
    found = Place(
        (directory.st_dev, directory.st_ino),
        (manifest.st_ino, manifest.st_size, manifest.st_mtime_ns, manifest.st_ctime_ns),
    )
    if segment is None:
        return found
    newest = asked(root / segment, files.system.stat, root / segment)
    return found._replace(segment=(newest.st_ino,), segment_bytes=newest.st_size)
