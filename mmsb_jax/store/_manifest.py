"""The manifest: what the log is, in one small file that is replaced as a whole."""

import struct
from dataclasses import dataclass

from mmsb_jax._errors import CorruptionError, LocationError
from mmsb_jax.store._files import Files
from mmsb_jax.store._format import BadFrameError, Kind, build_frame, read_header, read_meta
from mmsb_jax.store._segment import LogIds, reader_of

NAME = "manifest"
_FIXED = struct.Struct("<16sQQI")
_ANCESTOR = struct.Struct("<16sQ")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a log is.

    Attributes:
        ids: its own id, and those of the logs that it was forked from.
        page_bytes: bytes of a page.
        created_ns: when it was made, in nanoseconds since 1970.
    """

    ids: LogIds
    page_bytes: int
    created_ns: int

    def publish(self, files: Files) -> None:
        """Write it in place of the one before."""
        lineage = self.ids.lineage
        meta = _FIXED.pack(self.ids.own, self.page_bytes, self.created_ns, len(lineage))
        meta += b"".join(_ANCESTOR.pack(*ancestor) for ancestor in lineage)
        files.publish(NAME, build_frame(Kind.MANIFEST, 0, 0, meta)[1])

    @classmethod
    def read(cls, files: Files, place: str) -> "Manifest":
        """The manifest of the log at ``place``.

        Raises:
            LocationError: there is none: the directory is not a log.
            CorruptionError: it is damaged.
            FormatError: a newer format wrote it.
        """
        try:
            read = reader_of(files, NAME)
            header = read_header(read, 0, 0)
            header.check_kind()
            meta = read_meta(read, 0, header)
            own, page_bytes, created_ns, ancestors = _FIXED.unpack_from(meta)
            if header.kind != Kind.MANIFEST or (
                len(meta) != _FIXED.size + ancestors * _ANCESTOR.size
            ):
                raise BadFrameError("its parts do not fill it")
            if not page_bytes or page_bytes % 4:
                raise BadFrameError(f"it claims pages of {page_bytes} bytes")
        except FileNotFoundError:
            raise LocationError(
                f"{place} is not a log: it has no manifest. Expected a directory that "
                f"mmsb.open made, or a path where nothing is yet."
            ) from None
        except (BadFrameError, struct.error) as error:
            raise CorruptionError(
                f"{place}/{NAME} is damaged at byte 0: {error}. The log itself may be whole: "
                f"restore the manifest from a copy."
            ) from error
        lineage = tuple(
            _ANCESTOR.unpack_from(meta, _FIXED.size + i * _ANCESTOR.size) for i in range(ancestors)
        )
        return cls(LogIds(lineage, own), page_bytes, created_ns)
