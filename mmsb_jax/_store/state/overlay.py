"""The table of arrays with operations that are pending, while the table itself stays as it is."""

from collections.abc import Iterable

from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.state.state import Table


class TableOverlay:
    """A table, and operations on it that no commit has made yet.

    Args:
        table: the table; read, not changed.
        ops: the first operations.

    Attributes:
        table: the same.
        created: arrays made by the operations, by id; one that is deleted again is gone.
        next_id: the next id that is free.

    Cost: of `operate`, `find` and `info` a few look-ups each.
    """

    def __init__(self, table: Table, ops: Iterable[Op] = ()) -> None:
        self.table = table
        self.next_id = table.next_id
        self.created: dict[int, ArrayInfo] = {}
        self._updated: dict[int, ArrayInfo] = {}
        self._deleted: dict[int, ArrayInfo] = {}
        self._ids: dict[str, int] = {}
        for op in ops:
            self.operate(op)

    def operate(self, op: Op) -> None:
        """Take up one more operation, which must fit."""
        info = op.info
        self.next_id = max(self.next_id, info.id + 1)
        if op.code is OpCode.CREATE:
            self.created[info.id] = info
            self._ids[info.name] = info.id
        elif op.code is OpCode.UPDATE:
            (self.created if info.id in self.created else self._updated)[info.id] = info
        else:
            self._updated.pop(info.id, None)
            self._ids.pop(info.name, None)
            if self.created.pop(info.id, None) is None:
                self._deleted[info.id] = self.table.arrays.get(info.id, info)

    def is_touched(self, array_id: int) -> bool:
        """Whether an array was made by the operations, or is another by them."""
        return array_id in self.created or array_id in self._updated

    def find(self, name: str) -> ArrayInfo | None:
        """An array by its name; None if there is none."""
        array_id = self._ids.get(name) or self.table.ids.get(name)
        return None if array_id is None else self.info(array_id)

    def info(self, array_id: int) -> ArrayInfo | None:
        """An array by its id; None if there is none."""
        if array_id in self._deleted:
            return None
        made = self.created.get(array_id) or self._updated.get(array_id)
        return made or self.table.arrays.get(array_id)

    def names(self) -> list[str]:
        """All arrays, in the order in which the table will have them."""
        kept = [name for name, i in self.table.ids.items() if i not in self._deleted]
        return kept + list(self._ids)

    def ops(self) -> list[Op]:
        """What the operations come to."""
        ops = [Op(OpCode.DELETE, info) for info in self._deleted.values()]
        ops += [Op(OpCode.CREATE, info) for info in self.created.values()]
        return ops + [Op(OpCode.UPDATE, info) for info in self._updated.values()]
