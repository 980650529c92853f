"""A process that is killed while it commits loses nothing that it was told had landed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mmsb_jax as mmsb
from tests.bus._killed import digest
from tests.bus._script import ROOT
from tests.torture._scale import scaled


@contextmanager
def _process() -> Iterator[Any]:
    command = [sys.executable, "-m", "tests.bus._killed"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


class _Told:
    """What the killed processes said: version → digest, and the newest that was acknowledged."""

    def __init__(self) -> None:
        self.submitted: dict[int, str] = {}
        self.acknowledged = 0

    def take(self, words: list[str]) -> None:
        if words[0] == "S":
            self.submitted[int(words[1])] = words[2]
        elif words[0] == "A":
            self.acknowledged = max(self.acknowledged, int(words[1]))


def _kill_at_random(process: Any, path: Path, rng: random.Random, told: _Told) -> None:
    """Let a child commit, and kill it somewhere behind a random number of its lines."""
    process.stdin.write(f"{path} {rng.randrange(2**32)}\n")
    process.stdin.flush()
    pid = int(process.stdout.readline().split()[1])
    for _ in range(rng.randrange(1, 60)):
        told.take(process.stdout.readline().split())
    for _ in range(rng.randrange(40_000)):  # on from the moment at which a line was written
        pass
    os.kill(pid, signal.SIGKILL)
    while (words := process.stdout.readline().split()) != ["D"]:
        told.take(words)


def _check(path: Path, told: _Told, since: int) -> int:
    """Every acknowledged version is there to the bit, and none that was not submitted."""
    with mmsb.open(path, mode="r") as bus:
        newest = bus.version
        assert told.acknowledged <= newest <= max(told.submitted, default=0)
        for version in range(since + 1, newest + 1):
            assert digest(bus.checkout(version=version)) == told.submitted[version]
    # What was submitted behind the newest did not land; its numbers are used again.
    told.submitted = {v: known for v, known in told.submitted.items() if v <= newest}
    return newest


def _kill(path: Path, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng, told, newest, torn = random.Random(seed), _Told(), 0, 0
    with _process() as process:
        for _ in range(kills):
            _kill_at_random(process, path, rng, told)
            newest = _check(path, told, newest)
            torn += _recover(path)
    _check_all(path, told, newest)
    print(f"{kills} kills, {newest} versions, {torn} torn tails, none lost, none made up")


def _recover(path: Path) -> int:
    with mmsb.open(path) as bus:
        return len(bus.recovered)


def _check_all(path: Path, told: _Told, newest: int) -> None:
    """All versions once more, in one pass over the log, and the log itself."""
    with mmsb.open(path, mode="r") as bus:
        assert newest == bus.version == len(told.submitted)
        found: dict[int, dict[str, Any]] = {}
        for name in ("dense", "few", "number"):
            for entry in bus.history(name):
                found.setdefault(entry.version, {})[name] = entry.value
        assert {v: digest(tree) for v, tree in found.items()} == told.submitted
        assert bus.verify()


def test_kill_at_random_moments_loses_no_acknowledged_version(tmp_path):
    _kill(tmp_path / "run.mmsb", kills=6)


@pytest.mark.long
def test_kill_at_many_random_moments_loses_no_acknowledged_version(tmp_path):
    for i in range(scaled(50)):  # logs of their own, so that the last pass over each stays short
        _kill(tmp_path / f"run{i}.mmsb", kills=20)
