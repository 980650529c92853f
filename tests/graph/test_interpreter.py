"""The interpreter and its programs: what XLA makes of them, and what does not disturb them."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._compile.program import SharedProgram, on_device, run_here
from mmsb_jax._graph.run import single
from mmsb_jax._graph.run.interpreter import Interpreter
from tests.graph._graphs import F, close, insides


def interpreters(bus: mmsb.Bus) -> list[Interpreter]:
    return insides(bus).machine._interpreters


def various() -> mmsb.Bus:
    """A bus with small derived arrays of every cutoff, of one result and of two."""
    bus = mmsb.open()
    bus.commit({"x": F(1, 2, 3, 4, 5), "y": F(5, 4, 3, 2, 1)})
    with bus.batch():
        bus.derive("bytes", ["x", "y"], lambda x, y: jnp.tanh(x) * y + x)
        bus.derive("never", ["bytes"], lambda x: x * 2, equal="never")
        bus.derive("close", ["never"], lambda x: x + 1, equal=close)
        bus.derive("ends", ["close"], lambda x: {"low": x.min(), "high": x.max()})
        bus.derive("last", ["ends/low", "x"], lambda low, x: x - low)
    return bus


def computations(text: str) -> dict[str, str]:
    """The computations of a program by name."""
    return dict(re.findall(r"^(?:ENTRY )?%([\w.-]+) (\(.*?\n)\}", text, re.DOTALL | re.MULTILINE))


def test_interpreter_step_copies_no_buffer() -> None:
    for interpreter in interpreters(various()):
        text, words = interpreter.text(), interpreter.shape.words
        known = computations(text)
        bodies = set(re.findall(r"body=%([\w.-]+)", text))
        reached, waiting = set[str](), list(bodies)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                called = re.findall(r"%([\w.-]+)", known[name])
                waiting += [other for other in called if other in known]
        assert bodies
        assert any(f"u32[{words}]" in known[name] for name in reached)
        for name in reached:
            assert not re.search(rf"= u32\[{words}\]\S* copy\(", known[name]), known[name]


def test_interpreter_computes_a_body_once_a_step() -> None:
    bus = mmsb.open()
    bus.commit({"x": np.ones(256, np.float32)})
    bus.derive("y", ["x"], lambda x: x * x + x)
    [interpreter] = interpreters(bus)
    assert len(re.findall(r"= f32\[256\]\S* multiply\(", interpreter.text())) == 1


def test_schedules_that_share_a_buffer_leave_each_other_nothing() -> None:
    bus = mmsb.open()
    bus.commit({"a": F(1, 2), "b": F(3, 4)})
    with bus.batch():
        for name in "abcdef":
            source = "a" if name in "ace" else "b"
            bus.derive(f"of {name}", [source], lambda x: x + 1)
    bus.write("a", F(5, 6))
    before = {name: derived.runs for name, derived in bus.derived().items()}
    bus.write("b", F(7, 8))
    after = {name: derived.runs for name, derived in bus.derived().items()}
    ran = {name for name in after if after[name] > before[name]}
    assert ran == {"of b", "of d", "of f"}
    assert bus.read("of c").tolist() == [6, 7]
    assert bus.read("of d").tolist() == [8, 9]


@pytest.mark.parametrize("equal", ["bytes", "never", close])
def test_wave_of_unchanged_leaves_changes_nothing(equal: Any) -> None:
    bus = mmsb.open()
    bus.commit({"a": F(1, 2)})
    bus.derive("sign", ["a"], jnp.sign, equal=equal)
    assert bus.write("a", F(3, 4)).changed == ("a",)
    assert bus.derived()["sign"].runs == 2


SETTINGS = {
    "transfer guard": lambda: jax.transfer_guard("disallow"),
    "debug_nans": lambda: jax.debug_nans(True),
    "disable_jit": lambda: jax.disable_jit(True),
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "x64": lambda: jax.enable_x64(True),
    "matmul precision": lambda: jax.default_matmul_precision("bfloat16"),
    "mesh": lambda: jax.set_mesh(jax.make_mesh((1,), ("d",))),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_wave_under_any_settings_gives_the_same_bytes(name: str) -> None:
    bus = mmsb.open()
    bus.commit({"a": F(0, 0, 0, 0), "large": np.zeros(5000, np.float32)})
    with bus.batch():
        bus.derive("small", ["a"], lambda a: a.reshape(2, 2) @ a.reshape(2, 2) / 0)
        bus.derive("big", ["large"], lambda x: x / 0)
    kinds = {name: bytes(np.asarray(bus.read(name))) for name in ("small", "big")}
    with SETTINGS[name]():
        bus.write("a", F(1, 2, 3, 4))
        bus.write("large", np.ones(5000, np.float32))
    under = {name: bytes(np.asarray(bus.read(name))) for name in ("small", "big")}
    bus.write("a", F(0, 0, 0, 0))
    bus.write("large", np.zeros(5000, np.float32))
    assert {name: bytes(np.asarray(bus.read(name))) for name in kinds} == kinds
    bus.write("a", F(1, 2, 3, 4))
    bus.write("large", np.ones(5000, np.float32))
    assert {name: bytes(np.asarray(bus.read(name))) for name in kinds} == under


class OnDevice:
    """An array whose bytes are somewhere else, as on a GPU: a CPU's are read without a transfer."""

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if jax.config.jax_transfer_guard_device_to_host != "allow":
            raise RuntimeError("disallowed device-to-host transfer")
        return self._array

    def __bool__(self) -> bool:
        return bool(np.asarray(self))


