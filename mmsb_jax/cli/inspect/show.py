"""``mmsb show``: one commit, and the arrays after it."""

from dataclasses import dataclass
from typing import Any

import click

from mmsb_jax._display.times import local_time
from mmsb_jax._store.encoding.digest import Lanes
from mmsb_jax._store.format.record import EXTRA_ID, EXTRA_IS_JSON, CommitRecord
from mmsb_jax._store.log.in_force import process_at
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit, read_commit
from mmsb_jax._store.query.commits import show_note
from mmsb_jax._store.query.diff import read_tag, show_tag, show_type
from mmsb_jax._store.state.state import Table
from mmsb_jax.cli.common.command import (
    INT64,
    VERSION,
    LogCommand,
    json_option,
    path_argument,
    salvage_option,
    say,
)
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_log
from mmsb_jax.cli.common.table import print_facts, print_table
from mmsb_jax.cli.inspect.log import describe_commit

_COLUMNS = {
    "name": "array",
    "type": "type",
    "bytes": "bytes",
    "changed_bytes": "changed",
    "kind": "kind",
    "digest": "digest",
}


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
    bytes have equal digests. Where a compaction dropped the data, the arrays are those that the
    commit touched. Reads no array.
    """
    with open_log(path, salvage, quiet=as_json) as opened:
        found = find_version(opened, version, step, time_ns)
        shown = _Shown.of(opened, found)
    if as_json:
        say(to_json(shown.to_dict()))
    else:
        shown.print()


@dataclass(frozen=True, slots=True)
class _Shown:
    """What there is to show of a version.

    Attributes:
        commit: the commit.
        record: the same, as the log has it.
        chain: the chain after it.
        arrays: the arrays after it, by name; those that it touched where its data were dropped.
        values: the constants after it; None where its data were dropped.
        dropped: what to say where its data were dropped; empty where they were not.
        process: what is known of the process that made it.
    """

    commit: Commit
    record: CommitRecord
    chain: bytes
    arrays: list[dict[str, Any]]
    values: dict[str, str] | None
    dropped: str
    process: dict[str, str]

    @classmethod
    def of(cls, opened: Log, version: int) -> "_Shown":
        durable_version = opened.durable_version
        commit = read_commit(opened, version, lambda: durable_version)
        record, chain = opened.record(version), opened.chain_after(version)
        if version >= opened.kept_since or version in opened.kept:
            table = opened.table(version)
            values = dict(sorted(table.values.items()))
            process = process_at(opened, version)
            return cls(commit, record, chain, _arrays(record, table), values, "", process)
        touched = _touched(opened, record)
        return cls(commit, record, chain, touched, None, str(opened.dropped(version)), {})

    def to_dict(self) -> dict[str, Any]:
        values = self.values
        return describe_commit(self.commit) | {
            "dropped": bool(self.dropped),
            "process": self.process,
            "extra": _extra(self.record),
            "log_id": self.record.log_id.hex(),
            "chain": self.chain.hex(),
            "state_digest": f"{self.record.state_digest:032x}",
            "arrays": [{k: v for k, v in array.items() if k != "type"} for array in self.arrays],
            "values": values and {name: read_tag(value) for name, value in values.items()},
        }

    def print(self) -> None:
        _print_commit(self.commit, self.record, self.chain, self.process)
        if self.arrays:
            say()
            keys = [key for key in _COLUMNS if key in self.arrays[0]]
            rows = [[array[key] for key in keys] for array in self.arrays]
            print_table([_COLUMNS[key] for key in keys], rows)
        if self.values:
            say()
            rows = [(name, show_tag(value)) for name, value in self.values.items()]
            print_table(("constant", "value"), rows)
        if self.dropped:
            say(f"\n{self.dropped}")


def _touched(opened: Log, record: CommitRecord) -> list[dict[str, Any]]:
    """The arrays that a commit has a record of, by name, with what the record says."""
    arrays = [
        {
            "name": opened.name_of(int(row["id"])),
            "changed_bytes": int(row["changed"]),
            "digest": _show_lanes((int(row["lane0"]), int(row["lane1"]))),
        }
        for row in (*record.aside, *record.records)
        if row["id"] != EXTRA_ID
    ]
    return sorted(arrays, key=lambda array: array["name"])


def _show_lanes(lanes: Lanes) -> str:
    return "{:08x}{:08x}".format(*lanes)


def _arrays(record: CommitRecord, table: Table) -> list[dict[str, Any]]:
    """The arrays after the commit, by name."""
    changed = {int(row["id"]): int(row["changed"]) for row in (*record.aside, *record.records)}
    return [
        {
            "name": info.name,
            "type": show_type(info),
            "kind": info.kind,
            "dtype": info.dtype,
            "shape": list(info.shape),
            "bytes": info.nbytes,
            "changed_bytes": changed.get(info.id, 0),
            "digest": _show_lanes(table.lanes_now(info.id)),
        }
        for info in sorted(table.arrays.values(), key=lambda info: info.name)
    ]


def _bytes_of(commit: Commit) -> str | None:
    """What to say of a commit that does not have the bytes of all arrays."""
    if commit.saved:
        return None
    if not commit.saved_arrays:
        return "not logged: digests only"
    return f"logged in part: of {', '.join(commit.saved_arrays)}"


def _extra(record: CommitRecord) -> dict[str, Any] | None:
    """Kind and size of the caller's ``extra``, without reading it; None where there is none."""
    span = record.extra_span()
    if span is None:
        return None
    size = int(record.chunks["raw"][span].sum(dtype="uint64"))
    return {"kind": "json" if record.flags & EXTRA_IS_JSON else "bytes", "bytes": size}


def _print_commit(
    commit: Commit, record: CommitRecord, chain: bytes, process: dict[str, str]
) -> None:
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
            "changed": f"{commit.changed_bytes:,} bytes of {changed}" if commit.saved else changed,
            "bytes": _bytes_of(commit),
            "logged": f"{commit.logged_bytes:,} bytes",
            "made by": ", ".join(f"{k} {v}" for k, v in process.items() if v) or None,
            "durable": "yes" if commit.durable else "not known to be",
            "digest": f"{record.state_digest:032x}",
            "chain": chain.hex(),
        }
    )
