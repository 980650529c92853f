"""Texts of programs as bytes in which a small change stays small.

A log keeps what changed in place. In plain text a number with one more digit moves all that stands
behind it, and everything changes. So there is room behind each number, each line and each
paragraph, filled with NUL bytes, which no text has: without them the bytes are the text. Another
batch size then changes the digits of its lengths, and nothing moves.

Where bytes stand depends on the text alone, so that equal texts are equal bytes.
"""

import numpy as np

_NUMBER_BYTES, _LINE_BYTES, _PARAGRAPH_BYTES = 8, 64, 512
"""A number, a line and what an empty line ends take a multiple of these."""

_NUL = b"\0"


def to_rows(text: str) -> np.ndarray:
    """``text`` with room in it: uint8[n]. A NUL character in it is written as its escape.

    Cost: about twice the bytes of the text; meanwhile some thirty times.
    """
    plain = np.frombuffer(text.replace("\0", "\\0").encode("utf-8", "backslashreplace"), np.uint8)
    if not plain.size:
        return plain
    room = np.zeros(plain.size, np.int64)  # NUL bytes behind each byte
    starts, ends = _numbers(plain)
    _make_room(room, starts, ends, _NUMBER_BYTES)
    ends = _line_ends(plain)
    _make_room(room, _starts(ends), ends, _LINE_BYTES)
    is_empty = np.diff(ends, prepend=-1) == 1
    ends = ends[is_empty]
    _make_room(room, _starts(ends), ends, _PARAGRAPH_BYTES)
    places = np.arange(plain.size) + np.cumsum(room) - room
    rows = np.zeros(plain.size + int(room.sum()), np.uint8)
    rows[places] = plain
    return rows


def to_text(raw: bytes) -> str:
    """The text of which `to_rows` made ``raw``.

    Raises:
        ValueError: it is no text.
    """
    return raw.replace(_NUL, b"").decode()


def _numbers(plain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last byte of each run of digits."""
    is_digit = (plain >= ord("0")) & (plain <= ord("9"))
    steps = np.diff(is_digit.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1


def _line_ends(plain: np.ndarray) -> np.ndarray:
    """The last byte of each line."""
    ends = np.flatnonzero(plain == ord("\n"))
    if plain[-1] != ord("\n"):
        ends = np.append(ends, plain.size - 1)
    return ends


def _starts(ends: np.ndarray) -> np.ndarray:
    """The first bytes of pieces that follow each other, by their last bytes."""
    return np.concatenate([[0], ends[:-1] + 1])[: ends.size]


def _make_room(room: np.ndarray, starts: np.ndarray, ends: np.ndarray, multiple: int) -> None:
    """Let each piece take a multiple of so many bytes, with the room in it."""
    behind = np.cumsum(room + 1)
    before = np.where(starts > 0, behind[starts - 1], 0)
    room[ends] += -(behind[ends] - before) % multiple
