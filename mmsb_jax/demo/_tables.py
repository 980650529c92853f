"""The demo's tables."""

from typing import Any

from rich.table import Table

from mmsb_jax.demo._story import Cost


def cost_table(title: str, cost: Cost) -> Table:
    """What a run's commits cost beside full copies."""
    table = Table(title=title, title_justify="left")
    for column in ("steps", "bytes changed a step", "logged", "full copies", "share"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{cost.steps}",
        f"{cost.changed:.1%}",
        f"{cost.logged_bytes / 1e6:.1f} MB",
        f"{cost.full_bytes / 1e6:.1f} MB",
        f"{cost.logged_bytes / cost.full_bytes:.0%}",
    )
    return table


def time_table(times: dict[str, Any], bare: dict[str, Any]) -> Table:
    """What a commit costs the training: medians a step."""
    table = Table(title="time a step, medians", title_justify="left")
    for column in ("step alone", "step beside commits", "commit(wait=False)", "share of a step"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{bare['step_ms']:.2f} ms",
        f"{times['step_ms']:.2f} ms",
        f"{times['commit_ms']:.2f} ms",
        f"{times['commit_ms'] / bare['step_ms']:.0%}",
    )
    return table


def accuracy_table(versions: list[int], runs: dict[str, dict[int, float]]) -> Table:
    """The accuracy of each run at ``versions``, where it has them."""
    table = Table(title="accuracy, from the log alone", title_justify="left")
    table.add_column("version")
    for version in versions:
        table.add_column(str(version), justify="right")
    for name, found in runs.items():
        table.add_row(name, *(f"{found[v]:.3f}" if v in found else "" for v in versions))
    return table
