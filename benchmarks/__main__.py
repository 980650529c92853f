"""``python -m benchmarks [GROUP …] [--long] [--accept]``: run them, print a table, compare.

The short form takes about five minutes on two cores; ``--long`` has the large states and graphs.
A run of all groups is kept in ``results``. The exit status is 1 where a row has regressed, by the
rule of `benchmarks.baseline`; ``--accept`` makes the run the baseline instead.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import baseline
from benchmarks.peers import NEVER, LeftOut, beside
from mmsb_jax.bench.machine import machine
from mmsb_jax.bench.row import COLUMNS, Row

GROUPS = (
    "start",
    "allocation",
    "delta",
    "commit",
    "checkout",
    "restart",
    "replay",
    "table",
    "semiring",
    "propagation",
    "graph",
    "persistence",
    "shipping",
    "saving",
    "programs",
    "stress",
    "pipeline",
    "watching",
    "memory",
)
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> int:
    """Run what was asked for; 1 for a regression."""
    asked = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    begun = time.monotonic()
    found = [thing for group in asked.groups or GROUPS for thing in run(group, asked, console)]
    rows = [thing for thing in found if isinstance(thing, Row)]
    left_out = [*(thing for thing in found if isinstance(thing, LeftOut)), *NEVER]
    for thing in dict.fromkeys(left_out):
        console.print(f"left out: {thing.peer}: {thing.reason}", markup=False)
    console.print(f"{len(rows)} rows in {time.monotonic() - begun:.0f} s")
    if not asked.groups:
        _keep(rows, left_out, asked.long, console)
    if asked.accept:
        baseline.accept(rows, machine(), baseline.path_of(asked.long))
        console.print(f"accepted as {baseline.path_of(asked.long)}")
        return 0
    return _judge(rows, asked, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--long", action="store_true", help="the large states and graphs")
    parser.add_argument("--accept", action="store_true", help="make this run the baseline")
    parser.add_argument("--folder", help="where the logs are written; a temporary one by default")
    return parser


def run(group: str, asked: argparse.Namespace, console: Console) -> list[Row | LeftOut]:
    """What a group has found, shown."""
    begun = time.monotonic()
    with (
        console.status(f"{group} …"),
        tempfile.TemporaryDirectory(dir=asked.folder, ignore_cleanup_errors=True) as folder,
    ):
        rows = lambda: import_module(f"benchmarks.{group}").rows(Path(folder), asked.long)  # noqa: E731
        found = list(beside(f"the group {group}", rows))
    table = _table(thing for thing in found if isinstance(thing, Row))
    table.title = f"{group}, {time.monotonic() - begun:.0f} s"
    console.print(table)
    return found


def _judge(rows: list[Row], asked: argparse.Namespace, console: Console) -> int:
    """Compare with the baseline; what seems to be worse is measured once more."""
    held = baseline.read(baseline.path_of(asked.long))
    if held is None:
        console.print("there is no baseline to compare with: --accept makes one")
        return 0
    before, of_baseline = held
    found = baseline.changes(before, baseline.spreads_of(rows))
    worse = {change.name: change for change in found if change.is_worse}
    again = [
        thing
        for group in dict.fromkeys(name.partition("/")[0] for name in worse)
        for thing in run(group, asked, console)
        if isinstance(thing, Row) and thing.name in worse
    ]
    regressed = [
        change for change in baseline.changes(before, baseline.spreads_of(again)) if change.is_worse
    ]
    for change in (*(change for change in found if not change.is_worse), *regressed):
        console.print(str(change), markup=False)
    unknown = [row.name for row in rows if row.name not in before]
    if unknown:
        console.print(f"not in the baseline: {', '.join(unknown)}", markup=False)
    if not asked.groups:
        gone = before.keys() - {row.name for row in rows}
        if gone:
            console.print(f"in the baseline alone: {', '.join(sorted(gone))}", markup=False)
    if not baseline.decides(of_baseline, machine()):
        console.print(f"the baseline is of another machine, and decides nothing: {of_baseline}")
        return 0
    return int(bool(regressed))


def _keep(rows: list[Row], left_out: Iterable[LeftOut], long: bool, console: Console) -> None:
    RESULTS.mkdir(exist_ok=True)
    form = "-long" if long else ""
    path = RESULTS / f"{jax.default_backend()}-jax{jax.__version__}{form}.json"
    told = {thing.peer: thing.reason for thing in left_out}
    report = {"machine": machine(), "rows": [row.to_dict() for row in rows], "left_out": told}
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(_markdown(machine(), rows, told))
    console.print(f"kept in {path} and beside it as Markdown")


def _table(rows: Iterable[Row]) -> Table:
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells())
    return table


def _markdown(machine: object, rows: list[Row], left_out: dict[str, str]) -> str:
    lines = [f"Measured by `make bench` on: {machine}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, ("---",) * len(COLUMNS))]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    lines += ["", "Left out:", ""]
    lines += [f"- {peer}: {reason}" for peer, reason in left_out.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