GUARDS = [
    lambda level: jax.transfer_guard(level),
    lambda level: jax.transfer_guard_device_to_host(level),
]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("level", ["disallow", "disallow_explicit"])
def test_results_of_a_program_pass_a_transfer_guard_on_their_way_to_the_host(guard, level) -> None:
    program = SharedProgram(lambda x: x, is_wide=False)
    program._call = OnDevice
    with guard(level):
        assert program.on_host(F(1, 2)).tolist() == [1, 2]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("equal", ["bytes", close])
def test_results_of_a_large_function_pass_a_transfer_guard(guard, equal, monkeypatch) -> None:
    words_of_array = single.words_of_array
    monkeypatch.setattr(single, "words_of_array", lambda array: words_of_array(np.asarray(array)))
    bus = mmsb.open()
    bus.commit({"large": np.zeros(5000, np.float32)})
    bus.derive("big", ["large"], lambda x: x + 1, equal=equal)
    real = SharedProgram.__call__

    def far(program: SharedProgram, *arrays: Any) -> Any:
        near = [np.asarray(a) if isinstance(a, OnDevice) else a for a in jax.tree.leaves(arrays)]
        near = jax.tree.unflatten(jax.tree.structure(arrays), near)
        return jax.tree.map(OnDevice, real(program, *near))

    monkeypatch.setattr(SharedProgram, "__call__", far)
    with guard("disallow_explicit"):
        assert bus.commit({"large": np.ones(5000, np.float32)}).changed == ("big", "large")
    assert bytes(np.asarray(bus.read("big"))) == bytes(np.full(5000, 2, np.float32))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_wave_while_a_function_is_traced_is_no_part_of_it(transform: Any) -> None:
    bus = mmsb.open()
    bus.commit({"a": F(1, 2)})
    bus.derive("b", ["a"], lambda a: a + 1)

    def function(x: Any) -> Any:
        bus.write("a", F(3, 4))
        return x * 2

    argument = np.ones(3, np.float32) if transform is jax.vmap else 1.0
    transform(function)(argument)
    assert bus.read("b").tolist() == [4, 5]


def test_program_that_runs_here_holds_a_callback_that_is_not_called() -> None:
    program = SharedProgram(lambda x, never: run_here(x.sum() * 2, never), is_wide=False)
    number, never = on_device(np.ones(4, np.float32)), np.zeros((), np.bool_)
    assert float(program(number, never)) == 8
    assert ("callback" in program.text(number, never)) == (jax.default_backend() == "cpu")
