"""What the commands have in common: options, exit codes, and errors without a traceback."""

import io
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from mmsb_jax._errors import LocationError, MMSBError
from mmsb_jax.cli._json import to_json
from mmsb_jax.store._diff import printable

NO = 1
"""Exit code: the answer is no."""
FAILED = 3
"""Exit code: an `MMSBError`."""
_INTERRUPTED = 130

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

path_argument = click.argument("path")
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


class LogCommand(click.Command):
    """A command whose errors become a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            code = _INTERRUPTED  # not click's 1: nothing has been answered
        except BrokenPipeError:
            raise
        except MMSBError as error:
            code = _report(error, ctx)
        except OSError as error:
            code = _report(_cannot_read(error, ctx.params.get("path")), ctx)
        return ctx.exit(code)


def _cannot_read(error: OSError, path: str | None) -> LocationError:
    return LocationError(
        f"{error.filename or path} cannot be read: {error.strerror or error}. See to the "
        f"permissions and the disk."
    )


def _report(error: MMSBError, ctx: click.Context) -> int:
    message = str(error)
    if ctx.params.get("as_json"):
        click.echo(to_json({"error": type(error).__name__, "message": message}), err=True)
    else:
        click.echo(f"error: {printable(message)}", err=True)
    return FAILED


def show_strange_characters() -> None:
    """Write what the terminal's encoding cannot show as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
