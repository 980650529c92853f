"""``mmsb verify``: read everything, replay everything, compare every hash."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import click

from mmsb_jax._errors import CorruptionError
from mmsb_jax.cli._command import NO, LogCommand, json_option, path_argument
from mmsb_jax.cli._json import to_json
from mmsb_jax.cli._reader import open_log
from mmsb_jax.store._diff import printable
from mmsb_jax.store._log import Log
from mmsb_jax.store._verify import VerifyReport
from mmsb_jax.store._verify import verify as verify_log


@click.command(cls=LogCommand)
@path_argument
@json_option
@click.pass_context
def verify(ctx: click.Context, path: str, as_json: bool) -> None:
    """Check the whole log; exit with 1 when it is damaged.

    Every frame is compared with its hashes, every commit with the chain, every state with its
    digest, every snapshot with the replay. A progress bar is shown on stderr, in a terminal.
    """
    report = _verify(path)
    if as_json:
        click.echo(to_json(_describe(report)))
    else:
        faults, notes = map(printable, report.faults), map(printable, report.notes)
        click.echo(replace(report, faults=list(faults), notes=list(notes)))
    if not report:
        ctx.exit(NO)


def _verify(path: str) -> VerifyReport:
    try:
        with open_log(path, quiet=True) as opened:
            return _run(opened)
    except CorruptionError as error:
        damage = str(error)
    # Damage that forbids to open the log: say what is whole before it.
    report = VerifyReport()
    with contextlib.suppress(CorruptionError), open_log(path, salvage=True, quiet=True) as opened:
        report = _run(opened)
    report.faults.insert(0, damage)
    report.notes = [note for note in report.notes if note != damage]
    return report


def _run(opened: Log) -> VerifyReport:
    with _progress() as progress, ThreadPoolExecutor() as threads:
        return verify_log(opened, progress, threads)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr; None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("versions", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _describe(report: VerifyReport) -> dict[str, Any]:
    return {"whole": bool(report), **asdict(report)}
