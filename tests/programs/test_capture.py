"""Programs captured, and had again at any version, whatever became of the log."""

import doctest
import importlib.util
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax import programs
from tests.bus._script import run_script

FLOAT = jnp.float32


def layers(params, x):
    for w in params:
        x = jnp.tanh(x @ w) + x
    return (x**2).sum()


def traced(batch=8, count=3, function=layers):
    params = [jax.ShapeDtypeStruct((16, 16), FLOAT) for _ in range(count)]
    return jax.jit(jax.value_and_grad(function)).trace(
        params, jax.ShapeDtypeStruct((batch, 16), FLOAT)
    )


@pytest.fixture
def bus():
    with mmsb.open() as bus:
        yield bus


def test_texts_are_those_of_jax_and_xla(bus):
    program, stages = programs.capture(bus, "train", traced()), traced()
    lowered = stages.lower()
    assert program.jaxpr == stages.jaxpr.pretty_print(use_color=False, width=100)
    assert program.stablehlo == lowered.as_text()
    compiled = lowered.compile().as_text().splitlines()
    hlo = program.hlo.splitlines()
    assert hlo[0] == compiled[0]
    assert [line for line in hlo if "=" in line][1:] == [
        line.partition(", metadata=")[0] + line.partition("}, backend")[1][1:]
        + line.partition("}, backend")[2]
        if ", metadata=" in line and ", backend" in line
        else line.partition(", metadata=")[0]
        for line in compiled[1:]
        if "=" in line and "file_" not in line and "parent_frame" not in line
    ]  # fmt: skip


def test_figures_are_those_of_the_compiler(bus):
    program, compiled = programs.capture(bus, "train", traced()), traced().lower().compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    assert program.cost.flops == cost["flops"] > 0
    assert program.cost.bytes_accessed == cost["bytes accessed"] > 0
    assert program.cost.transcendentals == cost["transcendentals"] == 3 * 8 * 16
    assert program.memory.argument_bytes == memory.argument_size_in_bytes == 3 * 1024 + 512
    assert program.memory.temp_bytes == memory.temp_size_in_bytes > 0
    assert program.memory.output_bytes == memory.output_size_in_bytes
    assert program.summary["arguments"] == {"float32[16,16]": 3, "float32[8,16]": 1}
    assert program.summary["jax"] == jax.__version__
    assert program.summary["platform"] == jax.default_backend()
    assert program.operations["dot"] == program.hlo.count(" dot(") > 0
    assert program.fusions == program.hlo.count(" fusion(") > 0


def test_one_commit_says_what_it_is(bus):
    program = programs.capture(bus, "train", traced(), note={"why": "a test"})
    commit = bus.latest
    assert (program.version, commit.version, commit.source) == (1, 1, "compile")
    assert commit.note["program"] == "train"
    assert commit.note["why"] == "a test"
    assert set(commit.changed) == {
        f"~programs/train/{part}" for part in ("jaxpr", "stablehlo", "hlo", "summary")
    }
    assert [commit.version for commit in bus.log(source="compile")] == [1]


def test_stages_are_drawn_with_the_graph(bus):
    programs.capture(bus, "train", traced())
    edges = [(f"~programs/train/{a}", f"~programs/train/{b}", "compiler") for a, b in (
        ("jaxpr", "stablehlo"), ("stablehlo", "hlo"), ("hlo", "summary"))]  # fmt: skip
    assert sorted(bus.graph.edges()) == sorted(edges)
    assert "~programs/train/hlo → ~programs/train/summary (compiler)" in bus.graph._repr_svg_()


def test_same_program_again_logs_little_and_another_shape_not_much(bus):
    sizes = []
    for batch in (40, 40, 44, 41):
        programs.capture(bus, "train", traced(batch, count=12))
        sizes.append(bus.latest.logged_bytes)
    first, again, *others = sizes
    assert again <= 448
    assert max(others) < 4096 < first


def test_every_version_is_there(bus):
    batches = (8, 24, 100)
    for batch in batches:
        programs.capture(bus, "train", traced(batch))
    found = [programs.load(bus, "train", version) for version in (1, 2, 3)]
    assert [program.version for program in found] == [1, 2, 3]
    for batch, program in zip(batches, found, strict=True):
        assert f"f32[{batch},16]" in program.hlo
        assert program.stablehlo == traced(batch).lower().as_text()
    assert programs.load(bus, "train").hlo == found[-1].hlo
    assert programs.load(bus, "train", bus.at(time_ns=bus.commits[1].time_ns)).version == 2


