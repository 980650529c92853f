"""What the commands have in common: options, exit codes, and errors without a traceback."""

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO, TypeVar

import click

from mmsb_jax._base.errors import LocationError, MMSBError
from mmsb_jax._display.text import printable
from mmsb_jax.cli.common.json import to_json

NO = 1
"""Exit code: the answer is no."""
FAILED = 3
"""Exit code: an `MMSBError`."""
_INTERRUPTED = 130
_PIPE_CLOSED = 141
"""What a shell says of a program that ends at a closed pipe: 128 + SIGPIPE."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class _Int64(click.ParamType):
    """A number that the log can keep as a step or a time."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = click.INT.convert(value, param, ctx)
        if not -(2**63) <= number < 2**63:
            self.fail(f"{value} does not fit into 64 bits", param, ctx)
        return number


INT64 = _Int64()


class _Version(click.ParamType):
    """A version by its number, or by a tag; a tag is never a number alone."""

    name = "version"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        try:
            return int(value)
        except ValueError:
            return value


VERSION = _Version()


class _Seconds(click.ParamType):
    """A time to wait."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = click.FLOAT.convert(value, param, ctx)
        if not number >= 0:  # NaN is none either: a wait for it would never end
            self.fail(f"{value} is no time to wait: expected 0 or more", param, ctx)
        return number


SECONDS = _Seconds()


class _PathText(click.ParamType):
    """The text of a path, which nothing is known of but that it can be one."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("the path is empty: is a variable of the shell not set?", param, ctx)
        if "\0" in value:
            self.fail(f"{value!r} holds a zero character, which no path can", param, ctx)
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            self.fail(f"{value!r} holds half a character, which no path can", param, ctx)
        text = os.path.expanduser(value)
        # As a shell has it: a user that there is not is the name of a file.
        return os.path.join(os.getcwd(), text) if str(Path(text)).startswith("~") else text


PATH = _PathText()

path_argument = click.argument("path", type=PATH)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
salvage_option = click.option(
    "--salvage",
    is_flag=True,
    help="Read what is whole before a damage, instead of refusing a damaged log.",
)
arrays_option = click.option(
    "--arrays",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only these arrays, such as 'params/**'; may be given again.",
)


def version_options(function: Decorated) -> Decorated:
    """``--version``, ``--step`` and ``--time-ns``: which version, see `find_version`."""
    for option in (
        click.option("--time-ns", type=INT64, help="The newest version not after this time."),
        click.option("--step", type=INT64, help="The newest version of this step."),
        click.option(
            "--version",
            type=VERSION,
            metavar="VERSION|TAG",
            help="This version. The newest when none is named.",
        ),
    ):
        function = option(function)
    return function


def local_file(text: str) -> Path:
    """The path of a file or directory that is no log.

    Raises:
        LocationError: a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise LocationError(f"{text} is a URL. Give the path of a local file.")
    return Path(text)


class Commands(click.Group):
    """Commands, and their help, that say by a code of its own what ended them."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As `click.Group.make_context`."""
        with _ended():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """As `click.Group.invoke`."""
        with _ended():
            return super().invoke(ctx)


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    """Ends with a code when it is interrupted, or nobody takes the output.

    Not with click's 1: nothing has been answered. What a command reads and writes fails within
    `LogCommand`; all that is left is what it prints, and its help.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise click.exceptions.Exit(_INTERRUPTED) from None
    except OSError as error:
        _let_go_of(sys.stdout)
        if error.errno == errno.EPIPE:  # nothing to say, nor to whom
            raise click.exceptions.Exit(_PIPE_CLOSED) from None
        answer = f"the output cannot be written: {error.strerror}. See to where it goes."
        raise click.exceptions.Exit(_report(LocationError(answer))) from None


class _OutputError(OSError):
    """What is printed cannot be."""


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Tells what fails on the way to stdout from what fails on the way to the log."""
    try:
        yield
    except OSError as error:
        raise _OutputError(error.errno, error.strerror) from error


def say(text: object = "") -> None:
    """Print ``text`` and a line's end on stdout."""
    with printing():
        click.echo(text)


def tell(text: str) -> None:
    """Print ``text`` and a line's end on stderr; where that fails, the exit code must do."""
    try:
        click.echo(text, err=True)
    except OSError:
        _let_go_of(sys.stderr)


class LogCommand(click.Command):
    """A command whose errors become a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """As `click.Command.invoke`."""
        try:
            return super().invoke(ctx)
        except _OutputError:
            raise
        except MMSBError as error:
            code = _report(error, ctx.params)
        except OSError as error:
            code = _report(_cannot_read(error, ctx.params), ctx.params)
        return ctx.exit(code)


def _let_go_of(stream: TextIO) -> None:
    """What is still to be said goes nowhere: Python would try again at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _cannot_read(error: OSError, params: Mapping[str, Any]) -> LocationError:
    place = error.filename or params.get("path") or params.get("out")
    return LocationError(
        f"{place} cannot be read: {error.strerror or error}. See to the permissions and the disk."
    )


def _report(error: MMSBError, params: Mapping[str, Any] = MappingProxyType({})) -> int:
    # Not the number of an error of the system, which says nothing that the words do not.
    message = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    if params.get("as_json"):
        told = to_json({"error": type(error).__name__, "message": message})
    else:
        told = f"error: {printable(message)}"
    tell(told)
    return FAILED


def show_strange_characters() -> None:
    """Write what the terminal's encoding cannot show as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
