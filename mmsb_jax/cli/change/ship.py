"""``mmsb export``, ``import`` and ``follow``: the commits of a log, elsewhere."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from mmsb_jax._base.errors import LocationError
from mmsb_jax._display.text import printable
from mmsb_jax._display.times import local_time
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.files.local import check_local
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit, read_commit
from mmsb_jax._store.query.commits import show_note
from mmsb_jax._store.query.follow import Follower
from mmsb_jax._store.transfer.import_ import Intake, take_in
from mmsb_jax._store.transfer.stream import (
    Stream,
    open_stream,
    write_file,
    write_joining_stream,
    write_stream,
)
from mmsb_jax._store.writer.create import create_log, new_log
from mmsb_jax.cli.common.command import (
    PATH,
    SECONDS,
    LogCommand,
    json_option,
    local_file,
    path_argument,
    say,
)
from mmsb_jax.cli.common.export import check_new_file
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log, open_writer
from mmsb_jax.cli.inspect.log import describe_commit

_POLL_S = 0.01


@click.command(cls=LogCommand)
@path_argument
@click.argument("file", type=PATH)
@click.option(
    "--since",
    type=click.IntRange(min=0),
    metavar="VERSION",
    help="What the other log has; 0 for nothing. Without it a log begins late, with a snapshot.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@json_option
def export(path: str, file: str, since: int | None, force: bool, as_json: bool) -> None:
    """Write commits to FILE, for mmsb import elsewhere.

    It ends at the newest version that is known to be durable.
    """
    target = local_file(file)
    check_new_file(target, force)
    with open_log(path, quiet=as_json) as opened:
        until = opened.durable_version
        if since is None:
            buffers = write_joining_stream(opened, until, time.time_ns())
        else:
            buffers = write_stream(opened, since, until)
        write_file(target, buffers)
    found = {"path": str(target), "until": until, "bytes": target.stat().st_size}
    if as_json:
        say(to_json(found))
    else:
        shown = printable(str(target))
        say(f"{shown} holds commits up to version {until}: {found['bytes']:,} bytes")


@click.command("import", cls=LogCommand)
@path_argument
@click.argument("file", type=PATH)
@json_option
def import_(path: str, file: str, as_json: bool) -> None:
    """Take the commits in FILE, which mmsb export wrote, into the log at PATH.

    All of FILE is checked first. What is there already is skipped; a gap, or another history, is
    refused. Where there is no log at PATH one is made.
    """
    source = local_file(file)
    if source.exists() and not source.is_file():
        raise LocationError(f"{source} is no file, and a stream is read more than once: store it.")
    with open_stream(source) as stream:
        _make(check_local(path), stream)
        with open_writer(path) as writer:
            page_bytes = writer.log.manifest.page_bytes
            state = writer.log.state(writer.log.version, page_bytes=page_bytes)
            with ThreadPoolExecutor() as threads:
                new = take_in(Head(state, writer, page_bytes, lambda: threads), stream)
            version = writer.log.version
    if as_json:
        say(to_json({"new": len(new), "version": version}))
    else:
        say(f"{len(new):,} new commits; the log is at version {version}")


def _make(place: Path, stream: Stream) -> None:
    """A log at ``place`` where nothing is, once it is known that ``stream`` begins one."""
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        return
    memory, page_bytes = MemoryFiles(), stream.head.page_bytes
    create_log(memory, page_bytes)
    Intake.of(stream, Log(memory, str(place)))
    with new_log(place) as files:
        create_log(files, page_bytes)


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--after", type=click.IntRange(min=0), metavar="VERSION", help="Begin behind this version."
)
@click.option(
    "--timeout", type=SECONDS, metavar="SECONDS", help="End when nothing has landed for so long."
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
                    say(to_json(describe_commit(commit), indent=None))
                else:
                    say(printable(_line(commit)))
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
