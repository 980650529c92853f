"""The demo's picture: accuracy and logged bytes over versions."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

Curve = tuple[list[int], list[float]]


def draw(path: Path, run: Curve, fork: Curve, logged_bytes: list[int], killed_at: int) -> None:
    """Save the picture as PNG.

    Args:
        path: where.
        run: versions and accuracies of the run.
        fork: those of the fork.
        logged_bytes: bytes that each version of the run takes in the log.
        killed_at: the version at which the run was killed.
    """
    with matplotlib.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        upper.plot(*run, color="#1f6f8b", label="the run, killed once and resumed")
        upper.plot(*fork, color="#e07a3f", label="a fork with a tenth of the learning rate")
        upper.axvline(killed_at, color="#b03030", lw=1, ls=":")
        upper.annotate(
            "SIGKILL", (killed_at, upper.get_ylim()[0]), xytext=(4, 6), textcoords="offset points",
            color="#b03030", fontsize=8,
        )  # fmt: skip
        upper.set_ylabel("accuracy on the test digits")
        upper.legend(frameon=False, loc="lower right")
        versions = range(1, len(logged_bytes) + 1)
        lower.bar(versions, [b / 1e3 for b in logged_bytes], width=1, color="#8fb8c6")
        lower.set_ylabel("logged, kB")
        lower.set_xlabel("version")
        figure.savefig(path)
