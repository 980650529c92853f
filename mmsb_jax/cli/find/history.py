"""``mmsb history``: the commits that changed one array."""

from typing import Any

import click

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import ArrayNotFoundError
from mmsb_jax._display.times import local_time, utc_time
from mmsb_jax._store.format.record import Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.diff import show_type
from mmsb_jax.cli.common.command import LogCommand, json_option, path_argument, salvage_option, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log
from mmsb_jax.cli.common.table import print_table

_COLUMNS = ("version", "step", "time", "change", "type", "changed", "stored")
_CHANGES = {OpCode.CREATE: "created", OpCode.DELETE: "deleted", OpCode.UPDATE: "resized"}


@click.command(cls=LogCommand)
@path_argument
@click.argument("array")
@salvage_option
@json_option
def history(path: str, array: str, salvage: bool, as_json: bool) -> None:
    """List the commits that made, changed or deleted ARRAY, oldest first.

    "changed" counts its bytes that differ, "stored" the bytes that they take in the log. Commits
    without bytes are not listed. Reads no array.
    """
    with open_log(path, salvage, quiet=as_json) as opened:
        entries = _entries(opened, array)
    if not entries:
        raise ArrayNotFoundError(
            f"no commit of this log has touched an array {show(array)}. `mmsb show` lists those of "
            f"a version."
        )
    if as_json:
        say(to_json({"array": array, "versions": entries}))
        return
    rows = [
        (
            entry["version"],
            entry["step"],
            local_time(entry["time_ns"]),
            entry["change"],
            entry["type"],
            entry["changed_bytes"],
            entry["stored_bytes"],
        )
        for entry in entries
    ]
    print_table(_COLUMNS, rows)


def _entries(log: Log, name: str) -> list[dict[str, Any]]:
    """What each commit says of the array."""
    operated = {
        version
        for version in log.versions_with_ops()
        if any(op.info.name == name for op in log.record(version).ops)
    }
    return [_entry(log, name, version) for version in sorted(operated | {*log.select(array=name)})]


def _entry(log: Log, name: str, version: int) -> dict[str, Any]:
    record, row = log.record(version), log.row(version)
    mine: list[Op] = [op for op in record.ops if op.info.name == name]
    ids = [i for i in record.logged() if log.name_of(i) == name]
    rows = (*record.aside.tolist(), *record.rows())
    changed = sum(each[4] for each in rows if each[0] in ids)
    stored = sum(nbytes for array_id, nbytes, _ in record.stored() if array_id in ids)
    return {
        "version": version,
        "step": row.step,
        "time_ns": row.time_ns,
        "time": utc_time(row.time_ns),
        "change": _CHANGES[mine[-1].code] if mine else "changed",
        "type": show_type(mine[-1].info) if mine else None,
        "changed_bytes": changed,
        "stored_bytes": stored,
    }
