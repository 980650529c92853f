"""A run that is ended at random moments, under every policy: what ``save`` promised is there."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._ended import POLICIES, expected
from tests.bus._script import ROOT
from tests.torture._scale import scaled


def end_once(path: Path, policy: str, noise: random.Random) -> tuple[int, int, int]:
    """Let it run and end it; the signal, the newest step that was told of, and that with bytes."""
    number = noise.choice((signal.SIGTERM, signal.SIGKILL))
    command = [sys.executable, "-m", "tests.bus._ended", str(path), policy, str(noise.random())[2:]]
    told = with_bytes = -1
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stop = noise.randrange(1, 80)
        for count, line in enumerate(process.stdout):
            words = line.split()
            if len(words) == 3 and words[0] == "C":  # the last line may be cut short
                told = int(words[1])
                with_bytes = told if words[2] == "1" else with_bytes
            if count == stop:
                for _ in range(noise.randrange(40_000)):
                    pass
                os.kill(process.pid, number)
        assert process.wait(60) == -number
    return number, told, with_bytes


def check(path: Path, policy: str, number: int, told: int, with_bytes: int) -> None:
    with mmsb.open(path, mode="r") as bus:
        assert bus.verify()
        newest, saved = bus.latest.step, [commit for commit in bus.commits if commit.saved]
        assert newest >= told
        assert saved[-1].step >= with_bytes
        if policy == "all" or (policy == "signal" and number == signal.SIGTERM):
            assert saved[-1].step == newest
        if policy in ("every", "signal"):
            assert newest - saved[-1].step < 4
        for version in bus._session.log.with_bytes():
            commit = bus.commits[version - 1]
            np.testing.assert_array_equal(bus.checkout(version=commit)["w"], expected(commit.step))


def run(folder: Path, policy: str, times: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    noise, path = random.Random(seed), folder / "run.mmsb"
    ends = {signal.SIGTERM: 0, signal.SIGKILL: 0}
    for _ in range(times):
        try:
            number, told, with_bytes = end_once(path, policy, noise)
            check(path, policy, number, told, with_bytes)
        except BaseException:
            print(f"seed {seed}")
            raise
        ends[signal.Signals(number)] += 1
    print(f"{policy}: ended {ends}, all that was promised was there")


def test_run_that_is_ended_has_what_was_promised(tmp_path: Path):
    run(tmp_path, "signal", 3)


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_run_that_is_ended_often_has_what_was_promised(tmp_path: Path, policy: str):
    for i in range(scaled(20)):
        (tmp_path / str(i)).mkdir()
        run(tmp_path / str(i), policy, 5)
