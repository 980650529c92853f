"""The demo from its beginning to its end: what happens, in order, and what is kept of it."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

import mmsb_jax as mmsb
from mmsb_jax._bus.query.diff import VersionDiff
from mmsb_jax._store.maintain.verify import VerifyReport
from mmsb_jax.demo import _lookback as lookback
from mmsb_jax.demo import _processes as processes
from mmsb_jax.demo import _runs as runs
from mmsb_jax.demo import _training as training
from mmsb_jax.demo._lookback import Cost, Curve
from mmsb_jax.demo._progress import Stage

BFLOAT16_RATES = (0.001, 0.01, 0.1)
TIMED_BATCHES = (64, 1024)
_TIMED_STEPS = 60


@dataclass(frozen=True)
class DemoResult:
    """What a run's commits take, and what it had learned at its end."""

    learning_rate: float
    cost: Cost
    accuracy: float


@dataclass(frozen=True)
class Story:
    """What the demo found.

    Attributes:
        steps: steps of each run.
        reported: the last step that the killed child had reported.
        survived: versions that its log held then.
        digests: SHA-256 of the end, resumed and uninterrupted.
        differing: what is not equal, byte for byte, at the end of the two.
        run, fork: accuracies of the resumed run, and of the fork from its middle.
        difference: between the middle and the end of the run.
        adam: what came of float32 weights and Adam.
        bfloat16: what came of bfloat16 weights and plain SGD, at each of its rates.
        times: what a commit adds to a step.
        reports: what `verify` says of each log.
    """

    steps: int
    reported: int
    survived: int
    digests: tuple[str, str]
    differing: list[str]
    run: Curve
    fork: Curve
    difference: VersionDiff
    adam: DemoResult
    bfloat16: list[DemoResult]
    times: list[runs.StepTime]
    reports: dict[str, VerifyReport]

    @property
    def is_equal(self) -> bool:
        """Whether the resumed run ended as the uninterrupted one, bit for bit."""
        return not self.differing and self.digests[0] == self.digests[1]


def play(out: Path, steps: int, stage: Stage) -> Story:
    """Let it all happen, in logs under ``out``."""
    names = ("killed", "whole", "fork", "timed")
    killed, whole, fork, timed = (out / f"{name}.mmsb" for name in names)
    small = {rate: out / f"bfloat16-{rate}.mmsb" for rate in BFLOAT16_RATES}
    for log in (killed, whole, fork, timed, *small.values()):
        shutil.rmtree(log, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)

    at = random.SystemRandom().randrange(steps // 5, steps - steps // 5)
    reported = processes.run_and_kill(killed, steps, at, stage("training, to be killed", steps))
    survived = _newest(killed)
    processes.run_to_end(killed, steps, stage("resumed", steps))
    processes.run_to_end(whole, steps, stage("never interrupted", steps))
    for rate, log in small.items():
        runs.train_bfloat16(log, rate, steps, stage(f"bfloat16, SGD at {rate}", steps))
    times = _time_steps(timed, steps, stage("timing, with and without", len(TIMED_BATCHES)))

    with mmsb.open(killed, mode="r") as run, mmsb.open(whole, mode="r") as other:
        middle = run.version // 2
        runs.go_on_slower(run, fork, middle, steps, stage("a fork from the middle", steps))
        tick = stage("looking back", 4)
        ends = lookback.contents(run), lookback.contents(other)
        tick(1)
        run_curve = Curve.of(run, sorted({1, *range(10, run.version, 10), run.version}))
        tick(2)
        with mmsb.open(fork, mode="r") as branch:
            fork_curve = Curve.of(branch, [v for v in run_curve.versions if v >= middle])
            tick(3)
            reports = {"run": run.verify(), "fork": branch.verify()}
        return Story(
            steps=steps,
            reported=reported,
            survived=survived,
            digests=(lookback.sha256(ends[0]), lookback.sha256(ends[1])),
            differing=lookback.differing(*ends),
            run=run_curve,
            fork=fork_curve,
            difference=run.diff(middle, run.version),
            adam=DemoResult(training.LEARNING_RATE, Cost.of(run), run_curve.accuracies[-1]),
            bfloat16=[_outcome_bfloat16(log, rate) for rate, log in small.items()],
            times=times,
            reports=reports,
        )


def _newest(log: Path) -> int:
    with mmsb.open(log, mode="r") as reader:
        return reader.version


def _outcome_bfloat16(log: Path, rate: float) -> DemoResult:
    with mmsb.open(log, mode="r") as reader:
        end = Curve.of(reader, [reader.version], jnp.bfloat16)
        return DemoResult(rate, Cost.of(reader), end.accuracies[-1])


def _time_steps(log: Path, steps: int, tick: processes.Tick) -> list[runs.StepTime]:
    times = []
    for batch in TIMED_BATCHES:
        times.append(runs.time_steps(log, batch, min(steps, _TIMED_STEPS)))
        tick(len(times))
    return times
