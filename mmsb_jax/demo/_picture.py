"""The demo's picture: accuracy and logged bytes over versions."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mmsb_jax.demo._story import Story

_RUN, _FORK, _KILL = "#1b6b93", "#e07a3f", "#b3263a"
_GREENS = ("#a8cfae", "#6cab7b", "#357a4b")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


def draw(path: Path, story: Story) -> None:
    """Save the picture as PNG."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 5.6), dpi=160, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_accuracy(upper, story)
        _draw_bytes(lower, story)
        figure.align_ylabels()
        figure.savefig(path)


def _draw_accuracy(axes: Axes, story: Story) -> None:
    run, fork = story.run, story.fork
    axes.plot(run.versions, run.accuracies, color=_RUN, lw=1.8, label="killed once and resumed")
    axes.plot(
        fork.versions, fork.accuracies, color=_FORK, lw=1.8,
        label="fork from the middle, another learning rate",
    )  # fmt: skip
    # Near 1 it is the share of errors that matters.
    axes.set_yscale("logit", nonpositive="clip")
    ticks = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.set_ylabel("accuracy on test digits")
    axes.axvline(story.survived, color=_KILL, lw=1, ls=(0, (2, 2)))
    axes.annotate(
        "SIGKILL", (story.survived, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
        textcoords="offset points", ha="center", color=_KILL, fontsize=8, weight="bold",
    )  # fmt: skip
    axes.legend(loc="lower right")


def _draw_bytes(axes: Axes, story: Story) -> None:
    small = [f"bfloat16, SGD {outcome.learning_rate:g}" for outcome in story.bfloat16]
    names, colors = ("float32, Adam", *small), (_RUN, *_GREENS[-len(small) :])
    for name, outcome, color in zip(names, (story.adam, *story.bfloat16), colors, strict=True):
        versions = range(1, len(outcome.cost.logged) + 1)
        axes.plot(versions, outcome.cost.logged, color=color, lw=1, label=name)
    for outcome, color in ((story.adam, _RUN), (story.bfloat16[0], _GREENS[-1])):
        full = outcome.cost.state_bytes
        axes.axhline(full, color=color, lw=0.9, ls=(0, (5, 3)), alpha=0.6)
        axes.annotate(
            "full copy", (1, full), xycoords=("axes fraction", "data"), xytext=(3, -3),
            textcoords="offset points", color=color, fontsize=8,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1e3:g} kB"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("logged a version")
    axes.set_xlabel("version")
    axes.margins(x=0.01)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=4)
