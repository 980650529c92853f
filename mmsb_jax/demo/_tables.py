"""What the demo tells: a few lines and tables."""

from rich.console import Console
from rich.table import Table

from mmsb_jax.demo._runs import StepTime
from mmsb_jax.demo._story import DemoResult, Story

_COLUMNS_SHOWN = 8


def tell(console: Console, story: Story) -> None:
    """Print all of it."""
    console.print(
        f"Killed by SIGKILL after it had reported step {story.reported}; the log held "
        f"{story.survived} versions. Resumed to step {story.steps}."
    )
    resumed, whole = story.digests
    if story.is_equal:
        console.print("[bold green]Equal, byte for byte[/], to the run that was never interrupted.")
    else:
        names = ", ".join(story.differing) or "the digests"
        console.print("[bold red]NOT EQUAL[/] to the run that was never interrupted. Differing:")
        console.print(names, markup=False)
    console.print(f"  SHA-256 resumed            {resumed}\n  SHA-256 never interrupted  {whole}\n")
    console.print(str(story.difference), markup=False, soft_wrap=True)
    console.print()
    console.print(cost_table("float32 weights, Adam", [story.adam]))
    console.print(
        "Dense float32 training changes most of its bytes in every step: there is little to save.\n"
    )
    console.print(cost_table("The same network: bfloat16 weights, plain SGD", story.bfloat16))
    console.print(
        "The smaller the rate, the fewer weights move by as much as bfloat16 can tell: fewer "
        "bytes, and less learned.\n"
    )
    console.print(time_table(story.times))
    if any(time.commit_ms > time.alone_ms for time in story.times):
        console.print("Where a commit takes longer than a step, its caller waits for the queue.")
    console.print()
    console.print(accuracy_table(story))
    for name, report in story.reports.items():
        console.print(f"verify, {name}: {report}", markup=False, soft_wrap=True)


def cost_table(title: str, outcomes: list[DemoResult]) -> Table:
    """What the commits of runs take beside full copies."""
    columns = ("learning rate", "steps", "changed a step", "logged", "full copies", "share")
    table = _table(title, *columns, "accuracy")
    for outcome in outcomes:
        cost = outcome.cost
        table.add_row(
            f"{outcome.learning_rate:g}",
            f"{len(cost.logged)}",
            f"{cost.changed_share:.1%}",
            f"{cost.logged_bytes / 1e6:.1f} MB",
            f"{cost.full_bytes / 1e6:.1f} MB",
            f"{cost.logged_bytes / cost.full_bytes:.1%}",
            f"{outcome.accuracy:.3f}",
        )
    return table


def time_table(times: list[StepTime]) -> Table:
    """What a commit adds to a step."""
    title = "Time a step: float32, Adam, wait=False"
    table = _table(title, "batch", "no commits", "with commits", "a commit", "share of a step")
    for time in times:
        table.add_row(
            f"{time.batch:,}",
            f"{time.alone_ms:.2f} ms",
            f"{time.committed_ms:.2f} ms",
            f"{time.commit_ms:.2f} ms",
            f"{time.commit_ms / time.alone_ms:.0%}",
        )
    return table


def accuracy_table(story: Story) -> Table:
    """The accuracy of the run and its fork; some of the versions that were read."""
    every = max(1, len(story.run.versions) // _COLUMNS_SHOWN)
    shown = story.run.versions[::-every][::-1]
    table = _table("Accuracy, from the log alone", "version", *map(str, shown))
    for name, curve in {"run": story.run, "fork": story.fork}.items():
        known = dict(zip(curve.versions, curve.accuracies, strict=True))
        table.add_row(name, *(f"{known[v]:.3f}" if v in known else "" for v in shown))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table
