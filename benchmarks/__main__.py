"""``python -m benchmarks [name …]``: run them, print a table, keep the figures."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from benchmarks._measure import Row

NAMES = (
    "commits",
    "checkouts",
    "replays",
    "arrays",
    "waves",
    "graphs",
    "algebra",
    "start",
    "growth",
)
RESULTS = Path(__file__).parent / "results"


def main(names: list[str]) -> int:
    """Run the benchmarks called ``names``; all for none. 1 where a budget is not met."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    found: list[Row] = []
    for name in names or NAMES:
        with console.status(f"{name} …"):
            found += import_module(f"benchmarks.{name}").rows()
    console.print(_table(found))
    if not names:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{jax.default_backend()}-jax{jax.__version__}.json"
        report = {"machine": machine(), "rows": [row.to_dict() for row in found]}
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        path.with_suffix(".md").write_text(_markdown(report["machine"], found))
        console.print(f"kept in {path} and beside it as Markdown")
    return int(not all(row.is_met for row in found))


_COLUMNS = ("#", "what", "figure", "beside", "its figure", "ratio", "must", "aim", "met")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.budget,
        row.what,
        f"{_short(row.figure)} {row.unit}",
        row.against,
        _short(row.reference),
        f"{row.ratio:.2g}",
        row.must,
        row.aim,
        "yes" if row.is_met else "NO",
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(rows: list[Row]) -> Table:
    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _markdown(machine: object, rows: list[Row]) -> str:
    lines = [f"Measured by `make bench` on: {machine}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (_COLUMNS, ("---",) * len(_COLUMNS))]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, object]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
