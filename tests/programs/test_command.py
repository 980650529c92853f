"""``mmsb programs``."""

import json

import jax
import jax.numpy as jnp
import pytest

import mmsb_jax
from mmsb_jax import programs
from tests.bus._script import run_script


@pytest.fixture
def log(tmp_path):
    """Two programs, one of them in three versions; a tree of digests alone comes last."""
    path, step = tmp_path / "run.mmsb", jax.jit(lambda x: jnp.tanh(x @ x))
    with mmsb_jax.open(path, save=mmsb_jax.Every(steps=100)) as bus:
        bus.commit({"w": 1.0})
        for length in (4, 4, 8):
            programs.capture(bus, "train", step.trace(jnp.ones((length, length))))
        programs.capture(bus, "\x1b[2J".strip("\x1b"), step.trace(jnp.ones((2, 2))))
        bus.tag("here", 2)
    return path


def test_list_names_each_with_its_newest_version(mmsb, log):
    lines = mmsb("programs", log).out.splitlines()
    assert lines[0].split() == ["program", "version", "JAX", "flops", "temporary", "logged"]
    assert [line.split()[:2] for line in lines[1:]] == [["[2J", "5"], ["train", "4"]]
    found = mmsb("programs", log, "--json").json["programs"]
    assert [(entry["name"], entry["version"]) for entry in found] == [("[2J", 5), ("train", 4)]
    assert found[1]["jax"] == jax.__version__
    assert found[1]["arguments"] == {"float32[8,8]": 1}
    assert found[1]["logged_bytes"] > 0
    (entry,) = mmsb("programs", log, "--version", "here", "--json").json["programs"]
    assert (entry["name"], entry["version"]) == ("train", 2)


def test_one_is_shown_as_python_shows_it(mmsb, log):
    with mmsb_jax.open(log, mode="r") as bus:
        shown = str(programs.load(bus, "train"))
    assert mmsb("programs", log, "train").out == f"{shown}\ncaptured at version 2, 3, 4\n"
    found = mmsb("programs", log, "train", "--json").json
    assert (found["version"], found["captured"]) == (4, [2, 3, 4])
    assert "version 3" in mmsb("programs", log, "train", "--version", "3").out


@pytest.mark.parametrize("stage", ["jaxpr", "stablehlo", "hlo"])
def test_text_of_a_stage_is_printed(mmsb, log, stage):
    with mmsb_jax.open(log, mode="r") as bus:
        text = programs.load(bus, "train", 2).text(stage)
    printed = mmsb("programs", log, "train", "--version", "2", "--stage", stage).out
    assert printed.rstrip("\n") == text.rstrip("\n")
    found = mmsb("programs", log, "train", "--version", "2", "--stage", stage, "--json").json
    assert found == {"name": "train", "version": 2, stage: text}


def test_stage_that_was_not_captured_is_said(mmsb, log):
    with mmsb_jax.open(log) as bus:
        stage = jax.jit(jnp.sum).trace(jnp.ones(3))
        programs.capture(bus, "sum", stage, stages=["hlo"])
    assert mmsb("programs", log, "sum", "--stage", "jaxpr").out == (
        "the jaxpr of sum was not captured\n"
    )


def test_two_versions_are_compared(mmsb, log):
    with mmsb_jax.open(log, mode="r") as bus:
        found = programs.diff(*(programs.load(bus, "train", version) for version in (2, 4)))
    assert mmsb("programs", log, "train", "--diff", "here", "4").out == f"{found}\n"
    assert mmsb("programs", log, "train", "--diff", "2", "4", "--json").json == json.loads(
        json.dumps(found.to_dict())
    )
    assert mmsb("programs", log, "train", "--diff", "2", "4", "--exit-code").code == 1
    ran = mmsb("programs", log, "train", "--diff", "2", "3", "--exit-code")
    assert (ran.code, ran.out) == (0, "train, version 2 → 3: the same\n")


@pytest.mark.parametrize(
    "words",
    [("--stage", "hlo"), ("--diff", "1", "2"), ("train", "--diff", "2", "4", "--stage", "hlo"),
     ("train", "--diff", "2", "4", "--version", "2"), ("a/b",), ("train", "--stage", "ptx")],
)  # fmt: skip
def test_wrong_usage_is_refused(mmsb, log, words):
    assert mmsb("programs", log, *words).code == 2


def test_what_is_not_there_is_refused(mmsb, log, tmp_path):
    ran = mmsb("programs", log, "eval", "--json")
    assert (ran.code, ran.error["error"]) == (3, "ArrayNotFoundError")
    assert "'train'" in ran.error["message"]
    assert mmsb("programs", log, "train", "--version", "1").code == 3
    with mmsb_jax.open(tmp_path / "empty.mmsb"):
        pass
    assert mmsb("programs", tmp_path / "empty.mmsb").out == "no program was captured\n"
    assert mmsb("programs", tmp_path / "empty.mmsb", "--json").json == {"programs": []}


def test_log_that_ends_in_digests_is_read(mmsb, log):
    with mmsb_jax.open(log, save=mmsb_jax.Every(steps=100)) as bus:
        bus.commit({"w": 2.0})
        assert not bus.latest.saved
        assert mmsb("programs", log, "train", "--json").json["version"] == 4


def test_programs_are_read_where_there_is_no_jax(log):
    code = """
        import sys
        sys.modules["jax"] = sys.modules["jaxlib"] = None  # to import them fails
        from mmsb_jax.cli import main
        for words in ([], ["train"], ["train", "--stage", "hlo"], ["train", "--diff", "2", "4"]):
            main(["programs", sys.argv[1], *words], standalone_mode=False)
    """
    printed = run_script(code, log)
    assert "HloModule" in printed
    assert "train, version 2 → 4" in printed
