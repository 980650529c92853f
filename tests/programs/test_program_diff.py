"""What differs between two programs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

import mmsb_jax as mmsb
from mmsb_jax import programs


def captured(bus, function, *shapes, name="f"):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return programs.capture(bus, name, jax.jit(function).trace(*arrays))


@pytest.fixture
def bus():
    with mmsb.open() as bus:
        yield bus


def test_figures_and_operations_that_differ_are_named(bus):
    old = captured(bus, lambda x: jnp.tanh(x @ x), (8, 8))
    new = captured(bus, lambda x: jnp.tanh(x @ x) @ x @ x, (8, 8))
    found = programs.diff(old, new)
    assert found
    changes = {change.what: (change.old, change.new) for change in found.operations}
    assert changes["dot"] == (old.operations["dot"], new.operations["dot"])
    assert new.operations["dot"] > old.operations["dot"]
    figures = {change.what: (change.old, change.new) for change in found.figures}
    assert figures["flops"] == (old.cost.flops, new.cost.flops)
    assert "arguments" not in figures
    assert found.stages == ("jaxpr", "stablehlo", "hlo")
    assert set(changes) == {
        kind
        for kind in old.operations | new.operations
        if old.operations.get(kind) != new.operations.get(kind)
    }


def test_equal_programs_are_the_same(bus):
    old, new = (captured(bus, lambda x: jnp.tanh(x @ x), (8, 8)) for _ in range(2))
    found = programs.diff(old, new)
    assert not found
    assert str(found) == "f, version 1 → 2: the same"
    assert found.to_dict()["differs"] is False
    assert "<table>" not in found._repr_html_()


def test_programs_that_differ_in_their_text_alone_differ(bus):
    old = captured(bus, lambda x: x[0:4] * 3, (8,))
    new = captured(bus, lambda x: x[1:5] * 3, (8,))
    found = programs.diff(old, new)
    assert (found.figures, found.operations) == ((), ())
    assert "hlo" in found.stages
    assert found
    assert str(found).startswith("f, version 1 → 2: another jaxpr, stablehlo, hlo")


def test_programs_of_other_names_and_logs_are_compared(bus):
    old = captured(bus, lambda x: x * 2, (8,))
    with mmsb.open() as other:
        other.commit({"w": 1.0})
        new = captured(other, lambda x: x * 2, (8,), name="g")
        found = programs.diff(old, new)
        assert not found
        assert str(found) == "f, version 1 → g, version 2: the same"


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [(100, 150, "+50 %"), (100, 300, "×3"), (100, 25, "-75 %"), (0, 5, "+5"), (5, 0, "-5"),
     (None, 5, ""), ("a", "b", "")],
)  # fmt: skip
def test_change_is_shown_as_a_share_or_a_factor(old, new, shown):
    assert programs.ProgramChange("temporary bytes", old, new).row()[-1] == shown


def test_memory_that_an_upgrade_of_jax_triples_is_found(bus):
    """As another JAX would have said it: the real thing is in `test_two_versions_of_jax`."""
    old = captured(bus, lambda x: jnp.tanh(x @ x), (64, 64))
    summary = old.summary | {"jax": "99.0", "temp_bytes": 3 * old.memory.temp_bytes or 3}
    found = programs.diff(old, dataclasses.replace(old, version=2, summary=summary))
    assert {change.what for change in found.figures} == {"JAX", "temporary bytes"}
    assert "99.0" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["figures"]["JAX"] == [jax.__version__, "99.0"]


def test_figures_that_are_not_known_are_no_difference_of_operations(bus):
    old = captured(bus, lambda x: x * 2, (8,))
    summary = old.summary | {"operations": {}, "fusions": None}
    found = programs.diff(old, dataclasses.replace(old, summary=summary))
    assert found.operations == ()
    assert [change.what for change in found.figures] == ["fusions"]
    assert "–" in str(found)
