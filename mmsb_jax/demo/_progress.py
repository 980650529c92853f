"""A bar for each stage of the demo, where there is a terminal to show it on."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmsb_jax.demo._processes import Tick

Stage = Callable[[str, int], Tick]
"""Begins a stage, by its name and number of steps; what it returns is told how far it is."""


@contextlib.contextmanager
def stages(console: Console) -> Iterator[Stage]:
    """Bars while the block runs; they are gone behind it."""
    text, bar = TextColumn("{task.description:<28}"), BarColumn(bar_width=36)
    columns = (text, bar, MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def begin(name: str, total: int) -> Tick:
            task = progress.add_task(name, total=total)
            return lambda done: progress.update(task, completed=done)

        yield begin
