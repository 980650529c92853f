"""The command line: ``mmsb log | show | diff | verify | checkout | fork | stats | …``.

Each command is a short wrapper of the library. All but ``demo`` and ``bench`` work through the
store, so that they start without JAX.
"""

import click

from mmsb_jax.cli.change.compact import compact
from mmsb_jax.cli.change.demo import demo
from mmsb_jax.cli.change.fork import fork
from mmsb_jax.cli.change.repair import repair
from mmsb_jax.cli.change.ship import export, follow, import_
from mmsb_jax.cli.change.tag import tag
from mmsb_jax.cli.common.command import Commands, show_strange_characters
from mmsb_jax.cli.find.bisect import bisect
from mmsb_jax.cli.find.history import history
from mmsb_jax.cli.find.notes import notes
from mmsb_jax.cli.find.programs import programs
from mmsb_jax.cli.inspect.bench import bench
from mmsb_jax.cli.inspect.checkout import checkout
from mmsb_jax.cli.inspect.completion import completion
from mmsb_jax.cli.inspect.diff import diff
from mmsb_jax.cli.inspect.log import log
from mmsb_jax.cli.inspect.show import show
from mmsb_jax.cli.inspect.stats import stats
from mmsb_jax.cli.inspect.usage import usage
from mmsb_jax.cli.inspect.verify import verify


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmsb-jax")
def main() -> None:
    """Read the log of an mmsb bus: what was committed, what changed, and any state of it.

    Logs are opened as a reader: a command runs beside the process that writes, and changes
    nothing. Only compact, tag and import write, and are refused while another process does.

    \b
    Exit codes:
      0  fine
      1  the answer is no: verify found damage; diff --exit-code found a difference
      2  wrong usage
      3  the log or the version cannot be had; stderr says why
      130, 141  interrupted; who reads the output wanted no more of it

    With --json the result is one JSON document on stdout, and an error one on stderr. NaN and
    infinities, which JSON has no word for, are the strings "NaN", "Infinity" and "-Infinity".
    """
    show_strange_characters()


for commands in (
    (log, show, diff, verify, checkout, stats, usage, follow, bench, completion),
    (bisect, history, notes, programs),
    (fork, tag, compact, export, import_, repair, demo),
):
    for command in commands:
        main.add_command(command)
