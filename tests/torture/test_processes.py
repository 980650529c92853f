"""Entry 20: processes that fork, spawn, and end with work left to do; clocks that go back."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._script import ROOT, command_of, run_script
from tests.torture._scale import scaled

NEEDS_LINUX = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def fork_often(kind: str, forks: int, seed: int = 1) -> None:
    command = [sys.executable, "-m", "tests.torture._forks", kind, str(forks), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout.splitlines()[0] if done.stdout else "nothing was said")
    assert done.returncode == 0, done.stdout + done.stderr


@NEEDS_LINUX
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_fork_while_threads_are_in_calls_hangs_nobody(kind):
    fork_often(kind, 14)


@NEEDS_LINUX
@pytest.mark.long
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_five_hundred_forks_while_threads_are_in_calls_hang_nobody(kind):
    for seed in range(scaled(20)):
        fork_often(kind, 25, seed)


@NEEDS_LINUX
@pytest.mark.parametrize("end", ["close", "kill"])
def test_child_that_outlives_the_writer_does_not_keep_its_lock(tmp_path, end):
    """Whether the writer closed the bus, or died."""
    code = """
    import os, signal, sys, time, mmsb_jax as mmsb
    bus = mmsb.open(sys.argv[1], durability="fsync")
    bus.commit({"x": 1})
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.write(theirs, b"here")
        os.close(1)
        os.close(2)
        signal.pause()  # until the test ends it
        os._exit(0)
    os.read(ours, 4)
    print(child, flush=True)
    if sys.argv[2] == "close":
        bus.close()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "run.mmsb"
    done = subprocess.run(
        command_of(code, path, end), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    child = int(done.stdout)
    try:
        with mmsb.open(path) as bus:
            assert bus.version == 1
            bus.commit({"x": 2})
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_process_made_anew_reads_and_is_refused_to_write(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing, sys
import mmsb_jax as mmsb

def child(path, pipe):
    try:
        mmsb.open(path)
    except mmsb.LockedError:
        pipe.send("refused")
    bus = mmsb.open(path, mode="r")
    pipe.send(int(bus.tree()["x"]))
    pipe.recv()
    pipe.send(int(bus.tree()["x"]))
    pipe.recv()
    with mmsb.open(path) as writer:
        pipe.send(writer.commit({"x": 3}).version)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    ours, theirs = context.Pipe()
    bus = mmsb.open(sys.argv[1])
    bus.commit({"x": 1})
    process = context.Process(target=child, args=(sys.argv[1], theirs))
    process.start()
    theirs.close()
    said = [ours.recv(), ours.recv()]
    bus.commit({"x": 2})
    ours.send(None)
    said.append(ours.recv())
    bus.close()
    ours.send(None)
    said.append(ours.recv())
    process.join()
    print(said)
"""
    )
    command = [sys.executable, str(script), str(tmp_path / "run.mmsb"), method]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['refused', 1, 2, 3]"


# ----------------------------------------------------------------------------------- the end

ENDS = {
    "return": "",
    "sys.exit": "sys.exit(0)",
    "sys.exit in a function": "(lambda: sys.exit(3))()",
    "exception": "raise ValueError('uncaught')",
    "exception in atexit": "atexit.register(lambda: 1 / 0)",
    "sys.exit in a thread": "threading.Thread(target=sys.exit).start()",
    "the bus is dropped": "del bus; gc.collect()",
    "the bus in a cycle": "x = [bus]; x.append(x); del bus, x",
    "daemon thread": "threading.Thread(target=commit_for_ever, daemon=True).start()",
    "thread": "threading.Thread(target=commit_some).start()",
    "commit in atexit": "atexit.register(commit_some)",
    "SIGINT": "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "SIGTERM that exits": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); "
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    ),
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "os._exit": "os._exit(0)",
    "os.abort": "os.abort()",
    "os.execv": "os.execv(sys.executable, [sys.executable, '-c', ''])",
}
SUDDEN = {
    "SIGTERM",
    "SIGKILL",
    "os._exit",
    "os.abort",
    "os.execv",
    "daemon thread",
    "thread",
    "commit in atexit",
}
"""What these submit last may be too late; all others let land what was submitted."""

ENDING = """
import atexit, gc, os, signal, sys, threading, time
import numpy as np
import mmsb_jax as mmsb
from tests.torture.test_processes import tree_of

bus = mmsb.open(sys.argv[1], durability=eval(sys.argv[2]), page_bytes=128)
bus.commit(tree_of(1))
number = 1

def commit():
    # Told by the thread that lands it, as soon as it may be relied upon.
    global number
    number += 1
    future = bus.commit(tree_of(number), wait=False)
    os.write(1, f"S {number}\\n".encode())
    future.add_done_callback(lambda future, n=number: tell(future, n))

def tell(future, n):
    if future.exception() is None:
        os.write(1, f"A {n}\\n".encode())

def commit_some():
    try:
        for _ in range(5):
            commit()
    except (mmsb.ClosedError, RuntimeError):
        pass  # the interpreter has closed it

def commit_for_ever():
    while True:
        commit()

for _ in range(4):
    commit()
"""


def tree_of(number: int) -> dict[str, Any]:
    return {"w": np.random.default_rng(number).random(50_000, np.float32), "n": number}


FORKED = """
import os, sys
from tests.torture.test_processes import mmsb

mmsb.open  # the rest of the library, and JAX, are imported here

folder, durability, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    if not os.fork():
        place = f"{folder}/{number}"
        for stream, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{place}.{end}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
        sys.argv = [f"{place}.py", f"{place}.mmsb", durability]
        exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
        break  # to the end of this script, as at that of any other
    if number % 4 == 3:
        os.wait()  # not all at once
else:
    for _ in range(count - count // 4):
        os.wait()
"""
"""Processes that begin as copies of one that has nothing open: they need import nothing."""


def end_in_every_way(folder: Path, durability: str, is_forked: bool = False) -> None:
    """Each a process of its own; a new Python each unless they are forked from one."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = []
    for number, end in enumerate(ENDS.values()):
        place = folder / str(number)
        place.with_suffix(".py").write_text(ENDING + end + "\n")
        if is_forked:
            continue
        with place.with_suffix(".out").open("w") as out, place.with_suffix(".err").open("w") as err:
            processes.append(
                subprocess.Popen(
                    [sys.executable, f"{place}.py", f"{place}.mmsb", durability],
                    cwd=ROOT,
                    env=environment,
                    stdout=out,
                    stderr=err,
                )
            )
        if number % 4 == 3:
            processes[-1].wait(300)  # not all at once
    if is_forked:
        command = [sys.executable, "-c", FORKED, folder, durability, str(len(ENDS))]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    for process in processes:
        process.wait(300)
    for number, name in enumerate(ENDS):
        lines = re.findall(r"([AS]) (\d+)", (folder / f"{number}.out").read_text())
        assert lines, (folder / f"{number}.err").read_text()
        submitted = max(int(n) for kind, n in lines if kind == "S")
        acknowledged = [int(n) for kind, n in lines if kind == "A"]
        with mmsb.open(folder / f"{number}.mmsb", mode="r") as bus:
            newest = bus.version
            assert max(acknowledged, default=1) <= newest <= submitted + 1, name
            if name not in SUDDEN:
                assert newest >= submitted, f"{name}: {newest} of {submitted}"
            for version in {*range(1, newest + 1, 10), *range(max(1, newest - 10), newest + 1)}:
                found = bus.checkout(version=version)
                assert found["w"].tobytes() == tree_of(version)["w"].tobytes(), name
            assert bus.verify(), name
        print(f"{name}: {submitted} submitted, {len(acknowledged) + 1} told, {newest} there")


def test_process_that_ends_with_a_full_queue_keeps_what_was_acknowledged(tmp_path):
    """However it ends. Where the library is asked once more, also what was submitted."""
    end_in_every_way(tmp_path, "('group', 5)", is_forked=hasattr(os, "fork"))


@pytest.mark.long
@pytest.mark.parametrize("durability", ["'os'", "'fsync'", "('group', 5)"])
def test_processes_that_end_again_and_again_keep_what_was_acknowledged(tmp_path, durability):
    for number in range(scaled(10)):
        (tmp_path / str(number)).mkdir()
        end_in_every_way(tmp_path / str(number), durability)


@NEEDS_LINUX
def test_writer_in_another_pid_namespace_is_refused(tmp_path):
    """Numbers of processes say nothing across namespaces; the lock does not go by them."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        tried = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if tried.returncode:
        pytest.skip(f"no new pid namespace may be made here: {tried.stderr.strip()}")
    path = tmp_path / "run.mmsb"
    code = """
    import os, sys, mmsb_jax as mmsb
    try:
        mmsb.open(sys.argv[1])
    except mmsb.LockedError:
        print("refused to process", os.getpid() < 10)
    with mmsb.open(sys.argv[1], mode="r") as reader:
        print(reader.version)
    """
    with mmsb.open(path) as bus:
        bus.commit({"x": 1})
        command = [*unshare, *command_of(code, path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["refused to process True", "1"], done.stderr


def test_clock_that_goes_back_confuses_no_version(tmp_path):
    """By hours, between commits, in one process and between two; and years ahead."""
    code = """
    import sys, time, mmsb_jax as mmsb
    real, ahead = time.time_ns, [0]
    time.time_ns = lambda: real() + ahead[0]
    hours = 3_600 * 10**9
    with mmsb.open(sys.argv[1]) as bus:
        first = bus.version
        for number, shift in enumerate((0, 5, -5, -5, 3, -100_000, 100_000, -1), first + 1):
            ahead[0] = shift * hours
            commit = bus.commit({"x": number}, wait=number % 2 == 0)
            if number % 3 == 0:
                bus.snapshot()
                bus.tag(f"t{number}")
        bus.sync()
        times = [commit.time_ns for commit in bus.log()]
        assert [commit.version for commit in bus.log()] == list(range(1, len(times) + 1))
        for at in (*times, times[0] - 1, max(times) + 1):
            right = [n for n, t in enumerate(times, 1) if t <= at]
            try:
                found = int(bus.checkout(time_ns=at)["x"])
            except mmsb.VersionError:
                assert not right, at
            else:
                assert found == max(right), (at, found, right)
        for start in sorted(times)[::3]:
            listed = [c.version for c in bus.log(start_ns=start)]
            assert listed == [n for n, t in enumerate(times, 1) if t >= start], start
        assert bus.verify()
    """
    for _ in range(2):
        run_script(code, tmp_path / "run.mmsb")
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as bus:
        assert bus.version == 16
        assert bus.tree()["x"] == 16


def test_clock_of_a_lock_says_nothing(tmp_path):
    """A lock file from the future, or of a process that is gone, is free."""
    path = Path(tmp_path / "run.mmsb")
    with mmsb.open(path) as bus:
        bus.commit({"x": 1})
    (path / "lock.holder").write_text('{"pid": 1, "host": "here", "boot": "", "since_ns": 1}')
    for at in (0.0, time.time() + 10**7):
        os.utime(path / "lock", (at, at))
        with mmsb.open(path) as bus:
            assert bus.version == 1
