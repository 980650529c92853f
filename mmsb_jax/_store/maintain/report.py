"""What a repair says of what it made, and of what could not be had."""

from dataclasses import dataclass, field

from mmsb_jax._display.text import printable
from mmsb_jax._store.format.tags import MAX_TAG_BYTES
from mmsb_jax._store.maintain.salvage.trial import span_text


@dataclass(frozen=True, slots=True)
class MadeLog:
    """A log that a repair made.

    Attributes:
        place: where it is.
        since: its oldest version with all it had; 1 for all of its history.
        last: its newest version.
        kept: versions before ``since`` whose states it has.
        said: the oldest version of which it has what the commit says.
    """

    place: str
    since: int
    last: int
    kept: tuple[int, ...]
    said: int

    def __str__(self) -> str:
        have = (
            f"versions {self.since:,} to {self.last:,}" if self.since <= self.last else "no commit"
        )
        text = f"{self.place}: {have}"
        if self.kept:
            text += f", and the states of {', '.join(map(str, self.kept))}"
        return text


@dataclass(frozen=True, slots=True)
class UnprovenArray:
    """Versions of an array that nothing shows to be right.

    Attributes:
        array: its name.
        first, last: the versions.
        is_whole: whether its bytes are as they were written, and only the digest that the commits
            name is that of other bytes; else a record of it does not decode.
        is_kept: whether the new log has it nevertheless.
    """

    array: str
    first: int
    last: int
    is_whole: bool
    is_kept: bool

    def __str__(self) -> str:
        fault = (
            "its bytes are whole, and the digest that the commits name is that of others"
            if self.is_whole
            else "its bytes are damaged: what was written does not decode"
        )
        done = f"kept, and tagged {self.tag!r}" if self.is_kept else "left out"
        span = span_text(self.first, self.last)
        return f"{self.array!r} is not shown to be right at {span}: {fault}; {done}"

    @property
    def tag(self) -> str:
        """The tag of its first version, where it is kept."""
        name = printable(f"unproven-{self.first}-{self.last}/{self.array}")
        return name.encode()[:MAX_TAG_BYTES].decode(errors="ignore")


@dataclass(slots=True)
class RepairReport:
    """What a repair made, and what could not be had.

    Attributes:
        logs: the logs that were made, the newest versions first.
        unproven: arrays that nothing shows to be right, oldest versions first.
        said_only: (first, last) of versions of which is left what their commits say.
        lost: (first, last) of versions of which nothing is left.
        notes: what else is worth knowing.
    """

    logs: list[MadeLog] = field(default_factory=list)
    unproven: list[UnprovenArray] = field(default_factory=list)
    said_only: list[tuple[int, int]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [*map(str, self.logs), *map(str, self.unproven)]
        lines += [f"only what the commits say is left of {span_text(*s)}" for s in self.said_only]
        lines += [f"nothing is left of {span_text(*s)}" for s in self.lost]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
