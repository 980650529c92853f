"""``mmsb repair``: a new log of all that is whole in a damaged one."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from mmsb_jax._display.text import printable
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import check_local, check_log_place
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.maintain.repair import repair as repair_log
from mmsb_jax._store.maintain.report import RepairReport
from mmsb_jax._store.maintain.salvage.survey import LinePart
from mmsb_jax._store.writer.create import check_free, new_log
from mmsb_jax.cli.common.command import PATH, LogCommand, json_option, path_argument, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.progress import progress_bar


@click.command(cls=LogCommand)
@path_argument
@click.argument("new", type=PATH)
@click.option(
    "--page-bytes",
    type=click.IntRange(min=128),
    default=4096,
    show_default=True,
    help="The size of a page, where the manifest, which says it, is damaged.",
)
@click.option(
    "--keep-unproven",
    is_flag=True,
    help="Keep arrays whose bytes are whole and whose digest is wrong.",
)
@json_option
def repair(path: str, new: str, page_bytes: int, keep_unproven: bool, as_json: bool) -> None:
    """Make at NEW a log of all that is whole in a damaged one, which is only read.

    Where the data of a commit are lost, the states behind it are, up to the next snapshot. NEW goes
    up to the newest state that can be had; of versions before such a gap it has what the commits
    say, and the states that are in snapshots. Versions before a gap that can be had in full make
    logs of their own beside it: NEW-versions-1-40.

    Where the bytes are whole and a commit names the digest of others, as a fault in the writer
    leaves it, nothing shows that array to be right until a later commit does. NEW has everything
    else at every version, and the report names what is left out. With --keep-unproven it is kept:
    it is very likely right, and a tag says that it is not shown to be.

    Every new log is verified before it is put in place. Sectors that the disk refuses to read count
    as lost. NEW must not exist, or be an empty directory.
    """
    report = _repair(path, new, page_bytes, keep_unproven)
    lines = "\n".join(map(printable, str(report).splitlines()))
    say(to_json(asdict(report)) if as_json else lines)


def _repair(path: str, new: str, page_bytes: int, keep_unproven: bool) -> RepairReport:
    source, target = DiskFiles(check_log_place(path)), check_local(new)
    check_free(target)
    with (
        contextlib.closing(source),
        ThreadPoolExecutor() as threads,
        progress_bar("commits") as progress,
        contextlib.ExitStack() as drafts,
    ):

        def make(part: LinePart, is_newest: bool) -> tuple[Files, str]:
            behind = "" if is_newest else f"-versions-{part.first}-{part.last}"
            place = target.with_name(target.name + behind)
            return drafts.enter_context(new_log(place)), str(place)

        return repair_log(
            source,
            path,
            make,
            page_bytes=page_bytes,
            keep_unproven=keep_unproven,
            progress=progress,
            executor=threads,
        )
