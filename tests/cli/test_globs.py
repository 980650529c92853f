"""Patterns for names."""

import pytest

from mmsb_jax._base.patterns import matcher


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("params", ["params", "params/w", "params/0/w"], ["param", "params2", "x/params"]),
        ("params/", ["params", "params/w"], ["params2"]),
        ("params/*", ["params/w"], ["params", "params/0/w"]),
        ("params/**", ["params", "params/w", "params/0/w"], ["params2/w"]),
        ("**/w", ["w", "params/w", "params/0/w"], ["params/ww"]),
        ("a/**/w", ["a/w", "a/b/w", "a/b/c/w"], ["a/b", "ab/w"]),
        ("?", ["w"], ["", "ww", "/"]),
        ("w.x", ["w.x"], ["wax"]),
        ("[w]*", ["[w]", "[w]x"], ["w"]),
        ("**", ["", "a/b", "line\nfeed"], []),
        ("a*", ["a\nb"], ["a/b"]),
        ("a", ["a/b\nc"], ["a\nb"]),
    ],
)
def test_matcher_selects_names(pattern, matching, others):
    selected = matcher([pattern]).fullmatch
    assert [name for name in matching if not selected(name)] == []
    assert [name for name in others if selected(name)] == []


def test_matcher_of_several_patterns_selects_what_any_does():
    selected = matcher(["a/*", "b"]).fullmatch
    assert all(map(selected, ["a/x", "b", "b/y"]))
    assert not selected("c")
