"""Entry 17: a Ctrl-C at any moment of any method that writes, and the same process goes on.

State and log are as before the call, as behind it, or, where it makes several commits, as between
two of them; what had returned is there. No call waits for ever, in no thread; the next commit
works; locks, threads and descriptors come back; at the end all is closed, opened and verified.

Two ways: a timer's signal at a random moment, and an exception at each place where Python looks
whether a signal has come (`_interrupts`).
"""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.torture._children import judge, run
from tests.torture._methods import METHODS, ON_DISK_ALONE
from tests.torture._scale import scaled


def torture(how: str, bus: str, count: int, names: Sequence[str] = tuple(METHODS)) -> None:
    if bus.startswith("memory"):
        names = [name for name in names if name not in ON_DISK_ALONE]
    if names:
        reports = run("_interrupts", [how, bus, str(count)], names)
        _spare_what_python_loses(reports)
        judge(f"{how}, {bus}", reports, names)


def _spare_what_python_loses(reports: Sequence[dict[str, Any]]) -> None:
    """Let a descriptor in a hundred interrupts be lost; threads, locks and all else come back.

    An interrupt in a finalizer is swallowed by Python, and what that should have closed stays open.
    """
    most = max(1, sum(report["inside"] for report in reports) // 100)
    lost = {fault: n for fault, n in reports[-1]["faults"].items() if _is_file(fault)}
    print(f"{sum(lost.values())} descriptors lost, {most} may be")
    if sum(lost.values()) <= most:
        for fault in lost:
            del reports[-1]["faults"][fault]


def _is_file(fault: str) -> bool:
    return fault.startswith("left behind: ") and "thread" not in fault


@pytest.mark.parametrize("bus", ["memory+", "os", "fsync+", "group"])
def test_interrupt_at_a_random_moment_leaves_all_before_or_after(bus):
    torture("timer", bus, 2)


@pytest.mark.parametrize("bus", ["memory", "os+"])
def test_interrupt_at_a_call_or_return_leaves_all_before_or_after(bus):
    torture("inject", bus, 2)


@pytest.mark.long
@pytest.mark.parametrize("bus", ["memory", "memory+", "os", "os+", "fsync", "fsync+", "group+"])
@pytest.mark.parametrize("name", METHODS)
def test_thousand_interrupts_of_a_method_leave_all_before_or_after(name, bus):
    torture("timer", bus, scaled(1_000, least=20), [name])


@pytest.mark.long
@pytest.mark.parametrize("bus", ["memory", "os", "fsync+"])
@pytest.mark.parametrize("name", METHODS)
def test_interrupt_at_every_call_and_return_leaves_all_before_or_after(name, bus):
    torture("inject", bus, 0 if scaled(100) >= 100 else scaled(1_000, least=20), [name])
