"""Batches: a ``with`` that holds a bus, and that no interrupt can leave holding it.

An interrupt may come right before the first line of an exit, which then never runs; and the
traceback, which a notebook keeps, holds all that its frames hold. So what gives the bus back is an
object that no frame of Python code holds: it lies beside the exit that the ``with`` statement will
call, and goes when that does.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Gathering(Protocol):
    """What a batch asks of what gathers its changes."""

    def begin_batch(self, batch: "Batch") -> None:
        """Begin it."""

    def end_batch(self, batch: "Batch", is_whole: bool) -> None:
        """Commit it, if it is whole, and let go of the bus."""

    def drop_batch(self, batch: "Batch") -> None:
        """Let go of the bus, if that is not done."""


BusType = TypeVar("BusType")


@dataclass(slots=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        info: what the caller says of its commit.
        changes: what was asked for in it; None before it begins, and at its end.
        is_open: whether it has begun, and has still to let go of the bus.
    """

    info: Any
    changes: Any = None
    is_open: bool = False


class _Guard:
    """Gives the bus back where the end of a batch was cut short."""

    def __init__(self, drop: Callable[[], None]) -> None:
        self._drop = drop

    def __del__(self) -> None:
        self._drop()


class _Enter:
    def __get__(self, manager: "BatchManager[Any]", owner: type) -> Callable[[], Any]:
        manager.batch = Batch(manager.info)
        return functools.partial(_enter_batch, manager)


class _Exit:
    def __get__(self, manager: "BatchManager[Any]", owner: type) -> Callable[..., None]:
        gathering, batch = manager.gathering, manager.batch
        leave = functools.partial(_leave_batch, gathering, batch)
        leave.guard = _Guard(functools.partial(gathering.drop_batch, batch))  # pyright: ignore
        return leave


def _enter_batch(manager: "BatchManager[BusType]") -> BusType:
    manager.gathering.begin_batch(manager.batch)
    return manager.bus


def _leave_batch(gathering: Gathering, batch: Batch, kind: Any, *exception: object) -> None:
    del exception
    gathering.end_batch(batch, kind is None)


class BatchManager(Generic[BusType]):
    """What `Bus.batch` returns, to be used in a ``with`` statement."""

    __enter__: Any = _Enter()
    __exit__: Any = _Exit()

    def __init__(self, bus: BusType, gathering: Gathering, info: Any) -> None:
        self.bus, self.gathering, self.info = bus, gathering, info
        self.batch = Batch(info)
