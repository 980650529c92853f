"""``mmsb show``: one commit, and the arrays after it."""

from typing import Any

import click

from mmsb_jax.cli._command import (
    INT64,
    VERSION,
    LogCommand,
    json_option,
    path_argument,
    salvage_option,
)
from mmsb_jax.cli._json import to_json
from mmsb_jax.cli._log import describe_commit, show_note
from mmsb_jax.cli._reader import find_version, open_log
from mmsb_jax.cli._table import local_time, print_facts, print_table
from mmsb_jax.store._commit import Commit, read_commit
from mmsb_jax.store._diff import read_tag, show_tag, show_type
from mmsb_jax.store._digest import ZERO
from mmsb_jax.store._record import EXTRA_ID, EXTRA_IS_JSON, CommitRecord
from mmsb_jax.store._state import Table

_COLUMNS = ("array", "type", "bytes", "changed", "kind", "digest")


@click.command(cls=LogCommand)
@path_argument
@click.argument("version", type=VERSION, required=False)
@click.option("--step", type=INT64, help="The newest version of this step.")
@click.option("--time-ns", type=INT64, help="The newest version not after this time.")
@salvage_option
@json_option
def show(
    path: str,
    version: int | str | None,
    step: int | None,
    time_ns: int | None,
    salvage: bool,
    as_json: bool,
) -> None:
    """Show the commit of VERSION, and the arrays after it.

    Without VERSION the newest. "changed" counts bytes. A digest is that of an array's bytes: equal
    bytes have equal digests. Reads no array.
    """
    with open_log(path, salvage, quiet=as_json) as opened:
        found = find_version(opened, version, step, time_ns)
        durable_version = opened.durable_version
        commit = read_commit(opened, found, lambda: durable_version)
        record, table = opened.record(found), opened.table(found)
    if as_json:
        click.echo(to_json(_describe(commit, record, table)))
        return
    _print_commit(commit, record, table)
    if table.arrays:
        click.echo()
        rows = _arrays(record, table)
        print_table(_COLUMNS, [_row(array) for array in rows])
    if table.values:
        click.echo()
        values = sorted(table.values.items())
        print_table(("constant", "value"), [(name, show_tag(value)) for name, value in values])


def _describe(commit: Commit, record: CommitRecord, table: Table) -> dict[str, Any]:
    arrays = _arrays(record, table)
    return describe_commit(commit) | {
        "extra": _extra(record),
        "log_id": table.log_id.hex(),
        "chain": table.chain.hex(),
        "state_digest": f"{table.state_digest:032x}",
        "arrays": [{k: v for k, v in array.items() if k != "type"} for array in arrays],
        "values": {name: read_tag(value) for name, value in sorted(table.values.items())},
    }


def _arrays(record: CommitRecord, table: Table) -> list[dict[str, Any]]:
    """The arrays after the commit, by name."""
    changed = {int(row["id"]): int(row["changed"]) for row in record.records}
    return [
        {
            "name": info.name,
            "type": show_type(info),
            "kind": info.kind,
            "dtype": info.dtype,
            "shape": list(info.shape),
            "bytes": info.nbytes,
            "changed_bytes": changed.get(info.id, 0),
            "digest": "{:08x}{:08x}".format(*table.lanes.get(info.id, ZERO)),
        }
        for info in sorted(table.arrays.values(), key=lambda info: info.name)
    ]


def _row(array: dict[str, Any]) -> tuple[object, ...]:
    keys = ("name", "type", "bytes", "changed_bytes", "kind", "digest")
    return tuple(array[key] for key in keys)


def _extra(record: CommitRecord) -> dict[str, Any] | None:
    """Kind and size of the caller's ``extra``, without reading it; None where there is none."""
    stop = 0
    for row in record.records:
        start, stop = stop, stop + int(row["chunks"])
        if row["id"] == EXTRA_ID:
            size = int(record.chunks["raw"][start:stop].sum(dtype="uint64"))
            return {"kind": "json" if record.flags & EXTRA_IS_JSON else "bytes", "bytes": size}
    return None


def _print_commit(commit: Commit, record: CommitRecord, table: Table) -> None:
    extra = _extra(record)
    changed = ", ".join(commit.changed) or "no array"
    print_facts(
        {
            "version": commit.version,
            "step": None if commit.step is None else str(commit.step),
            "time": f"{local_time(commit.time_ns)}  ({commit.time_ns} ns)",
            "source": commit.source or None,
            "note": show_note(commit.note) or None,
            "extra": None if extra is None else f"{extra['kind']}, {extra['bytes']:,} bytes",
            "changed": f"{commit.changed_bytes:,} bytes of {changed}",
            "logged": f"{commit.logged_bytes:,} bytes",
            "durable": "yes" if commit.durable else "not known to be",
            "digest": f"{table.state_digest:032x}",
            "chain": table.chain.hex(),
        }
    )
