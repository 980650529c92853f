"""``python -m tests.torture``: the catalogue of what the log is tried with, entry by entry.

Each entry prints what it tried. ``TORTURE_SCALE=0.1`` makes a tenth of what counts: kills, seeds,
steps, minutes, commits. Numbers as arguments choose entries: ``python -m tests.torture 5 6``.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One entry of the catalogue.

    Attributes:
        number: its number.
        title: what is done to the log.
        minutes: what it takes on two cores, roughly.
        paths: the tests, short and long.
    """

    number: int
    title: str
    minutes: float
    paths: tuple[str, ...]


ENTRIES = (
    Entry(1, "a process killed at 1,000 random moments of its commits", 15,
          ("tests/bus/test_kill.py",)),
    Entry(2, "cut at every byte, every bit flipped, blocks swapped, repaired (2, 3, 4)", 6,
          ("tests/store/test_recovery.py", "tests/test_docs_recovery.py",
           "tests/store/test_repair.py")),
    Entry(5, "crash of the disk cache: 100 seeds a scenario; behind every call (5, 16)", 8,
          ("tests/torture/test_crash.py", "tests/store/test_compact_crash.py")),
    Entry(6, "the Nth call of the disk fails; a sync fails (6, 7)", 5,
          ("tests/torture/test_nth_call.py", "tests/store/test_writer.py")),
    Entry(8, "a machine against a model: 1,000 runs of 200 steps", 60,
          ("tests/torture/test_model.py", "tests/bus/test_machine.py")),
    Entry(9, "a writer at full speed and four readers, five minutes", 6,
          ("tests/torture/test_readers.py", "tests/store/test_lock.py")),
    Entry(10, "hostile files: ten minutes of coverage-guided fuzzing", 11,
          ("tests/store/test_hostile.py", "tests/store/test_limits.py", "tests/bus/test_hostile.py",
           "tests/torture/test_fuzz.py")),
    Entry(11, "commits shipped to followers: late, repeated, reordered, with gaps", 3,
          ("tests/store/test_stream.py", "tests/bus/test_shipping.py", "tests/bus/test_replica.py",
           "tests/bus/test_follow.py")),
    Entry(12, "waves", 5, ("tests/graph", "tests/bus/test_derive_failures.py")),
    Entry(13, "logs of every released format", 0.5, ("tests/golden",)),
    Entry(14, "a million commits", 15, ("tests/torture/test_soak.py",)),
    Entry(15, "the Nth call fails beneath Python, in everything that touches the log", 240,
          ("tests/torture/test_syscalls.py",)),
    Entry(17, "a Ctrl-C at a thousand moments of each method, and at every call and return", 600,
          ("tests/torture/test_interrupts.py", "tests/bus/test_cut_short.py")),
    Entry(18, "too few threads, descriptors, inodes, too little room or memory", 60,
          ("tests/torture/test_limits.py",)),
    Entry(19, "another log at the path, or none; files of every sort there (19, 22)", 10,
          ("tests/torture/test_identity.py", "tests/store/test_sorts.py",
           "tests/bus/test_place.py")),
    Entry(20, "processes that fork, spawn, and end with work left to do; clocks that go back", 8,
          ("tests/torture/test_processes.py",)),
    Entry(21, "what an array is besides its bytes, and a tree besides its leaves", 2,
          ("tests/bus/test_exact.py", "tests/bus/test_weak.py", "tests/bus/test_statics.py",
           "tests/bus/test_like.py")),
    Entry(23, "a run ended by SIGTERM and SIGKILL at 500 random moments, under every policy", 30,
          ("tests/bus/test_ended.py", "tests/bus/test_preempted.py")),
)  # fmt: skip


def main() -> int:
    """Run them in order; 1 where one failed."""
    chosen = {int(argument) for argument in sys.argv[1:]}
    entries = [entry for entry in ENTRIES if not chosen or entry.number in chosen]
    scale = float(os.environ.get("TORTURE_SCALE", "1"))
    minutes = sum(entry.minutes for entry in entries) * scale
    print(f"{len(entries)} entries, about {minutes:.0f} minutes (TORTURE_SCALE={scale:g})")
    failed = []
    for place, entry in enumerate(entries, 1):
        print(f"\n[{place}/{len(entries)}] {entry.number}: {entry.title}", flush=True)
        begun = time.monotonic()
        paths = [path for path in entry.paths if os.path.exists(path)]
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "", *paths]
        if subprocess.run(command).returncode:
            failed.append(entry.number)
        print(f"took {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    print(f"\nfailed: {failed}" if failed else "\nall entries hold")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