def test_nothing_is_compiled_again_after_a_call(bus):
    seen = []
    function = jax.jit(layers)
    arguments = [jnp.ones((16, 16))] * 3, jnp.ones((4, 16))
    function(*arguments)
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: seen.append(name))
    try:
        programs.capture(bus, "train", function.trace(*arguments))
        assert not [name for name in seen if "compile" in name or "trace" in name]
        jax.jit(lambda x: x + 41)(1.0)
        assert seen  # it would have been seen
    finally:
        jax.monitoring.clear_event_listeners()


def test_donated_arrays_and_abstract_ones_will_do(bus):
    step = jax.jit(lambda x: x * 2, donate_argnums=0)
    x = jnp.ones(8)
    step(x)
    assert x.is_deleted()
    program = programs.capture(bus, "step", step.trace(x))
    assert program.summary["donated"] == 1
    assert program.memory.alias_bytes == 32
    again = programs.capture(bus, "step", step.trace(jax.ShapeDtypeStruct((8,), FLOAT)))
    assert not programs.diff(program, again)


@pytest.mark.parametrize(
    ("advance", "texts"),
    [(lambda t: t.lower(), ("stablehlo", "hlo")), (lambda t: t.lower().compile(), ("hlo",))],
    ids=["lowered", "compiled"],
)
def test_later_stages_have_fewer_texts(bus, advance, texts):
    whole = programs.capture(bus, "train", traced())
    program = programs.capture(bus, "train", advance(traced()))
    for stage in ("jaxpr", "stablehlo", "hlo"):
        assert program.text(stage) == (whole.text(stage) if stage in texts else None)
    assert not programs.diff(whole, program)


def test_only_the_stages_that_are_asked_for_are_kept(bus):
    whole = programs.capture(bus, "train", traced())
    program = programs.capture(bus, "train", traced(), stages=["stablehlo"])
    assert (program.jaxpr, program.hlo) == (None, None)
    assert program.stablehlo == whole.stablehlo
    assert not programs.diff(whole, program)
    assert programs.load(bus, "train", 1).hlo == whole.hlo


def test_exported_program_runs(bus):
    def function(tree, scale=1.0):
        return {"out": tree["x"] * scale}

    arguments = {"x": jnp.arange(3.0)}
    program = programs.capture(bus, "f", jax.jit(function).trace(arguments, scale=2.0), export=True)
    exported = jax.export.deserialize(program.exported)
    assert exported.fun_name == "function"
    assert exported.call(arguments, scale=2.0)["out"].tolist() == [0.0, 2.0, 4.0]
    later = programs.capture(bus, "f", jax.jit(function).trace(arguments, scale=2.0))
    assert later.exported is None
    assert programs.load(bus, "f", 1).exported == program.exported


def test_export_without_flatbuffers_says_what_to_install(bus, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'mmsb-jax\[export\]'"):
        programs.capture(bus, "f", traced(), export=True)
    assert bus.version == 0


@pytest.mark.parametrize(
    "module", ["", "._captured.capture", "._captured.load", "._captured.program", "._captured.diff"]
)
def test_examples_print_what_they_say(module):
    found = importlib.import_module(f"mmsb_jax.programs{module}")
    result = doctest.testmod(found)
    assert result.attempted > 0
    assert result.failed == 0


# ------------------------------------------------------------------------- beside a tree and others


def test_tree_goes_on_as_if_nothing_was_captured(bus):
    programs.capture(bus, "train", traced())
    state, extra = bus.resume({"w": jnp.zeros(3)}, extra={"next": 0})
    assert extra == {"next": 0}
    bus.commit(state, step=0, extra={"next": 1})
    programs.capture(bus, "train", traced(9))
    bus.commit({"w": jnp.ones(3)}, step=1)
    assert bus.tree().keys() == {"w"}
    assert bus.checkout(step=0).keys() == {"w"}
    assert bus.step == 1
    assert bus.resume({"w": jnp.zeros(3)})[0]["w"].tolist() == [1.0] * 3
    assert {name.split("/")[0] for name in bus.checkout(arrays=["~programs/**"])} == {"~programs"}


def test_reader_without_a_structure_sees_no_programs_unless_it_asks(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"w": jnp.zeros(3)})
        program = programs.capture(bus, "train", traced())
        with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
            assert reader.checkout().keys() == {"w"}
            assert "~programs/train/hlo" in reader.checkout(arrays=["**"])
            assert programs.load(reader, "train").hlo == program.hlo
            assert programs.names(reader) == ("train",)


