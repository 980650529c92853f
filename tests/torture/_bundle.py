"""Files in one string of bytes, for a fuzzer, and frames to be changed, with hashes that fit."""

import struct
from dataclasses import dataclass, field

import xxhash

from mmsb_jax._store.format.frame import padded, padding

STREAM = "stream"
"""Name of a file that is a stream of commits; a bundle without one is a log."""

_HEADER = struct.Struct("<4sBBHQQIIQQQ")
_SIZES = struct.Struct("<BI")
_MAGIC, _FORMAT = b"MMSB", 1

Bundle = dict[str, bytes]


def pack(bundle: Bundle) -> bytes:
    """The files as one string of bytes."""
    parts = []
    for name, raw in bundle.items():
        parts += [_SIZES.pack(len(name), len(raw)), name.encode("latin-1"), raw]
    return b"".join(parts)


def unpack(raw: bytes) -> Bundle:
    """The files in any bytes; what is cut short ends where they do."""
    bundle, start = Bundle(), 0
    while len(raw) - start >= _SIZES.size:
        name_bytes, size = _SIZES.unpack_from(raw, start)
        start += _SIZES.size
        name = raw[start : start + name_bytes].decode("latin-1")
        start += name_bytes
        bundle[name] = raw[start : start + size]
        start += size
    return bundle


@dataclass
class Frame:
    """A frame to be changed.

    Attributes:
        kind, flags, position, synced, stream, format: fields of its header.
        meta, data: without their zeros.
        claims: what its header says in the place of what is so, by the name of the field.
    """

    kind: int
    meta: bytes = b""
    data: bytes = b""
    position: int = 0
    synced: int = 0
    flags: int = 1
    stream: int = 0
    format: int = _FORMAT
    claims: dict[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole frame."""
        return 64 + padded(len(self.meta)) + padded(len(self.data))

    @property
    def data_hash(self) -> int:
        """The hash of its data."""
        return xxhash.xxh3_64_intdigest(self.data + padding(len(self.data)))

    def encode(self) -> bytes:
        """Its bytes; every hash fits but for what `claims` says."""
        meta, data = (part + padding(len(part)) for part in (self.meta, self.data))
        fields = {
            "meta_bytes": len(self.meta),
            "stream": self.stream,
            "data_bytes": len(self.data),
            "meta_hash": xxhash.xxh3_64_intdigest(meta),
            "data_hash": xxhash.xxh3_64_intdigest(data),
        } | self.claims
        header_hash = fields.pop("header_hash", None)
        body = _HEADER.pack(
            _MAGIC,
            self.format,
            self.flags,
            self.kind,
            self.position % 2**64,
            self.synced,
            *fields.values(),
        )
        if header_hash is None:
            header_hash = xxhash.xxh3_64_intdigest(body)
        return b"".join((body, header_hash.to_bytes(8, "little"), meta, data))


def frames_of(raw: bytes) -> tuple[list[Frame], bytes]:
    """The frames at the beginning of ``raw``, whatever their hashes, and the bytes behind them."""
    frames, start = [], 0
    while len(raw) - start >= 64 and raw[start : start + 4] == _MAGIC:
        _, version, flags, kind, position, synced, meta_bytes, stream, data_bytes, *_ = (
            _HEADER.unpack_from(raw, start)
        )
        middle = start + 64 + padded(meta_bytes)
        end = middle + padded(data_bytes)
        if end > len(raw):
            break
        meta, data = raw[start + 64 :][:meta_bytes], raw[middle:][:data_bytes]
        frames.append(Frame(kind, meta, data, position, synced, flags, stream, version))
        start = end
    return frames, raw[start:]


def place(frames: list[Frame], base: int) -> None:
    """Give each frame the position where it stands, the first ``base``."""
    for frame in frames:
        frame.position = base
        base += frame.nbytes
