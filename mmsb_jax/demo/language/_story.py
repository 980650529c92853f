"""The story from its beginning to its end. All that it says is checked before it is said."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from mmsb_jax._base.errors import MMSBError
from mmsb_jax.demo.language import _training as training
from mmsb_jax.demo.language._loop import SPOILED, open_log, show_progress, train
from mmsb_jax.demo.language._model import ModelSize
from mmsb_jax.demo.language._training import State, Step


def play(out: Path, size: ModelSize) -> None:
    """Let it all happen, in logs under ``out``.

    Raises:
        MMSBError: something is not as the story says it.
    """
    whole, run, slower = (out / f"{name}.mmsb" for name in ("whole", "run", "slower"))
    for log in (whole, run, slower):
        shutil.rmtree(log, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    optimizer = training.adam(size)
    like = training.start(size, optimizer)
    step = training.make_step(size, optimizer)
    chance = random.SystemRandom()
    # Somewhere between two commits with bytes, not next to them.
    saved_at = size.save_every * (size.steps // size.save_every // 2)
    spoil_at = saved_at + chance.randrange(3, size.save_every - 1)

    _say_what(size, like)
    _train_whole(whole, size)
    _train_killed(run, size, chance.randrange(2, spoil_at - 1), spoil_at)
    with open_log(run, size) as bus, mmsb.open(whole, mode="r") as other:
        _hold_against(bus, other, like, spoil_at)
        _find_nan(bus, spoil_at)
        _take_again(bus, step, like, spoil_at)
        _fork_slower(bus, other, slower, step, like, spoil_at, size)
        _go_back(bus, other, step, like, spoil_at, size)
        report = bus.verify()
        _claim(report, f"verify: {report}")


def _claim(holds: Any, text: str) -> None:
    if not holds:
        raise MMSBError(f"this is not so: {text}")
    print(f"  {text}", flush=True)


def _begin(title: str) -> None:
    print(f"\n{title}", flush=True)


def _say_what(size: ModelSize, like: State) -> None:
    parameters = sum(x.size for x in jax.tree.leaves(like["params"]))
    nbytes = sum(x.nbytes for x in jax.tree.leaves(like))
    print(
        f"A transformer of {parameters:,} parameters, float32, with Adam: a state of "
        f"{nbytes / 1e6:.1f} MB.\n"
        f"It learns {len(training.read_text()):,} bytes of text: the reference of the Python "
        f"language that help() shows.\n"
        f"{size.steps} steps, a commit each: bytes every {size.save_every} steps, digests in "
        f"between.",
        flush=True,
    )


# ------------------------------------------------------------------------------ what happens to it


def _train_whole(log: Path, size: ModelSize) -> None:
    _begin("A run that nothing interrupts, to hold the other against")
    begun = time.monotonic()
    _run_child(0, log, size.name, size.steps)
    with mmsb.open(log, mode="r") as bus:
        losses = bus.notes("loss").values
        first, last = losses[0], _at_the_end(bus)
        _claim(
            len(losses) == size.steps and last < first,
            f"{size.steps} steps in {time.monotonic() - begun:.0f} s; the loss went from "
            f"{first:.2f} to {last:.2f}",
        )
        saved = [commit.step for commit in bus.commits if commit.saved]
        logged = sum(commit.logged_bytes for commit in bus.commits)
        copies = size.steps * bus.stats().state_bytes
        _claim(
            saved == sorted({1, *range(0, size.steps + 1, size.save_every), size.steps} - {0}),
            f"{len(saved)} commits have bytes, the other {size.steps - len(saved)} digests: "
            f"{logged / 1e6:.1f} MB in all, where copies of each step would take "
            f"{copies / 1e6:.0f} MB",
        )


def _train_killed(log: Path, size: ModelSize, kill_at: int, spoil_at: int) -> None:
    _begin("The same run again. It is killed, and later something goes wrong")
    until = spoil_at + 3
    _run_child(-signal.SIGKILL, log, size.name, until, kill_at, spoil_at)
    with mmsb.open(log, mode="r") as bus:
        held = bus.at(step=bus.step)
        saved = _newest_saved(bus, _step_of(held) + 1)
    _claim(
        kill_at - 3 <= _step_of(held) <= kill_at,
        f"killed by SIGKILL behind step {kill_at}; {held.step} steps are in the log, the newest "
        f"bytes are those of step {saved.step}",
    )
    _run_child(0, log, size.name, until, 0, spoil_at)
    with mmsb.open(log, mode="r") as bus:
        taken = [commit.step for commit in bus.log(since=held.version + 1)]
    _claim(
        taken[0] == _step_of(saved) + 1 and taken[-1] == until,
        f"started again, it went on from step {saved.step}, and took "
        f"{_step_of(held) - _step_of(saved)} steps for the second time",
    )


def _run_child(code: int, *arguments: object) -> None:
    """Train in another process, which is to end with ``code``."""
    command = [sys.executable, "-W", "ignore", "-m", "mmsb_jax.demo.language._child"]
    ended = subprocess.run([*command, *map(str, arguments)], check=False).returncode
    if ended != code:
        raise MMSBError(f"the training was to end with code {code}, and ended with {ended}")


# ------------------------------------------------------------------------------ what is seen of it


def _hold_against(bus: mmsb.Bus, other: mmsb.Bus, like: State, spoil_at: int) -> None:
    _begin("Held against the run that nothing interrupted")
    found = bus.first_divergence(other)
    assert found is not None
    ours, _, names = found
    _claim(
        ours.step == spoil_at and names == (SPOILED,),
        f"by their digests the two first differ at step {ours.step}, in one array: {SPOILED}",
    )
    losses = [one.notes("loss").values[:spoil_at] for one in (bus, other)]
    _claim(losses[0] == losses[1], f"the losses of all {spoil_at} steps are the same")
    saved = _newest_saved(other, spoil_at).step
    _claim(
        _are_equal(bus.checkout(step=saved, like=like), other.checkout(step=saved, like=like)),
        f"so are all bytes at step {saved}",
    )


def _find_nan(bus: mmsb.Bus, spoil_at: int) -> None:
    _begin("What went wrong")
    found = bus.first_nonfinite()
    assert found is not None
    commit, names = found
    after = bus.at(step=spoil_at + 1)
    _claim(
        commit.step == spoil_at and names == (SPOILED,),
        f"the first NaN is in step {commit.step}, in {SPOILED}",
    )
    _claim(
        np.isfinite(commit.note["loss"]) and np.isnan(after.note["loss"]),
        f"the loss shows it at step {after.step}",
    )
    _claim(not (commit.saved or after.saved), "the commits of both steps hold digests only")


def _take_again(bus: mmsb.Bus, step: Step, like: State, spoil_at: int) -> None:
    _begin("Was it the step?")
    origin, before = _newest_saved(bus, spoil_at), bus.at(step=spoil_at - 1)
    state, extra = bus.rerun(step, like=like, to=before)
    _claim(
        not before.saved and _is_finite(state),
        f"step {before.step}, taken again from the bytes of step {origin.step}, gives the digests "
        f"recorded, and no NaN",
    )
    state, extra = step(state, extra)
    _claim(_is_finite(state), f"step {extra['next']}, taken again, gives no NaN either")
    differing: tuple[Any, ...] = ()
    try:
        bus.rerun(step, like=like, to=bus.at(step=spoil_at))
    except mmsb.DigestMismatchError as error:
        differing = (error.step, error.arrays)
    _claim(
        differing == (spoil_at, (SPOILED,)),
        f"but for {SPOILED}, the digests recorded: it was not the step",
    )


def _fork_slower(
    bus: mmsb.Bus,
    other: mmsb.Bus,
    path: Path,
    step: Step,
    like: State,
    spoil_at: int,
    size: ModelSize,
) -> None:
    origin, rate = _newest_saved(bus, spoil_at), size.rate / 10
    _begin(f"A fork at step {origin.step}, with a learning rate of {rate:g} for {size.rate:g}")
    with bus.fork(path, version=origin) as fork:
        state, extra = fork.resume(like)
        state["opt"].hyperparams["learning_rate"] = jnp.float32(rate)
        train(fork, step, state, extra, size.steps, show_progress(size.steps))
        found = fork.first_divergence(other)
        assert found is not None
        ours, _, names = found
        _claim(
            ours.step == _step_of(origin) + 1 and "opt/hyperparams/learning_rate" in names,
            f"it parts from the run that nothing interrupted at step {ours.step}",
        )
        losses = _at_the_end(fork), _at_the_end(other)
        _claim(
            np.isfinite(losses).all() and fork.verify(),
            f"its loss at the end is {losses[0]:.3f}, that of the other {losses[1]:.3f}",
        )


def _go_back(
    bus: mmsb.Bus, other: mmsb.Bus, step: Step, like: State, spoil_at: int, size: ModelSize
) -> None:
    origin = _newest_saved(bus, spoil_at)
    _begin(f"Back to step {origin.step} in the same log, and on from there")
    spoiled = bus.tag("spoiled")  # what has a tag keeps its bytes
    state, extra = bus.resume(like, at=origin)
    train(bus, step, state, extra, size.steps, show_progress(size.steps))
    ends = (one.checkout(step=size.steps, like=like) for one in (bus, other))
    _claim(
        bus.first_divergence(other) is None and _are_equal(*ends),
        "its end has the bytes of the run that nothing interrupted, and of the digests that both "
        "logs can still compare none differs",
    )
    _claim(
        bus.notes("loss").values == other.notes("loss").values,
        f"neither does any of the {size.steps} losses",
    )
    _claim(
        not _is_finite(bus.checkout(version="spoiled", like=like)),
        f"what was left, versions {origin.version + 1} to {spoiled}, is superseded; the last of "
        f"it, which has a tag, is there with its NaN",
    )


# --------------------------------------------------------------------------------------- its parts


def _newest_saved(bus: mmsb.Bus, before: int) -> mmsb.Commit:
    """The commit with bytes of the newest step before one."""
    found = (bus.at(step=step) for step in reversed(range(1, before)))
    return next(commit for commit in found if commit.saved)


def _step_of(commit: mmsb.Commit) -> int:
    assert commit.step is not None
    return commit.step


def _are_equal(ours: State, theirs: State) -> bool:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def _is_finite(state: State) -> bool:
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))


def _at_the_end(bus: mmsb.Bus) -> float:
    """The loss of the last steps."""
    return float(np.mean(bus.notes("loss").values[-5:]))
