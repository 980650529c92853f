"""``mmsb bench``: what the library costs on this machine."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmsb_jax._base.errors import LocationError
from mmsb_jax.cli.common.command import PATH, LogCommand, json_option, local_file, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.progress import progress_bar
from mmsb_jax.cli.common.table import print_facts, print_table

if TYPE_CHECKING:
    from mmsb_jax.bench.row import Row


@click.command(cls=LogCommand)
@click.option(
    "--dir",
    "out",
    metavar="DIR",
    type=PATH,
    help="Where to write its logs, which it removes: on the disk that is to be measured.",
)
@json_option
def bench(out: str | None, as_json: bool) -> None:
    """Time the library on this machine, in less than a minute.

    Each work takes turns with what nothing can beat, as many times as there are rounds: a copy of
    the bytes, a raw append with the same sync, reading them from the page cache; or with pickle.
    The ratio of the two says more than the time does, which moves with load. Its spread is that
    of its middle half. It writes up to 1 GB.
    """
    place = None if out is None else local_file(out)
    if place is not None and not place.is_dir():
        raise LocationError(f"{place} is not a directory. Give one on the disk to measure.")
    # Imported here: it imports JAX.
    from mmsb_jax.bench import machine, short

    with (
        tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder,
        progress_bar("measuring") as progress,
    ):
        found: list[Row] = []
        for row in short.rows(Path(folder)):
            found.append(row)
            if progress is not None:
                progress(len(found), short.COUNT)
    about = machine.machine()
    if as_json:
        say(to_json({"machine": about, "rows": [row.to_dict() for row in found]}))
        return
    print_facts(about)
    say()
    print_table(_COLUMNS, map(_cells, found))


_COLUMNS = ("work", "time", "beside", "its time", "ratio", "spread")


def _cells(row: "Row") -> tuple[str, ...]:
    _, what, figure, beside, its_figure, ratio, spread, *_ = row.cells()
    return what, figure, beside, its_figure, ratio, spread
