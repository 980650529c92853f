import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._store.encoding import digest
from mmsb_jax._store.encoding.digest import (
    ZERO,
    add,
    constant_term,
    digest_each,
    digest_gained,
    digest_words,
    gained_each,
    mix,
    state_sum,
    state_term,
    subtract,
)
from tests.store._logs import threads
from tests.store._oracle import scalar_lanes, scalar_mix

WORDS = st.lists(st.sampled_from([0, 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1), max_size=60)


def array(words: list[int]) -> np.ndarray:
    return np.array(words, np.uint32)


@given(WORDS)
def test_mix_equals_the_scalar_mix(words):
    mixed = array(words)
    mix(mixed, np.empty_like(mixed))
    assert mixed.tolist() == [scalar_mix(word) for word in words]


@given(WORDS, st.integers(0, 2**33))
def test_digest_equals_the_scalar_sum(words, start):
    assert digest_words(array(words), start) == scalar_lanes(words, start)


@given(WORDS, st.data())
def test_digest_from_changed_words_alone_equals_the_one_from_scratch(words, data):
    old, new = array(words), array(words)
    count = data.draw(st.integers(0, len(words)))
    places = sorted(data.draw(st.permutations(range(len(words))))[:count])
    new[places] = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count))
    index = np.array(places, np.int64)
    gained = digest_gained(old[places], new[places], index)
    assert add(digest_words(old), gained) == digest_words(new)
    assert subtract(digest_words(new), gained) == digest_words(old)


@given(WORDS, st.data())
def test_digest_of_parts_adds_up_to_that_of_the_whole(words, data):
    cut = data.draw(st.integers(0, len(words)))
    parts = digest_words(array(words[:cut])), digest_words(array(words[cut:]), cut)
    assert add(*parts) == digest_words(array(words))


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 16])
def test_digest_of_zeros_is_zero(size):
    assert digest_words(np.zeros(size, np.uint32)) == ZERO


def test_digest_of_several_tiles_equals_the_scalar_sum(monkeypatch):
    monkeypatch.setattr(digest, "_TILE_WORDS", 7)
    words = np.random.default_rng(0).integers(0, 2**32, 100, np.uint32)
    assert digest_words(words, 5) == scalar_lanes(words.tolist(), 5)
    nothing = np.zeros_like(words)
    assert digest_gained(nothing, words, np.arange(5, 105)) == scalar_lanes(words.tolist(), 5)


def test_digest_in_threads_equals_that_of_one():
    words = np.random.default_rng(0).integers(0, 2**32, (1 << 21) + 77, np.uint32)
    assert digest_words(words, executor=threads()) == digest_words(words)


@given(WORDS.filter(len), st.data())
def test_digest_differs_for_any_single_bit(words, data):
    bit = data.draw(st.integers(0, 32 * len(words) - 1))
    other = array(words)
    other[bit // 32] ^= np.uint32(1 << bit % 32)
    assert digest_words(other) != digest_words(array(words))


def test_digest_depends_on_the_place_of_a_word():
    assert digest_words(array([5, 0])) != digest_words(array([0, 5]))


@pytest.mark.parametrize(
    ("words", "lanes"),
    [
        ([1], (0xA07C7A97, 0x20687CC2)),
        ([0, 1], (0x7F58F66B, 0x7B020A9F)),
        ([0xFFFFFFFF], (0x5F3DDEE1, 0x0B56DFA5)),
        ([1, 2, 3, 4], (0x12282295, 0xBB0C8AB0)),
    ],
)
def test_digest_is_what_the_format_says(words, lanes):
    assert digest_words(array(words)) == lanes == scalar_lanes(words)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_digests_of_arrays_end_to_end_are_those_of_each(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 3, size).astype(np.uint32) for size in sizes]
    found = digest_each(np.concatenate(parts), sizes)
    assert list(map(tuple, found.T.tolist())) == list(map(digest_words, parts))


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    stride=st.sampled_from([1, 7, 5000]),
    seed=st.integers(0, 99),
)
def test_gains_of_arrays_end_to_end_are_those_of_each(sizes, stride, seed):
    rng = np.random.default_rng(seed)
    parts = [
        (*rng.integers(0, 2**32, (2, size), np.uint32), stride * np.arange(size)) for size in sizes
    ]
    old, new, index = map(np.concatenate, zip(*parts, strict=True))
    found = gained_each(old, new, index, sizes)
    assert list(map(tuple, found.T.tolist())) == [digest_gained(*part) for part in parts]


def test_state_term_is_the_hash_of_id_lanes_and_schema():
    expected = xxhash.xxh3_128_intdigest(b"7 1 2 w\0jax\0float32\0(2,)")
    assert state_term(7, b"w\0jax\0float32\0(2,)", (1, 2)) == expected
    assert constant_term("act", "f:relu") == xxhash.xxh3_128_intdigest(b"constant act\0f:relu")


@given(*[st.integers(0, 2**128 - 1)] * 3)
def test_state_sum_is_undone_by_its_inverse(total, added, removed):
    assert state_sum(state_sum(total, added, removed), removed, added) == total