def test_weights_that_are_written_are_no_programs(bus, tmp_path):
    bus.commit({"w": jnp.zeros(3)})
    programs.capture(bus, "train", traced())
    path = bus.to_safetensors(tmp_path / "w.safetensors")
    assert mmsb.from_safetensors(path).keys() == {"w"}
    path = bus.to_safetensors(tmp_path / "p.safetensors", arrays="~programs/train/hlo")
    assert mmsb.from_safetensors(path).keys() == {"~programs/train/hlo"}


def test_tree_has_no_leaf_that_is_called_so(bus):
    programs.capture(bus, "train", traced())
    tree = {"~programs": {"train": {"hlo": jnp.zeros(3)}}}
    bus.commit(tree)
    assert programs.load(bus, "train").hlo.startswith("HloModule")
    assert bus.checkout(version=2)["~programs"]["train"]["hlo"].shape == (3,)


def test_step_taken_again_passes_over_programs(bus):
    def step(state, extra):
        return {"w": state["w"] * 2}, extra

    state = {"w": jnp.ones(3)}
    bus.commit(state, step=0)
    for number in range(1, 4):
        programs.capture(bus, "train", traced(number))
        state, _ = step(state, None)
        bus.commit(state, step=number)
    report = bus.check_replay(step, like=state, steps=6)
    assert report
    assert report.steps == 3


def test_tree_without_bytes_is_saved_first():
    with mmsb.open(save=mmsb.Every(steps=100)) as bus:
        states = [{"w": jnp.full(3, float(k))} for k in range(3)]
        for state in states:
            bus.commit(state)
        assert not bus.latest.saved
        program = programs.capture(bus, "train", traced())
        assert bus.latest.version == program.version
        assert bus.checkout()["w"].tolist() == [2.0] * 3
        bus.commit({"w": jnp.full(3, 7.0)})
        assert not bus.latest.saved
        for ref in (None, bus.version):
            assert programs.load(bus, "train", ref).version == program.version
            assert programs.names(bus, ref) == ("train",)
        assert programs.load(bus, "train", bus.version).hlo == program.hlo


def test_tree_that_is_saved_in_parts_goes_on_beside_programs():
    save = {"a/**": mmsb.Every(steps=2), "**": mmsb.Every(steps=100)}
    with mmsb.open(save=save) as bus:
        program = programs.capture(bus, "train", traced())
        for step in range(5):
            bus.commit({"a": {"w": jnp.full(3, 1.0 * step)}, "b": jnp.full(3, 1.0 * step)})
        assert not bus.latest.saved
        assert programs.load(bus, "train", bus.version).hlo == program.hlo
        again = programs.capture(bus, "train", traced())
        assert bus.checkout(version=again.version)["b"].tolist() == [4.0] * 3
        assert bus.verify(deep=True)


def test_tree_without_bytes_that_is_gone_is_said():
    with mmsb.open(save=mmsb.Every(steps=100)) as bus:
        bus.commit({"w": jnp.zeros(3)})
        donated = {"w": jnp.ones(3)}
        bus.commit(donated)
        donated["w"].delete()
        with pytest.raises(mmsb.VersionError, match="save=True"):
            programs.capture(bus, "train", traced())


def test_programs_survive_all_that_a_log_does(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"w": jnp.zeros(3)}, step=0)
        first = programs.capture(bus, "train", traced())
        bus.commit({"w": jnp.ones(3)}, step=1)
        second = programs.capture(bus, "train", traced(9))
        other = programs.capture(bus, "eval", traced(9))
        expected = {stage: second.text(stage) for stage in ("jaxpr", "stablehlo", "hlo")}

        def check(where, version=second.version):
            found = programs.load(where, "train")
            assert found.version == version
            assert {stage: found.text(stage) for stage in expected} == expected
            assert found.summary == second.summary
            assert programs.names(where) == ("eval", "train")

        check(bus.fork())
        taken = mmsb.open()
        taken.import_(bus.export(0))
        check(taken)
        assert not programs.diff(first, programs.load(bus.fork(), "train", first.version))
        bus.snapshot()
        bus.compact(keep_since=other.version)
        check(bus)
        with pytest.raises(mmsb.VersionError):
            programs.load(bus, "train", first.version)
        bus.commit({"w": jnp.full(3, 2.0)}, step=2)
        check(bus)
        assert bus.verify(deep=True)
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        check(bus)
        assert bus.graph.depth == 4


