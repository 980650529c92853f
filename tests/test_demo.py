"""The demo, with few steps: what it prints and draws agrees with the logs that it leaves."""

import contextlib
import dataclasses
import io

import matplotlib.image
import pytest

import mmsb_jax as mmsb
from mmsb_jax import demo
from mmsb_jax.demo import _lookback, _processes, _runs, _story, _training

STEPS = 20
RATES = (0.001, 0.1)
BATCHES = (64,)


def run_demo(out):
    """(what was returned, what was printed)."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        well = demo.run(out, steps=STEPS)
    return well, printed.getvalue()


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(directory, what was told, what was printed, what was returned)."""
    out, stories = tmp_path_factory.mktemp("demo"), []
    play = _story.play
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_story, "BFLOAT16_RATES", RATES)
        patch.setattr(_story, "TIMED_BATCHES", BATCHES)
        patch.setattr(_story, "play", lambda *given: stories.append(play(*given)) or stories[0])
        well, printed = run_demo(out)
    return out, stories[0], printed, well


def numbers_in(printed, first_cell):
    """The cells of the printed row that begins with ``first_cell``."""
    rows = ([cell.strip() for cell in line.strip("│ ").split("│")] for line in printed.split("\n"))
    (found,) = [row for row in rows if len(row) > 1 and row[0] == first_cell]
    return found[1:]


def test_demo_killed_run_resumed_equals_the_uninterrupted_one(played):
    out, story, printed, well = played
    assert well
    assert "Equal, byte for byte" in printed
    assert printed.count(story.digests[0]) == 2
    assert 0 < story.survived < STEPS
    with (
        mmsb.open(out / "killed.mmsb", mode="r") as one,
        mmsb.open(out / "whole.mmsb", mode="r") as other,
    ):
        assert one.version == other.version == STEPS
        for version in (story.survived, story.survived + 1, STEPS):
            left, right = one.checkout(version=version), other.checkout(version=version)
            assert left.keys() == right.keys()
            assert all((left[name] == right[name]).all() for name in left if name != "step")
            assert left["step"] == right["step"] == version
        assert [c.extra for c in one.log()] == [c.extra for c in other.log()]


def test_demo_cost_tables_say_what_the_logs_say(played):
    out, _, printed, _ = played
    rows = {"0.003": "killed", **{f"{r:g}": f"bfloat16-{r}" for r in RATES}}
    for rate, log in rows.items():
        with mmsb.open(out / f"{log}.mmsb", mode="r") as bus:
            logged = sum(commit.logged_bytes for commit in bus.log())
            full = sum(region.nbytes for region in bus.layout.regions) * STEPS
        steps, _, said, full_said, share, _ = numbers_in(printed, rate)
        assert steps == str(STEPS)
        assert said == f"{logged / 1e6:.1f} MB"
        assert full_said == f"{full / 1e6:.1f} MB"
        assert share == f"{logged / full:.1%}"


def test_demo_accuracies_are_those_of_the_logged_parameters(played):
    out, story, printed, _ = played
    accuracy = _training.make_accuracy(_training.load()[1])
    like = _training.start(_training.adam())
    for name, curve, log in (("run", story.run, "killed"), ("fork", story.fork, "fork")):
        with mmsb.open(out / f"{log}.mmsb", mode="r") as bus:
            whole = bus.checkout(version=STEPS, like=like)
        assert curve.versions[-1] == STEPS
        assert curve.accuracies[-1] == accuracy(whole["params"])
        assert numbers_in(printed, name)[-1] == f"{curve.accuracies[-1]:.3f}"


def test_demo_time_table_gives_the_commit_as_a_share_of_a_step(played):
    _, story, printed, _ = played
    assert [time.batch for time in story.times] == list(BATCHES)
    for time in story.times:
        alone, together, commit, share = numbers_in(printed, f"{time.batch:,}")
        assert alone == f"{time.alone_ms:.2f} ms"
        assert together == f"{time.committed_ms:.2f} ms"
        assert commit == f"{time.committed_ms - time.alone_ms:.2f} ms"
        assert share == f"{(time.committed_ms - time.alone_ms) / time.alone_ms:.0%}"


def test_demo_fork_goes_on_from_the_middle_with_another_rate(played):
    out, _, _, _ = played
    with mmsb.open(out / "fork.mmsb", mode="r") as fork:
        rates = [
            (entry.version, float(entry.value))
            for entry in fork.history("opt/hyperparams/learning_rate")
        ]
    assert [version for version, _ in rates] == [1, STEPS // 2 + 1]
    assert [rate for _, rate in rates] == pytest.approx([_training.LEARNING_RATE, _runs.FORK_RATE])


def test_demo_picture_is_an_image_with_something_on_it(played):
    out, _, _, _ = played
    image = matplotlib.image.imread(out / "demo.png")
    height, width, _ = image.shape
    assert width > height > 500
    assert len({pixel.tobytes() for row in image[::4] for pixel in row[::4]}) > 20


def test_demo_whose_runs_differ_says_so_and_returns_false(played, monkeypatch, tmp_path):
    _, story, _, _ = played
    other = dataclasses.replace(story, differing=["params/layers/0/bias"])
    monkeypatch.setattr(_story, "play", lambda *_: other)
    well, printed = run_demo(tmp_path)
    assert not well
    assert "NOT EQUAL" in printed
    assert "params/layers/0/bias" in printed
    assert "Equal, byte for byte" not in printed


@pytest.mark.parametrize("other", [{"x": -0.0}, {"x": 0}, {"y": 0.0}, {"x": 0.0, "y": 1}])
def test_contents_of_states_that_differ_are_told_apart(other):
    with mmsb.open() as bus, mmsb.open() as beside:
        bus.commit({"x": 0.0})
        beside.commit(other)
        left, right = _lookback.contents(bus), _lookback.contents(beside)
    assert _lookback.differing(left, right)
    assert _lookback.sha256(left) != _lookback.sha256(right)
    assert not _lookback.differing(left, left)


def test_contents_of_commits_with_other_extra_are_told_apart():
    with mmsb.open() as bus, mmsb.open() as beside:
        bus.commit({"x": 0.0}, extra={"position": 1})
        beside.commit({"x": 0.0}, extra={"position": 2})
        assert _lookback.differing(*map(_lookback.contents, (bus, beside))) == ["(extra)"]


def test_training_that_fails_is_reported_with_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(_processes.sys, "executable", "/bin/false")
    with pytest.raises(mmsb.MMSBError, match="ended with code 1"):
        _processes.run_to_end(tmp_path / "log.mmsb", STEPS, lambda _: None)
