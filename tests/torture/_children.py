"""Trials in processes of their own, and what came of them."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.store._script import ROOT

SEED = 1
_MOST_HANGS = 3  # of one method, before the next one is tried


def run(module: str, options: Sequence[str], names: Sequence[str], **environment: str) -> Any:
    """What came of each method; a process that hangs is ended, and another goes on."""
    reports: list[dict[str, Any]] = []
    waiting, hangs = list(names), Counter[str]()
    while waiting:
        seed = str(SEED + hangs.total())
        done = subprocess.run(
            [sys.executable, "-m", f"tests.torture.{module}", *options, seed, *waiting],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
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
        waiting = waiting[waiting.index(begun[-1]) + (hangs[begun[-1]] >= _MOST_HANGS) :]
    return reports


def judge(title: str, reports: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Print what was tried, and fail where anything was wrong."""
    found: Counter[str] = Counter()
    for report in reports:
        found.update(report.get("found", {}))
    inside = sum(report["inside"] for report in reports)
    returned = sum(report["returned"] for report in reports)
    told = ", ".join(f"{n} {what}" for what, n in sorted(found.items()))
    print(f"{title}: {len(names)} methods, {inside} calls cut off, {returned} returned; {told}")
    wrong = [
        f"{report['method']}: {times} × {fault}"
        for report in reports
        for fault, times in report["faults"].items()
    ]
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong)
    assert {report["method"] for report in reports} >= set(names)
    assert inside + returned > 0
