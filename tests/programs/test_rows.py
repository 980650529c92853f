"""Texts as bytes in which a small change stays small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax.programs._captured.rows import to_rows, to_text

CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS) | st.text(st.sampled_from("ab 0127.\n"))


@given(TEXTS)
def test_text_comes_back(text):
    assert to_text(to_rows(text).tobytes()) == text


@given(TEXTS)
def test_place_of_each_piece_is_a_multiple(text):
    rows = to_rows(text).tobytes()
    assert len(rows) % 64 == 0
    for end in (i for i, byte in enumerate(rows) if byte == ord("\n")):
        following = rows[end + 1 :].lstrip(b"\0")
        assert (len(rows) - len(following)) % 64 == 0 or not following


@given(st.lists(st.integers(0, 10**8 - 1), min_size=1), st.integers(0, 10**8 - 1), st.data())
def test_another_number_changes_its_own_digits_alone(numbers, other, data):
    place = data.draw(st.integers(0, len(numbers) - 1))
    changed = [*numbers[:place], other, *numbers[place + 1 :]]
    old, new = (
        to_rows("\n".join(f"%{n} = add f32[{n},64] x" for n in each)) for each in (numbers, changed)
    )
    assert old.size == new.size
    assert np.count_nonzero(old != new) <= 2 * 8


def test_longer_paragraph_moves_none_of_the_others():
    parts = [f"part {i} {{\n  a{i}\n}}\n\n" for i in range(4)]
    longer = [*parts[:1], parts[1].replace("  a1\n", "  a1\n  b1\n"), *parts[2:]]
    old, new = to_rows("".join(parts)), to_rows("".join(longer))
    assert old.size == new.size
    assert np.flatnonzero(old != new).max() < 2 * 512


@pytest.mark.parametrize(
    ("text", "back"), [("a\0b", "a\\0b"), ("caf\udce9", "caf\\udce9"), ("", "")]
)
def test_what_no_text_has_is_written_as_its_escape(text, back):
    assert to_text(to_rows(text).tobytes()) == back
