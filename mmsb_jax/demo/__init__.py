"""The demo: train on handwritten digits, be killed, go on, and look back from the log alone."""

import random
import shutil
import sys
from pathlib import Path

import mmsb_jax as mmsb
from mmsb_jax.demo import _picture, _processes, _story, _tables

STEPS = 300


def run(out: Path, steps: int = STEPS) -> bool:
    """Run the demo in the directory ``out``; whether the resumed run equals the uninterrupted one.

    It needs the extra ``demo``. What earlier runs left in ``out`` is replaced.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(width=None if sys.stdout.isatty() else 110)
    kept = ("killed.mmsb", "whole.mmsb", "fork.mmsb", "bfloat16.mmsb")
    killed_path, whole_path, fork_path, bf16_path = (out / name for name in kept)
    for name in kept:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    at = random.SystemRandom().randrange(steps // 5, steps - steps // 5)

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("training, to be killed", total=steps)
        seen = _processes.run_and_kill(
            killed_path, steps, at, lambda i: progress.update(bar, completed=i)
        )
        with mmsb.open(killed_path, mode="r") as reader:
            survived = reader.version
        progress.update(bar, description="resumed")
        _processes.run(killed_path, steps, lambda i: progress.update(bar, completed=i))
        progress.reset(bar, description="uninterrupted", total=steps)
        times = _processes.run(whole_path, steps, lambda i: progress.update(bar, completed=i))
        progress.update(bar, description="without commits", total=None)
        bare = _processes.run(None, steps)

        progress.update(bar, description="reading the log")
        bus, whole = mmsb.open(killed_path), mmsb.open(whole_path, mode="r")
        differing = _story.differing_arrays(bus.tree(), whole.tree())
        versions = [*range(1, bus.version, 10), bus.version]
        scores = _story.accuracies(bus, versions)
        middle = bus.version // 2
        progress.update(bar, description="a fork from the middle")
        fork = _story.go_on_slower(bus, fork_path, middle, steps)
        fork.sync()
        fork_versions = [v for v in versions if v >= middle]
        fork_scores = _story.accuracies(fork, fork_versions)
        progress.update(bar, description="bfloat16")
        small = _story.train_bfloat16(bf16_path, steps)
        progress.update(bar, description="verifying")
        reports = {"run": bus.verify(), "fork": fork.verify()}

    picture = out / "demo.png"
    logged = [commit.logged_bytes for commit in bus.log()]
    _picture.draw(picture, (versions, scores), (fork_versions, fork_scores), logged, survived)

    console.print(
        f"Killed by SIGKILL after it had reported step {seen}; the log held {survived} versions. "
        f"Resumed to step {steps}."
    )
    if differing:
        console.print(f"[bold red]NOT equal to the run that was never interrupted:[/] {differing}")
    else:
        console.print("Equal, byte for byte, to the run that was never interrupted.")
    console.print(f"\n{bus.diff(middle, bus.version)}\n", markup=False, highlight=False)
    console.print(_tables.cost_table("float32, Adam", _story.cost_of(bus)))
    console.print("Dense float32 training changes nearly every word: there is little to save.\n")
    console.print(_tables.cost_table("bfloat16 weights, SGD at a small rate", small))
    console.print(_tables.time_table(times, bare))
    if times["commit_ms"] > bare["step_ms"]:
        console.print(
            "A step of this small network is shorter than the writing of its commit, so the caller "
            "waits for the bounded queue. A step that is longer hides it.\n"
        )
    runs = {
        "run": dict(zip(versions, scores, strict=True)),
        "fork": dict(zip(fork_versions, fork_scores, strict=True)),
    }
    shown = sorted({*versions[:: max(1, len(versions) // 8)], versions[-1]})
    console.print(_tables.accuracy_table(shown, runs))
    for name, found in reports.items():
        console.print(f"verify, {name}: {found}", markup=False, highlight=False)
    console.print(f"picture: {picture}")
    bus.close()
    whole.close()
    fork.close()
    return not differing and all(reports.values())