def test_version_that_was_gone_back_to_has_the_program_of_then(bus):
    bus.commit({"w": jnp.zeros(3)})
    first = programs.capture(bus, "train", traced())
    programs.capture(bus, "train", traced(9))
    commit = bus.revert_to(first.version)
    found = programs.load(bus, "train")
    assert (found.hlo, found.version) == (first.hlo, commit.version)


def test_program_of_a_superseded_commit_is_not_the_newest(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"w": jnp.zeros(3)}, step=0)
        first = programs.capture(bus, "train", traced())
        programs.capture(bus, "train", traced())  # the same: no byte of it changes
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.resume({"w": jnp.zeros(3)}, at=first.version)
        bus.commit({"w": jnp.ones(3)}, step=1)
        assert programs.load(bus, "train").version == first.version


def test_subscribers_hear_that_what_was_compiled_is_another(bus):
    heard = []
    bus.subscribe("compiler", lambda event: heard.append((event.source, event.array)))
    programs.capture(bus, "train", traced())
    heard.clear()
    programs.capture(bus, "train", traced(9))
    assert ("~programs/train/jaxpr", "~programs/train/stablehlo") in heard
    heard.clear()
    programs.capture(bus, "train", traced(9))
    assert heard == []


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        (layers, "jit it"),
        (jax.jit(layers), r"give f\.trace\(\*args\)"),
        ("train", "expected f.trace"),
        (lambda: None, "jit it"),
    ],
)
def test_what_is_no_program_is_refused(bus, what, remedy):
    with pytest.raises(TypeError, match=remedy):
        programs.capture(bus, "train", what)
    assert bus.version == 0


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "*", "a\nb", "x" * 201, "\0"])
def test_name_that_no_program_can_have_is_refused(bus, name):
    with pytest.raises(ValueError, match="bytes of text"):
        programs.capture(bus, name, traced())
    with pytest.raises(ValueError, match="bytes of text"):
        programs.load(bus, name)


def test_bus_that_cannot_be_written_to_is_refused_before_anything_is_compiled(tmp_path):
    function = jax.jit(lambda x: x + 43)
    stage = function.trace(jnp.ones(3))
    seen = []
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"w": 1.0})
        jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: seen.append(1))
        try:
            reader = mmsb.open(tmp_path / "run.mmsb", mode="r")
            with reader, pytest.raises(mmsb.ClosedError, match="mode='r'"):
                programs.capture(reader, "train", stage)
            with pytest.raises(mmsb.ClosedError, match="inside a batch"), bus.batch():
                programs.capture(bus, "train", stage)
            bus.close()
            with pytest.raises(mmsb.ClosedError, match="closed"):
                programs.capture(bus, "train", stage)
            assert seen == []
        finally:
            jax.monitoring.clear_event_listeners()
    with pytest.raises(TypeError, match="expected a Bus"):
        programs.capture("run.mmsb", "train", stage)


