"""A state that grows with each commit, as an agent's trace: a turn costs what it adds."""

import json

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._script import run_script

THOUSAND_TURNS = """
    import json
    import mmsb_jax as mmsb
    import numpy as np

    bus, state = mmsb.open(), {"texts": [], "visits": np.zeros(64, np.int32)}
    for turn in range(1_000):
        state["texts"].append(f"turn {turn:04}: " + "and so on " * 20)
        state["visits"][turn % 64] += 1
        bus.commit(state, step=turn, structure="new")
    print(json.dumps([commit.logged_bytes for commit in bus.commits]))
"""


def a_turn(state, turn):
    state["texts"].append(f"turn {turn:04}: {'and so on ' * 20}")
    state["seen"].append(np.full(16, turn, np.float32))
    state["visits"][turn % 64] += 1


def trace_of(turns):
    """A bus that has some turns, and the state behind them."""
    bus, state = mmsb.open(), {"texts": [], "seen": [], "visits": np.zeros(64, np.int32)}
    for turn in range(turns):
        a_turn(state, turn)
    bus.commit(state)
    return bus, state


def test_bytes_of_a_turn_do_not_depend_on_the_turns_before():
    logged = []
    for before in (10, 100, 1_000):
        bus, state = trace_of(before)
        with bus:
            for turn in range(before, before + 12):
                a_turn(state, turn)
                bus.commit(state, structure="new")
            logged.append([commit.logged_bytes for commit in bus.commits[1:]])
    assert logged[0] == logged[1] == logged[2]
    assert max(logged[0]) < 2_000


def test_each_turn_of_a_trace_comes_back():
    bus, state = trace_of(3)
    with bus:
        for turn in range(3, 40):
            a_turn(state, turn)
            bus.commit(state, step=turn, structure="new")
        for turn in (3, 20, 38):
            like = {"texts": [""] * (turn + 1), "seen": state["seen"][: turn + 1]}
            found = bus.checkout(step=turn, like=like | {"visits": state["visits"]})
            assert found["texts"] == state["texts"][: turn + 1]
            np.testing.assert_array_equal(found["seen"], state["seen"][: turn + 1])
            assert found["visits"].sum() == turn + 1
        assert bus.tree()["texts"] == state["texts"]


@pytest.mark.long
def test_thousand_turns_are_logged_in_bytes_that_do_not_grow():
    logged = np.array(json.loads(run_script(THOUSAND_TURNS))).reshape(10, -1)
    assert logged[-1].sum() <= 1.02 * logged[1].sum()
    assert logged[-1].max() <= logged[1].max()
