"""``mmsb verify``: read everything, replay everything, compare every hash."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import click

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._display.text import printable
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.verify import VerifyReport
from mmsb_jax._store.maintain.verify import verify as verify_log
from mmsb_jax.cli.common.command import NO, LogCommand, json_option, path_argument, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log
from mmsb_jax.cli.common.progress import progress_bar


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--deep",
    is_flag=True,
    help="Digest what every version touched from its bytes, not the snapshots' versions alone.",
)
@json_option
@click.pass_context
def verify(ctx: click.Context, path: str, deep: bool, as_json: bool) -> None:
    """Check the whole log; exit with 1 when it is damaged.

    Every frame is compared with its hashes, every commit with the chain, every state with its
    digest, every snapshot with the replay, every index with its segment. A progress bar is shown
    on stderr, in a terminal.

    What is damaged stays as it is: mmsb repair makes a new log of what is whole.
    """
    report = _verify(path, deep)
    if as_json:
        say(to_json(_describe(report)))
    else:
        faults, notes = map(printable, report.faults), map(printable, report.notes)
        say(replace(report, faults=list(faults), notes=list(notes)))
    if not report:
        ctx.exit(NO)


def _verify(path: str, deep: bool) -> VerifyReport:
    try:
        with open_log(path, quiet=True) as opened:
            return _run(opened, deep)
    except CorruptionError as error:
        damage = str(error)
    # Damage that forbids to open the log: say what is whole before it.
    report = VerifyReport()
    with contextlib.suppress(CorruptionError), open_log(path, salvage=True, quiet=True) as opened:
        report = _run(opened, deep)
    report.faults.insert(0, damage)
    report.notes = [note for note in report.notes if note != damage]
    return report


def _run(opened: Log, deep: bool) -> VerifyReport:
    with progress_bar("versions") as progress, ThreadPoolExecutor() as threads:
        return verify_log(opened, progress, threads, deep)


def _describe(report: VerifyReport) -> dict[str, Any]:
    return {"whole": bool(report), **asdict(report)}
