"""``mmsb bench``: the command, that its works run, and the arithmetic of its rows."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import baseline
from mmsb_jax.bench import short
from mmsb_jax.bench.measure import Work, grow, times_s
from mmsb_jax.bench.row import Row, figure_at_most, ratio_at_most, shown
from mmsb_jax.bench.states import MB


@pytest.fixture
def folders(monkeypatch) -> list[Path]:
    """The folders that the benchmark was run in; it has one row."""
    seen: list[Path] = []

    def rows(folder: Path) -> Iterator[Row]:
        seen.append(folder)
        assert folder.is_dir()
        yield Row("short/hop", "a hop", "s", [4e-5, 6e-5], "raw append", [1e-6, 2e-6])

    monkeypatch.setattr(short, "rows", rows)
    return seen


def test_bench_prints_each_work_beside_its_limit(mmsb, folders):
    ran = mmsb("bench")
    assert ran.code == 0
    header, row = ran.out.splitlines()[-2:]
    assert header.split() == ["work", "time", "beside", "its", "time", "ratio", "spread"]
    cells = [cell.strip() for cell in row.split("  ") if cell]
    assert cells == ["a hop", "50 µs", "raw append", "1.5 µs", "35", "32.5 to 37.5"]
    assert not folders[0].exists()


def test_bench_with_json_prints_one_document(mmsb, folders):
    found = mmsb("bench", "--json").json
    assert found["machine"]["cpus"] >= 1
    assert found["rows"][0]["name"] == "short/hop"
    assert found["rows"][0]["ratio"] == pytest.approx(35)


def test_bench_measures_the_disk_of_its_folder_and_leaves_nothing(mmsb, folders, tmp_path):
    assert mmsb("bench", "--dir", tmp_path).code == 0
    assert folders[0].parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("out", "code"), [("", 2), ("s3://bucket", 3), ("missing", 3)])
def test_bench_in_a_bad_place_says_why_and_does_not_run(mmsb, folders, out, code):
    ran = mmsb("bench", "--dir", out)
    assert (ran.code, folders) == (code, [])
    assert ran.err.splitlines()[-1].startswith("Error: " if code == 2 else "error: ")


def test_short_rows_are_all_measured(tmp_path):
    found = list(short.rows(tmp_path, 1 * MB))
    assert len({row.name for row in found}) == len(found) == short.COUNT
    assert all(row.figure > 0 and row.reference > 0 for row in found)
    assert list(tmp_path.iterdir()) == []


def test_row_ratio_is_the_median_of_the_rounds():
    row = Row("x/y", "work", "s", [1.0, 2.0, 9.0], "limit", [1.0, 1.0, 3.0])
    assert (row.figure, row.reference, row.ratio, row.spread) == (2, 1, 2, (1.5, 2.5))


def test_row_ratio_of_exponents_is_what_ten_times_the_size_costs():
    row = Row("x/y", "growth", "exponent", [1.0], "at most", [0.0])
    assert row.ratio == 10


@pytest.mark.parametrize(
    ("bound", "is_met", "text"),
    [
        (figure_at_most(2), True, "≤ 2 s"),
        (figure_at_most(1), False, "≤ 1 s"),
        (ratio_at_most(0.5), True, "÷ 2"),
        (ratio_at_most(0.1), False, "÷ 10"),
        (ratio_at_most(1.5), True, "× 1.5"),
        (None, True, None),
    ],
)
def test_bound_is_of_the_figure_or_of_the_ratio(bound, is_met, text):
    row = Row("x/y", "work", "s", [2.0], "peer", [4.0])
    assert row.meets(bound) == is_met
    assert text is None or bound.shown("s") == text


def test_works_take_turns():
    seen: list[str] = []
    one = Work("one", lambda: seen.append("one"), after=lambda _: seen.append("after"))
    other = Work("other", lambda: seen.append("other"))
    first, second = times_s(one, other, rounds=2, warm=0)
    assert (len(first), len(second)) == (2, 2)
    assert seen == ["one", "after", "other"] * 2


def test_short_work_runs_untimed_before_its_turn():
    seen: list[str] = []
    one, other = (Work(name, lambda name=name: seen.append(name)) for name in ("one", "other"))
    times_s(one, other, rounds=2)
    assert seen == ["one", "other", *["one", "one", "other", "other"] * 2]


def test_growth_is_the_exponent_that_fits(monkeypatch):
    monkeypatch.setattr(Work, "time_s", lambda work: work.items**1.5)
    works = {size: Work("work", math.nan.hex, items=size) for size in (10, 100, 1000)}
    row = grow("x/growth", "work", works, at_most=1.2)
    assert row.figure == pytest.approx(1.5)
    assert not row.meets(row.must)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (41.2e-6, "s", "41.2 µs"),
        (2.0, "s", "2 s"),
        (3e-10, "s", "0.3 ns"),
        (1 << 20, "B", "1.05 MB"),
        (0.98, "exponent", "0.98"),
    ],
)
def test_value_is_shown_in_thousands_of_its_unit(value, unit, text):
    assert shown(value, unit) == text


@pytest.mark.parametrize(
    ("now", "is_worse"),
    [((1.1, 1.3), None), ((1.5, 1.6), None), ((1.51, 1.6), True), ((0.6, 0.79), False)],
)
def test_row_has_regressed_beyond_both_spreads_and_a_quarter(now, is_worse):
    found = baseline.changes({"x/y": (1.0, 1.2)}, {"x/y": now, "x/new": (9.0, 9.0)})
    assert [change.is_worse for change in found] == ([] if is_worse is None else [is_worse])


def test_accepting_some_groups_keeps_the_others_of_this_machine(tmp_path):
    path, here = (
        tmp_path / "baseline.json",
        {"cpus": 2, "processor": "x", "jax": "1", "backend": "c"},
    )
    rows = [Row(name, "work", "s", [2.0], "limit", [1.0]) for name in ("x/y", "z/y")]
    baseline.accept(rows[:1], here, path)
    baseline.accept(rows[1:], here, path)
    assert baseline.read(path) == ({"x/y": (2, 2), "z/y": (2, 2)}, here)
    baseline.accept(rows[1:], here | {"cpus": 4}, path)
    assert baseline.read(path) == ({"z/y": (2, 2)}, here | {"cpus": 4})
