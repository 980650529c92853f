"""The index of a published version: where its tensors are, what they build on, whose they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._bus.weights.delta import COMPRESSION

INDEX_NAME = "model.safetensors.index.json"
CHECKSUMS = "xxh3-128"
PREFIX = "mmsb_"
"""How the keys begin that are of this library: readers do not know them."""


class Provenance(NamedTuple):
    """Which version of which log something is.

    Attributes:
        log_id: id of the log that wrote the version, in hexadecimal.
        version: its number in that log.
        chain: the chain after it.
        digest: the digest of the whole state.
    """

    log_id: str
    version: int
    chain: str
    digest: str


@dataclass(frozen=True, slots=True)
class VersionIndex:
    """What a version that is published says of itself.

    Attributes:
        number: its number, in the order in which servers take them.
        anchor: the number of the full version that it builds on; its own where it is one.
        encoding: how it says what changed; None where it is full.
        weights: checksum of all tensors after it: names, dtypes, shapes, bytes.
        provenance: where it is from.
    """

    number: int
    anchor: int
    encoding: str | None
    weights: str
    provenance: Provenance

    @property
    def is_full(self) -> bool:
        """Whether it needs none before it."""
        return self.encoding is None

    def encode(self, files: Mapping[str, str], total_bytes: int) -> bytes:
        """The index as a file.

        Args:
            files: tensor → the file that it is in.
            total_bytes: bytes of the tensors in full.
        """
        said: dict[str, Any] = {"version": text_of(self.number)}
        if self.encoding is None:
            said["total_size"] = total_bytes
        else:
            said |= {
                "base_version": text_of(self.number - 1),
                "delta_encoding": self.encoding,
                "compression_format": COMPRESSION,
                "checksum_format": CHECKSUMS,
            }
        own = {"anchor": self.anchor, "weights": self.weights} | self.provenance._asdict()
        said |= {f"{PREFIX}{key}": value for key, value in own.items()}
        return json.dumps({"metadata": said, "weight_map": dict(files)}, indent=1).encode()

    @classmethod
    def decode(cls, raw: bytes) -> "VersionIndex | None":
        """The index in ``raw``; None where another publisher wrote it.

        Raises:
            ValueError: it does not parse.
        """
        whole = parse_json(raw)
        said = whole.get("metadata") if isinstance(whole, dict) else None
        if not isinstance(said, dict) or f"{PREFIX}log_id" not in said:
            return None
        return cls(
            number=int(_text(said, "version")),
            anchor=_number(said, f"{PREFIX}anchor"),
            encoding=_text(said, "delta_encoding") if "delta_encoding" in said else None,
            weights=_text(said, f"{PREFIX}weights"),
            provenance=Provenance(
                log_id=_text(said, f"{PREFIX}log_id"),
                version=_number(said, f"{PREFIX}version"),
                chain=_text(said, f"{PREFIX}chain"),
                digest=_text(said, f"{PREFIX}digest"),
            ),
        )


def _text(said: Mapping[str, Any], key: str) -> str:
    if isinstance(value := said.get(key), str):
        return value
    raise ValueError(f"its {key} is no text")


def _number(said: Mapping[str, Any], key: str) -> int:
    value = said.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"its {key} is no number from 1 on")
    return value


def text_of(number: int) -> str:
    """A number as readers know it: six digits, or more."""
    return f"{number:06d}"
