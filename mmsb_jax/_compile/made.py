"""What the library itself has compiled: which program, why, and how long it took."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_MOST_KEPT = 64


class MadeProgram(NamedTuple):
    """A program that a bus has compiled.

    Attributes:
        name: what it does.
        why: what the programs that were there could not do.
        ms: what tracing, lowering and compiling took, in milliseconds; 0 for one that another bus
            of the process had compiled, or that has not run yet.
    """

    name: str
    why: str
    ms: float


class MadePrograms(Sequence[MadeProgram]):
    """The newest 64 programs of a bus, oldest first; prints as their number and time.

    Args:
        programs: those that are kept.
        total: how many there were.
    """

    def __init__(self, programs: Sequence[MadeProgram] = (), total: int = 0) -> None:
        self._programs, self.total = tuple(programs), total

    def __getitem__(self, index: Any) -> Any:
        return self._programs[index]

    def __len__(self) -> int:
        return len(self._programs)

    def __str__(self) -> str:
        if not self.total:
            return "0"
        return f"{self.total:,}, {sum(each.ms for each in self):,.1f} ms"

    def __repr__(self) -> str:
        return f"MadePrograms({list(self._programs)})"

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dict a program: fit for JSON."""
        return [each._asdict() for each in self]


@dataclass(slots=True, eq=False)
class CompileTime:
    """What compiling one program has taken so far, in milliseconds."""

    ms: float = 0.0


class ProgramLog:
    """Writes down what is compiled; thread-safe.

    Attributes:
        total: how many programs so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[str, str, CompileTime, float]] = deque(maxlen=_MOST_KEPT)
        self.total = 0

    def add(self, name: str, why: str, time: CompileTime) -> None:
        """Write down one program, whose ``time`` may still grow."""
        with self._lock:
            self.total += 1
            self._kept.append((name, why, time, time.ms))

    def programs(self) -> MadePrograms:
        """What was compiled, as it is now."""
        with self._lock:
            found = [
                MadeProgram(name, why, max(0.0, time.ms - before))
                for name, why, time, before in self._kept
            ]
            return MadePrograms(found, self.total)
