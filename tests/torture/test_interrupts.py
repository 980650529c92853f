"""Entry 17: a Ctrl-C at any moment of any method that writes, and the same process goes on.

State and log are as before the call, as behind it, or, where it makes several commits, as between
two of them; what had returned is there. No call waits for ever, in no thread; the next commit
works; locks, threads and descriptors come back; at the end all is closed, opened and verified.

Two ways: a timer's signal at a random moment, and an exception at each place where Python looks
whether a signal has come (`_interrupts`).
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.store._script import ROOT
from tests.torture._methods import METHODS, ON_DISK_ALONE
from tests.torture._scale import scaled

SEED = 1
MOST_HANGS = 3  # of one method, before the next one is tried


def run(how: str, bus: str, count: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """What came of each method; a process that hangs is ended, and another goes on."""
    reports: list[dict[str, Any]] = []
    waiting, hangs = [name for name in names if not _is_missing(name, bus)], Counter()
    while waiting:
        command = [sys.executable, "-m", "tests.torture._interrupts", how, bus, str(count)]
        command += [str(SEED + sum(hangs.values())), *waiting]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        reports += [line for line in lines if isinstance(line, dict)]
        if done.returncode == 0:
            break
        begun = [line for line in lines if isinstance(line, str)]
        assert begun, done.stderr
        if not reports or reports[-1]["method"] != begun[-1] or not reports[-1]["faults"]:
            told = {f"ended with {done.returncode}: {done.stderr[-3000:]}": 1}
            reports.append({"method": begun[-1], "inside": 0, "returned": 0, "faults": told})
        hangs[begun[-1]] += 1
        waiting = waiting[waiting.index(begun[-1]) + (hangs[begun[-1]] >= MOST_HANGS) :]
    return reports


def _is_missing(name: str, bus: str) -> bool:
    return bus.startswith("memory") and name in ON_DISK_ALONE


def torture(how: str, bus: str, count: int, names: Sequence[str] = tuple(METHODS)) -> None:
    """Try all, print what was tried, and fail where anything was wrong."""
    reports = run(how, bus, count, names)
    found: Counter[str] = Counter()
    for report in reports:
        found.update(report.get("found", {}))
    inside = sum(report["inside"] for report in reports)
    returned = sum(report["returned"] for report in reports)
    landed = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
    print(f"{how}, {bus}: {inside} calls cut off, {returned} had returned; landed: {landed}")
    wrong = [
        f"{report['method']}: {times} × {fault}"
        for report in reports
        for fault, times in report["faults"].items()
    ]
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong)
    assert {report["method"] for report in reports} >= {n for n in names if not _is_missing(n, bus)}
    assert inside >= returned, "most came too late: what a call takes was measured wrong"


@pytest.mark.parametrize("bus", ["memory+", "os", "fsync+", "group"])
def test_interrupt_at_a_random_moment_leaves_all_before_or_after(bus):
    torture("timer", bus, 20)


@pytest.mark.parametrize("bus", ["memory", "os+"])
def test_interrupt_at_a_call_or_return_leaves_all_before_or_after(bus):
    torture("inject", bus, 20)


@pytest.mark.long
@pytest.mark.parametrize("bus", ["memory", "memory+", "os", "os+", "fsync", "fsync+", "group+"])
@pytest.mark.parametrize("name", METHODS)
def test_thousand_interrupts_of_a_method_leave_all_before_or_after(name, bus):
    if not _is_missing(name, bus):
        torture("timer", bus, scaled(1_000, least=20), [name])


@pytest.mark.long
@pytest.mark.parametrize("bus", ["memory", "os", "fsync+"])
@pytest.mark.parametrize("name", METHODS)
def test_interrupt_at_every_call_and_return_leaves_all_before_or_after(name, bus):
    if not _is_missing(name, bus):
        torture("inject", bus, 0 if scaled(100) >= 100 else scaled(1_000, least=20), [name])
