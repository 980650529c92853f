"""``mmsb diff``."""

import ml_dtypes
import numpy as np
import pytest


def by_name(ran) -> dict[str, dict]:
    return {array["name"]: array for array in ran.json["arrays"]}


def test_diff_counts_bytes_elements_and_non_finite_values(mmsb, small):
    ran = mmsb("diff", small, 1, 2, "--json")
    assert ran.code == 0
    assert by_name(ran) == {
        "params/w": {
            "name": "params/w",
            "change": "changed",
            "old": {"kind": "numpy", "dtype": "float32", "shape": [4, 8], "bytes": 128},
            "new": {"kind": "numpy", "dtype": "float32", "shape": [4, 8], "bytes": 128},
            "changed_bytes": 12,
            "bytes": 128,
            "changed_elements": 6,
            "elements": 32,
            "non_finite_old": 0,
            "non_finite_new": 1,
        }
    }
    assert (ran.json["changed_bytes"], ran.json["arrays_in_all"]) == (12, 2)


def test_diff_backwards_turns_the_sides_round(mmsb, small):
    entry = by_name(mmsb("diff", small, 2, 1, "--json"))["params/w"]
    assert (entry["non_finite_old"], entry["non_finite_new"]) == (1, 0)
    assert entry["changed_bytes"] == 12


def test_diff_with_the_empty_state_creates_everything(mmsb, small):
    forward, back = mmsb("diff", small, 0, 3, "--json"), mmsb("diff", small, 3, 0, "--json")
    assert {entry["change"] for entry in by_name(forward).values()} == {"created"}
    assert {entry["change"] for entry in by_name(back).values()} == {"deleted"}
    assert forward.json["changed_bytes"] == back.json["changed_bytes"] == 160


@pytest.mark.parametrize(
    ("versions", "flags", "code"),
    [((1, 2), [], 0), ((1, 2), ["--exit-code"], 1), ((3, 4), ["--exit-code"], 0)],
)
def test_diff_exits_1_only_when_asked_to_and_something_differs(mmsb, small, versions, flags, code):
    assert mmsb("diff", small, *versions, *flags).code == code
    assert mmsb("diff", small, *versions, *flags, "--json").code == code


def test_diff_of_patterns_reports_these_arrays_alone(mmsb, small):
    assert by_name(mmsb("diff", small, 1, 3, "--arrays", "*/b", "--json")).keys() == {"params/b"}
    both = mmsb("diff", small, 1, 3, "--arrays", "*/b", "--arrays", "params/w", "--json")
    assert by_name(both).keys() == {"params/b", "params/w"}


def test_diff_of_a_pattern_without_an_array_exits_3(mmsb, small):
    ran = mmsb("diff", small, 1, 3, "--arrays", "nothing/**", "--json")
    assert ran.code == 3
    assert ran.error["error"] == "ArrayNotFoundError"


def test_diff_across_structures_shows_what_became_of_each_array(mmsb, recorder):
    bfloat16 = np.array([1, np.inf, np.nan, 0], ml_dtypes.bfloat16)
    recorder.commit(
        {"gone": bfloat16, "grown": np.zeros(2, np.int16), "kept": np.ones(3)},
        values={"name": "s:first"},
    )
    recorder.snapshot()
    recorder.commit(
        {"gone": None, "grown": np.array([0, 7, 8], np.int16), "new": np.ones(3, np.uint8)},
        values={"name": "s:second"},
    )
    ran = mmsb("diff", recorder.path, 1, 2, "--json")
    entries = by_name(ran)
    assert entries.keys() == {"gone", "grown", "new"}
    gone = entries["gone"]
    assert (gone["change"], gone["new"], gone["non_finite_old"]) == ("deleted", None, 2)
    grown = entries["grown"]
    assert (grown["change"], grown["changed_bytes"], grown["changed_elements"]) == ("changed", 3, 2)
    assert (grown["non_finite_old"], grown["non_finite_new"]) == (None, None)
    assert entries["new"]["change"] == "created"
    assert ran.json["values"] == [
        {
            "name": "name",
            "old": {"kind": "str", "value": "first"},
            "new": {"kind": "str", "value": "second"},
        }
    ]
    text = mmsb("diff", recorder.path, 1, 2).out
    assert "int16[2] → int16[3]" in text
    assert "name: 'first' → 'second'" in text


def test_diff_across_an_array_made_anew_compares_by_name(mmsb, recorder):
    recorder.commit({"x": np.arange(4)})
    recorder.commit({"x": None})
    recorder.commit({"x": np.arange(4)})
    assert mmsb("diff", recorder.path, 1, 3, "--exit-code").code == 0


def test_diff_of_tags_is_that_of_their_versions(mmsb, recorder, small):
    recorder.writer.append_tags({"first": 1, "best": 2})
    expected = mmsb("diff", small, 1, 2, "--json").json
    for old, new in (("first", "best"), ("first", 2), (1, "best")):
        assert mmsb("diff", small, old, new, "--json").json == expected
    assert mmsb("diff", small, "first", "best", "--arrays", "*/w", "--exit-code").code == 1
    assert mmsb("diff", small, "first", "best").out.startswith("version 1 → 2: 1 of 2 arrays")


def test_diff_of_no_tag_exits_3_and_names_those_there_are(mmsb, recorder, small):
    recorder.writer.append_tags({"best": 2})
    ran = mmsb("diff", small, 1, "bets")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == "error: no version is tagged 'bets'. There are 1 tags: 'best'\n"


def test_diff_of_a_log_that_joined_late_with_the_empty_state(mmsb, small, joined):
    assert mmsb("diff", joined, 0, 4, "--json").json == mmsb("diff", small, 0, 4, "--json").json
    assert mmsb("diff", joined, 3, 0, "--json").json == mmsb("diff", small, 3, 0, "--json").json
    assert "the nearest is 3" in mmsb("diff", joined, 1, 4).err
