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

NAMES = ("commits", "checkouts", "replays", "arrays", "start", "growth")
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
        report = {"machine": _machine(), "rows": [row.to_dict() for row in found]}
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        console.print(f"kept in {path.relative_to(Path.cwd())}")
    return int(not all(row.is_met for row in found))


def _table(rows: list[Row]) -> Table:
    table = Table("#", "what", "figure", "beside", "its figure", "ratio", "must", "aim", "met")
    for row in rows:
        table.add_row(
            row.budget,
            row.what,
            f"{row.figure:,.4g} {row.unit}",
            row.against,
            f"{row.reference:,.4g}",
            f"{row.ratio:.3g}",
            row.must,
            row.aim,
            "yes" if row.is_met else "NO",
        )
    return table


def _machine() -> dict[str, object]:
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
