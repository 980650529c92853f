"""Signals that announce the end: what is logged, when, and who is called then."""

import contextlib
import gc
import os
import random
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.saving.signals import watch
from tests.bus._script import ROOT, command_of

LOOP = """
    import signal, sys, time
    import jax, jax.numpy as jnp
    import mmsb_jax as mmsb

    path, way = sys.argv[1:3]
    donates, wait = (word == "True" for word in sys.argv[3:])
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    told = []
    if way == "handler":
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    grace = 2.0 if way == "never" else 600.0
    save = mmsb.Every(steps=1000) | mmsb.OnSignal(signal.SIGTERM, signal.SIGUSR1, grace=grace)
    bus = mmsb.open(path, save=save)
    step = jax.jit(lambda s: {"w": s["w"] + 1}, donate_argnums=(0,) if donates else ())
    state = {"w": jnp.arange(1000.0)}
    for number in range(20):
        state = step(state)
        outcome = bus.commit(state, step=number, wait=wait)
    bus.sync()
    if donates:
        state = step(state)
    print("ready", flush=True)
"""

WAYS = {
    "sleep": "time.sleep(60)",
    "compile": """
    def slow(x):
        for i in range(1500):
            x = jnp.sin(x) @ jnp.cos(x) + i
        return x
    jax.jit(slow).lower(jnp.ones((8, 8))).compile()
    time.sleep(60)
""",
    "next": """
    while not bus.preempted:
        time.sleep(0.01)
    commit = bus.commit(state, step=20, wait=wait)
    time.sleep(60)
""",
    "never": "time.sleep(60)",
    "handler": """
    while not told:
        time.sleep(0.01)
    print(bus.preempted, bus.latest.saved, bus.latest.durable, bus.latest.step)
    print(bus.commit(step(state), step=20).saved, told)
    bus.close()
    print(signal.getsignal(signal.SIGTERM).__name__, signal.set_wakeup_fd(-1))
""",
    "go on": """
    while not bus.preempted or bus._arrays.preemption.is_due:
        time.sleep(0.01)
    print(bus.commit(step(state), step=20).saved)
    bus.close()
    print(signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN)
""",
}


