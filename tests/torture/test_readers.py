"""Entry 9: one writer, many readers, each in a process of its own.

The second writer is refused with the pid of the first (`tests/store/test_lock.py` tries the lock
itself). Readers see whole commits while the writer commits, snapshots, rotates and compacts.
"""

import re
import subprocess
import sys

import pytest

from tests.store._script import ROOT
from tests.torture._scale import scaled


def run(path, readers: int, commits: int, seconds: float) -> int:
    """Let them run; the number of versions written."""
    command = [sys.executable, "-m", "tests.torture._processes", path, readers, commits, seconds]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=seconds + 600
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout, end="")
    assert len(re.findall(r"^reader \d+: ", done.stdout, re.MULTILINE)) == readers
    return int(re.search(r"wrote (\d+) versions", done.stdout)[1])


def test_readers_beside_a_writer_see_whole_versions_and_no_second_writer(tmp_path):
    assert run(tmp_path / "run.mmsb", readers=2, commits=800, seconds=600) == 800


@pytest.mark.long
def test_four_readers_beside_a_writer_at_full_speed_see_whole_versions(tmp_path):
    """Five minutes."""
    assert run(tmp_path / "run.mmsb", 4, 10**9, seconds=scaled(300)) > 1000
