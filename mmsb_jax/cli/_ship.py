"""``mmsb export``, ``import`` and ``follow``: the commits of a log, elsewhere."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from mmsb_jax._errors import LocationError
from mmsb_jax.cli._command import LogCommand, json_option, path_argument
from mmsb_jax.cli._json import to_json
from mmsb_jax.cli._log import describe_commit, show_note
from mmsb_jax.cli._reader import open_log
from mmsb_jax.cli._table import local_time
from mmsb_jax.cli._writer import open_writer
from mmsb_jax.store._commit import Commit, read_commit
from mmsb_jax.store._diff import printable
from mmsb_jax.store._files import DiskFiles
from mmsb_jax.store._following import Follower
from mmsb_jax.store._fork import create_log
from mmsb_jax.store._head import Head
from mmsb_jax.store._intake import take_in
from mmsb_jax.store._place import check_local
from mmsb_jax.store._stream import open_stream, write_file, write_joining_stream, write_stream

_POLL_S = 0.01


@click.command(cls=LogCommand)
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--since",
    type=click.IntRange(min=0),
    metavar="VERSION",
    help="What the other log has; 0 for nothing. Without it a log begins late, with a snapshot.",
)
@json_option
def export(path: str, file: Path, since: int | None, as_json: bool) -> None:
    """Write commits to FILE, for mmsb import elsewhere.

    It ends at the newest version that is known to be durable.
    """
    with open_log(path, quiet=as_json) as opened:
        until = opened.durable_version
        if since is None:
            buffers = write_joining_stream(opened, until, time.time_ns())
        else:
            buffers = write_stream(opened, since, until)
        write_file(file, buffers)
    found = {"path": str(file), "until": until, "bytes": file.stat().st_size}
    if as_json:
        click.echo(to_json(found))
    else:
        shown = printable(str(file))
        click.echo(f"{shown} holds commits up to version {until}: {found['bytes']:,} bytes")


@click.command("import", cls=LogCommand)
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def import_(path: str, file: Path, as_json: bool) -> None:
    """Take the commits in FILE, which mmsb export wrote, into the log at PATH.

    All of FILE is checked first. What is there already is skipped; a gap, or another history, is
    refused. Where there is no log at PATH one is made.
    """
    with open_stream(file) as stream:
        _make(check_local(path), stream.head.page_bytes)
        with open_writer(path) as writer:
            page_bytes = writer.log.manifest.page_bytes
            state = writer.log.state(writer.log.version, page_bytes=page_bytes)
            with ThreadPoolExecutor() as threads:
                new = take_in(Head(state, writer, page_bytes, lambda: threads), stream)
            version = writer.log.version
    if as_json:
        click.echo(to_json({"new": len(new), "version": version}))
    else:
        click.echo(f"{len(new):,} new commits; the log is at version {version}")


def _make(place: Path, page_bytes: int) -> None:
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        create_log(DiskFiles(place), page_bytes)
    except OSError as error:
        raise LocationError(error.errno, f"{place} cannot be made: {error.strerror}.") from error


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--after", type=click.IntRange(min=0), metavar="VERSION", help="Begin behind this version."
)
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="End when nothing has landed for so long."
)
@json_option
def follow(path: str, after: int | None, timeout: float | None, as_json: bool) -> None:
    """Print commits as they land, a line each, until interrupted.

    Begins behind the newest one where --after names none. With --json each line is a document.
    """
    with open_log(path, quiet=as_json) as opened:
        follower = Follower(opened, opened.version if after is None else after)
        since = time.monotonic()
        while True:
            follower.look()
            while (version := follower.advance()) is not None:
                commit = read_commit(opened, version, lambda: opened.durable_version)
                if as_json:
                    click.echo(to_json(describe_commit(commit), indent=None))
                else:
                    click.echo(printable(_line(commit)))
                since = time.monotonic()
            if timeout is not None and time.monotonic() - since >= timeout:
                return
            time.sleep(_POLL_S)


def _line(commit: Commit) -> str:
    step = "–" if commit.step is None else commit.step
    line = (
        f"{commit.version}  step {step}  {local_time(commit.time_ns)}  {commit.source}  "
        f"{len(commit.changed)} arrays, {commit.changed_bytes:,} bytes  {show_note(commit.note)}"
    )
    return line.rstrip()
