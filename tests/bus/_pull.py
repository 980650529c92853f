"""A server's side of a directory of versions, from what is said of its layout, and no code here.

A local checkpoint is bytes by name. A version that is a whole checkpoint is taken as it is; one
whose index has a ``delta_encoding`` is applied to the version before it, and the checksums of the
new bytes are compared.
"""

import io
import json
import struct
from pathlib import Path

import numpy as np
import xxhash
import zstandard


class Server:
    """What a server has: nothing at first.

    Attributes:
        number: the version that it has; 0 for none.
        tensors: name → (dtype, shape, bytes).
        others: other files of the checkpoint.
    """

    def __init__(self) -> None:
        self.number = 0
        self.tensors: dict[str, tuple[str, tuple[int, ...], bytearray]] = {}
        self.others: set[str] = set()

    def pull(self, source: Path, target: int) -> "Server":
        """Get to version ``target``, from the newest whole checkpoint on or from what is there."""
        start = target
        while start > self.number and self._metadata(source, start).get("delta_encoding"):
            start -= 1
        assert start or self.number, "no whole checkpoint"
        if start > self.number:
            self._take(source, start)
        for number in range(self.number + 1, target + 1):
            self._apply(source, number)
        return self

    def arrays(self) -> dict[str, bytes]:
        """The bytes, by name."""
        return {name: bytes(data) for name, (_, _, data) in sorted(self.tensors.items())}

    def _metadata(self, source: Path, number: int) -> dict[str, str]:
        folder = folder_of(source, number)
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        return json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]

    def _take(self, source: Path, number: int) -> None:
        self.tensors, self.others = {}, set()
        for path in folder_of(source, number).iterdir():
            if path.suffix == ".safetensors":
                _, tensors = read_file(path)
                self.tensors |= tensors
            else:
                self.others.add(path.name)
        self.number = number

    def _apply(self, source: Path, number: int) -> None:
        said = self._metadata(source, number)
        assert int(said["version"]) == number
        assert int(said["base_version"]) == self.number
        assert said["compression_format"] == "zstd"
        assert said["checksum_format"] == "xxh3-128"
        for path in sorted(folder_of(source, number).glob("*.safetensors")):
            checksums, tensors = read_file(path)
            for name, (dtype, shape, packed) in tensors.items():
                assert (dtype, shape) == ("U8", (len(packed),))
                self._change(name, said["delta_encoding"], bytes(packed), checksums[name])
        self.number = number

    def _change(self, name: str, encoding: str, packed: bytes, checksum: str) -> None:
        now = np.frombuffer(self.tensors[name][2], np.uint8)
        if encoding == "xor":  # in one frame, whose size need not be said
            plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read(now.size)
            now ^= np.frombuffer(plain, np.uint8)
        else:
            assert encoding == "overwrite"
            plain = zstandard.ZstdDecompressor().decompress(packed)
            (count,) = struct.unpack_from("<I", plain)
            places = np.frombuffer(plain, "<u4", count, 4)
            now[places] = np.frombuffer(plain, np.uint8, count, 4 + 4 * count)
        assert xxhash.xxh3_128_hexdigest(now) == checksum, f"checksum of {name}"


def folder_of(source: Path, number: int) -> Path:
    return source / f"weight_v{number:06d}"


def read_file(path: Path):
    """(metadata, tensors) of a file of safetensors."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, said in header.items():
        begin, end = said["data_offsets"]
        data = bytearray(raw[8 + length + begin : 8 + length + end])
        tensors[name] = (said["dtype"], tuple(said["shape"]), data)
    return metadata, tensors