@contextlib.contextmanager
def looping(path: Path, way: str, donates: bool, wait: bool) -> Iterator[Any]:
    """A process that has committed 20 steps, one with bytes, and does now what ``way`` says."""
    code = textwrap.dedent(LOOP) + textwrap.dedent("\n" + WAYS[way])
    with subprocess.Popen(
        command_of(code, path, way, donates, wait), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        if process.poll() is None:
            process.kill()


def newest(path: Path) -> tuple[int, bool]:
    """The step of the newest commit, and whether it has bytes, which are those of that step."""
    with mmsb.open(path, mode="r") as bus:
        assert bus.verify()
        commit = bus.latest
        if commit.saved:
            expected = np.arange(1000, dtype=np.float32) + commit.step + 1
            np.testing.assert_array_equal(bus.checkout()["w"], expected)
        return commit.step, commit.saved


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("way", ["sleep", "compile"])
def test_newest_tree_is_logged_wherever_the_main_thread_is(tmp_path: Path, way: str, wait: bool):
    path = tmp_path / "run.mmsb"
    with looping(path, way, donates=False, wait=wait) as process:
        time.sleep(0.3)
        process.terminate()
        if way == "compile":
            _wait_for(lambda: newest(path) == (19, True))
            process.kill()
        else:
            assert process.wait(60) == -signal.SIGTERM
    assert newest(path) == (19, True)


@pytest.mark.parametrize("wait", [True, False])
def test_next_commit_has_the_bytes_where_the_arrays_were_donated(tmp_path: Path, wait: bool):
    path = tmp_path / "run.mmsb"
    with looping(path, "next", donates=True, wait=wait) as process:
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    assert newest(path) == (20, True)


def test_end_comes_when_its_time_is_over(tmp_path: Path):
    path = tmp_path / "run.mmsb"
    with looping(path, "never", donates=True, wait=True) as process:
        begun = time.monotonic()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
        assert time.monotonic() - begun > 1.5
    assert newest(path) == (19, False)


def test_handler_before_is_called_once_all_is_durable_and_put_back(tmp_path: Path):
    with looping(tmp_path / "run.mmsb", "handler", donates=False, wait=True) as process:
        process.terminate()
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    assert printed.split("\n") == ["True True True 19", "False [15]", "<lambda> -1", ""]


def test_signal_that_is_ignored_logs_and_the_run_goes_on(tmp_path: Path):
    path = tmp_path / "run.mmsb"
    with looping(path, "go on", donates=False, wait=True) as process:
        os.kill(process.pid, signal.SIGUSR1)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    assert printed.split() == ["False", "True"]
    with mmsb.open(path, mode="r") as bus:
        assert [commit.step for commit in bus.commits if commit.saved] == [0, 19, 20]


def _wait_for(holds) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_signals_at_random_moments_of_a_run_lose_nothing(tmp_path: Path):
    """Ten signals that only log, from a timer, in the midst of commits, steps and donations."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        noise, asked = random.Random(0), []
        save = mmsb.Every(steps=10_000) | mmsb.OnSignal(signal.SIGUSR1)
        with mmsb.open(tmp_path / "run.mmsb", save=save) as bus:
            state = {"w": jnp.arange(1000.0)}
            for step in range(400):
                if noise.random() < 0.05:
                    timer = threading.Timer(noise.random() / 50, _send, (asked,))
                    timer.start()
                bus.commit(state, step=step, wait=noise.random() < 0.5)
                state = {"w": state["w"] + 1}
            time.sleep(0.1)
            bus.commit(state, step=400)
        with mmsb.open(tmp_path / "run.mmsb", mode="r") as bus:
            assert bus.verify()
            saved = [commit for commit in bus.commits if commit.saved]
            assert 2 < len(saved) <= 2 * len(asked) + 3
            for commit in saved:
                expected = np.arange(1000, dtype=np.float32) + commit.step
                np.testing.assert_array_equal(bus.checkout(version=commit)["w"], expected)
        assert watch._listeners == []
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def _send(asked: list[None]) -> None:
    asked.append(None)
    os.kill(os.getpid(), signal.SIGUSR1)


def test_two_buses_are_told_and_close_in_any_order(tmp_path: Path):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        save = mmsb.Every(steps=10_000) | mmsb.OnSignal(signal.SIGUSR1)
        first, second = (mmsb.open(tmp_path / f"{name}.mmsb", save=save) for name in "ab")
        for bus in (first, second):
            for step in range(3):
                bus.commit({"w": jnp.zeros(3) + step}, step=step)
        os.kill(os.getpid(), signal.SIGUSR1)
        _wait_for(lambda: first.preempted and second.preempted)
        _wait_for(lambda: first.latest.saved and second.latest.saved)
        first.close()
        second.commit({"w": jnp.zeros(3)}, step=4)
        os.kill(os.getpid(), signal.SIGUSR1)
        _wait_for(lambda: second.latest.saved)
        del second, bus  # not closed
        gc.collect()
        _wait_for(lambda: watch._listeners == [])
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_forked_child_that_is_ended_is_no_signal_to_its_parent(tmp_path: Path):
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with mmsb.open(tmp_path / "run.mmsb", save=mmsb.OnPreemption()) as bus:
            bus.commit({"w": jnp.zeros(3)}, step=0)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            time.sleep(0.2)
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGUSR1)
            assert os.waitpid(child, 0)[1] == signal.SIGUSR1
            time.sleep(0.3)
            assert (bus.preempted, told) == (False, [])
            os.kill(os.getpid(), signal.SIGTERM)
            _wait_for(lambda: told)
            assert bus.preempted
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signal_that_comes_while_the_bus_is_closed_is_passed_on(tmp_path: Path):
    told = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
    try:
        for i in range(10):
            bus = mmsb.open(tmp_path / f"{i}.mmsb", save=mmsb.OnSignal(signal.SIGUSR1))
            bus.commit({"w": jnp.zeros(3)}, step=0)
            threading.Timer(i / 500, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            time.sleep(i / 500)
            bus.close()
            _wait_for(lambda: len(told) == i + 1)
        time.sleep(0.2)
        assert len(told) == 10
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_handler_that_came_later_is_called_once(tmp_path: Path):
    told, before = [], signal.getsignal(signal.SIGUSR1)
    try:
        with mmsb.open(tmp_path / "run.mmsb", save=mmsb.OnSignal(signal.SIGUSR1)) as bus:
            bus.commit({"w": jnp.zeros(3)}, step=0)
            signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))
            for count in (1, 2):
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.3)
                assert len(told) == count
            assert bus.preempted
            assert not watch._ready
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_end_comes_as_soon_as_all_have_saved(tmp_path: Path):
    told = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: told.append(time.monotonic()))
    try:
        save = mmsb.Every(steps=100) | mmsb.OnSignal(signal.SIGUSR1, grace=60)
        slow, fast = (mmsb.open(tmp_path / f"{name}.mmsb", save=save) for name in "ab")
        for bus in (slow, fast):
            for step in range(2):
                state = {"w": jnp.zeros(3) + step}
                bus.commit(state, step=step)
        state["w"].delete()  # of the fast one
        save_now = slow._arrays._save_now
        slow._arrays.preemption._save_now = lambda: lambda: time.sleep(0.5) or save_now()
        begun = time.monotonic()
        os.kill(os.getpid(), signal.SIGUSR1)
        _wait_for(lambda: fast.preempted or slow.preempted)
        fast.commit({"w": jnp.zeros(3)}, step=2)
        _wait_for(lambda: told)
        assert told[0] - begun < 20
        fast.close()
        slow.close()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_policy_that_hears_signals_is_refused_outside_the_main_thread(tmp_path: Path):
    refused = []

    def open_there() -> None:
        try:
            mmsb.open(tmp_path / "run.mmsb", save=mmsb.OnPreemption())
        except ValueError as error:
            refused.append(str(error))

    thread = threading.Thread(target=open_there)
    thread.start()
    thread.join()
    assert "open the bus there" in refused[0]
    assert not (tmp_path / "run.mmsb").exists()


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: mmsb.OnSignal(), ValueError, "expected signals"),
        (lambda: mmsb.OnSignal(signal.SIGKILL), ValueError, "no process can be told"),
        (lambda: mmsb.OnSignal(0), ValueError, "no process can be told"),
        (lambda: mmsb.OnSignal("TERM"), TypeError, "expected a signal"),
        (lambda: mmsb.OnSignal(signal.SIGTERM, grace=0), ValueError, "above 0"),
        (lambda: mmsb.OnPreemption(grace="1"), TypeError, "a number"),
    ],
)
def test_wrong_signals_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_policies_say_what_they_are():
    policy = mmsb.Every(steps=5) | mmsb.OnPreemption()
    assert repr(policy.right) == "OnPreemption(SIGTERM, grace=25.0)"
    assert mmsb.OnSignal(signal.SIGTERM) == mmsb.OnSignal(15) != mmsb.OnPreemption()
    assert len({mmsb.OnSignal(15), mmsb.OnSignal(signal.SIGTERM)}) == 1