def test_text_of_a_closed_bus_is_refused(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        program = programs.capture(bus, "train", traced())
    with pytest.raises(mmsb.ClosedError):
        _ = program.hlo
    assert program.summary["arguments"]
    assert "train, version 1" in str(program)


def test_program_that_is_not_there_is_refused_with_those_that_are(bus):
    with pytest.raises(mmsb.ArrayNotFoundError, match="nothing was captured"):
        programs.load(bus, "train")
    assert programs.names(bus) == ()
    programs.capture(bus, "train", traced())
    with pytest.raises(mmsb.ArrayNotFoundError, match=r"no program is called 'eval'.*'train'"):
        programs.load(bus, "eval")
    with pytest.raises(mmsb.VersionError):
        programs.load(bus, "train", 7)


def test_huge_text_is_refused_and_may_be_left_out(bus, monkeypatch):
    monkeypatch.setattr(importlib.import_module("mmsb_jax.programs._captured.capture"),
                        "_MOST_CHARACTERS", 100)  # fmt: skip
    with pytest.raises(mmsb.StructureError, match="without 'jaxpr'"):
        programs.capture(bus, "train", traced())
    assert bus.version == 0
    assert programs.capture(bus, "train", traced(), stages=[]).hlo is None


def test_summary_that_something_else_wrote_is_damage(bus):
    programs.capture(bus, "train", traced())
    bus.resize("~programs/train/summary", (4,), np.uint8)
    with pytest.raises(mmsb.CorruptionError, match="capture the program again"):
        programs.load(bus, "train")
    programs.capture(bus, "train", traced())
    assert programs.load(bus, "train").jaxpr


# --------------------------------------------------------------------- what a program does not hold


def test_program_is_equal_wherever_it_was_written(tmp_path):
    code = """
        import sys, jax, jax.numpy as jnp, numpy as np
        import mmsb_jax as mmsb
        source = sys.argv[3]
        names = {"jnp": jnp, "jax": jax, "np": np}
        exec(compile(source, sys.argv[2], "exec"), names)
        with mmsb.open(sys.argv[1]) as bus:
            mmsb.programs.capture(bus, "f", jax.jit(names["f"]).trace(jnp.ones((4, 4))))
    """
    source = """
@jax.custom_vjp
def square(x): return x * x
square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
def called(x): return np.asarray(x)
def f(x):
    with jax.named_scope('a "scope}'):
        y = jax.grad(lambda x: square(x).sum())(x) @ x
    return jax.pure_callback(called, jax.ShapeDtypeStruct((4, 4), jnp.float32), y)
"""
    logs = []
    for number, moved in enumerate((source, "\n\n# another place\n" + source)):
        logs.append(tmp_path / f"{number}.mmsb")
        run_script(code, logs[-1], f"/src/{number}/file.py", moved)
    with mmsb.open(logs[0]) as one, mmsb.open(logs[1]) as other:
        old, new = programs.load(one, "f"), programs.load(other, "f")
        assert not programs.diff(old, new)
        for part in ("jaxpr", "stablehlo", "hlo", "summary"):
            name = f"~programs/f/{part}"
            assert one.read(name).tobytes() == other.read(name).tobytes()
        told = "".join(filter(None, map(old.text, ("jaxpr", "stablehlo", "hlo"))))
        for strange in ("/src/", "file.py", "scope", "0x", "stack_frame", "line="):
            assert strange not in told


def test_long_constants_and_static_arguments_are_left_out(bus):
    class Static:
        def __repr__(self):
            return "s3cret"

    weights = np.arange(1000, dtype=np.float32) + 0.123
    static = Static()

    def function(x, static):
        return (x * weights).sum() * 2.0

    stage = jax.jit(function, static_argnums=1).trace(jnp.ones(1000), static)
    program = programs.capture(bus, "f", stage)
    told = "".join(filter(None, map(program.text, ("jaxpr", "stablehlo", "hlo"))))
    assert "s3cret" not in told + json.dumps(program.to_dict()) + json.dumps(bus.latest.note)
    assert len(told) < 10_000
    assert "__elided__" in program.stablehlo
    assert "1.23" not in told.replace("0.123", "1.23").replace("1.000000e+00", "")


# -------------------------------------------------------------------------------- how it is shown


def test_program_is_shown_as_a_table(bus):
    program = programs.capture(bus, "<b>", traced())
    assert repr(program) == "<Program <b>, version 1>"
    lines = str(program).splitlines()
    assert lines[0] == "<b>, version 1"
    assert f"flops                 {program.cost.flops:,}" in lines
    assert "<b>" not in program._repr_html_().replace("&lt;b&gt;", "")
    assert f"<td>{program.cost.flops:,}</td>" in program._repr_html_()
    assert json.loads(json.dumps(program.to_dict()))["name"] == "<b>"


def test_mesh_of_devices_is_captured():
    code = """
        import jax, jax.numpy as jnp
        import mmsb_jax as mmsb
        from jax.sharding import NamedSharding, PartitionSpec as P
        mesh = jax.make_mesh((8,), ("x",))
        x = jax.device_put(jnp.ones((16, 16)), NamedSharding(mesh, P("x")))
        bus = mmsb.open()
        stage = jax.jit(lambda x: (x @ x).sum()).trace(x)
        program = mmsb.programs.capture(bus, "f", stage)
        print(program.summary["devices"], "all-reduce" in program.operations)
        try:
            mmsb.programs.capture(bus, "f", stage, export=True)
        except ValueError as error:
            print("8 devices" in str(error))
    """
    flags = "--xla_force_host_platform_device_count=8"
    assert run_script(code, XLA_FLAGS=flags).split() == ["8", "True", "True"]


def test_settings_of_jax_do_not_matter(bus):
    stage = traced()
    with jax.transfer_guard("disallow"), jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        program = programs.capture(bus, "train", stage)
    assert program.summary["arguments"] == {"float32[16,16]": 3, "float32[8,16]": 1}
