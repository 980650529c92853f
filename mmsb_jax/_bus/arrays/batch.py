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


class Batching(Protocol):
    """What a batch asks of its bus."""

    def _begin_batch(self, batch: "Batch") -> None: ...

    def _end_batch(self, batch: "Batch", is_whole: bool) -> None: ...

    def _drop_batch(self, batch: "Batch") -> None: ...


BusType = TypeVar("BusType", bound=Batching)


@dataclass(slots=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        said: what the caller says of its commit.
        changes: what was asked for in it; None before it begins, and at its end.
        is_open: whether it has begun, and has still to let go of the bus.
    """

    said: Any
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
        manager.batch = Batch(manager.said)
        return functools.partial(_enter, manager.bus, manager.batch)


class _Exit:
    def __get__(self, manager: "BatchManager[Any]", owner: type) -> Callable[..., None]:
        bus, batch = manager.bus, manager.batch
        leave = functools.partial(_leave, bus, batch)
        leave.guard = _Guard(functools.partial(bus._drop_batch, batch))  # pyright: ignore
        return leave


def _enter(bus: BusType, batch: Batch) -> BusType:
    bus._begin_batch(batch)
    return bus


def _leave(bus: Batching, batch: Batch, kind: Any, *exception: object) -> None:
    del exception
    bus._end_batch(batch, kind is None)


class BatchManager(Generic[BusType]):
    """What `Bus.batch` returns, to be used in a ``with`` statement."""

    __enter__: Any = _Enter()
    __exit__: Any = _Exit()

    def __init__(self, bus: BusType, said: Any) -> None:
        self.bus, self.said = bus, said
        self.batch = Batch(said)
