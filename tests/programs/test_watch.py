"""A watched function: it does what the function does, and its records are what happened."""

import copy
import functools
import gc
import threading
import warnings
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax import programs
from mmsb_jax._compile.monitor import heard

X = np.arange(6, dtype=np.float32)


def doubled(**options):
    """A watched function that was not compiled before."""
    return programs.watch(jax.jit(lambda x: 2 * x), **options)


def test_results_and_other_attributes_are_those_of_the_function():
    @programs.watch
    @functools.partial(jax.jit, static_argnames="n")
    def scaled(x, *, n=2):
        """Doc."""
        return n * x

    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Doc."
    assert scaled(X, n=3).tolist() == (3 * X).tolist()
    assert scaled.eval_shape(X).shape == X.shape
    assert "stablehlo" in scaled.lower(X).as_text()
    assert scaled.trace(X).fun_name == "scaled"
    assert jax.vmap(scaled)(X).tolist() == (2 * X).tolist()
    assert jax.grad(scaled)(1.0) == 2.0
    assert jax.jit(scaled)(X).tolist() == (2 * X).tolist()
    assert "scaled" in repr(scaled)
    with pytest.raises(AttributeError, match="nothing_such"):
        scaled.nothing_such


def test_copy_of_a_function_is_the_function():
    function = doubled()
    state = {"apply": function, "w": [1]}
    for copied in (copy.copy(function), copy.deepcopy(state)["apply"]):
        assert copied is function


def test_calls_ahead_of_time_are_no_compilations_of_it():
    function = doubled()
    function.lower(X).compile()
    function.trace(X)
    assert function.compilations == ()
    assert str(function.explain()).endswith("not compiled since it is watched")


def test_compilation_says_times_site_and_stage():
    function = doubled(name="double")
    function(X)
    (found,) = function.compilations
    assert (found.number, found.function, found.what) == (1, "double", "first")
    assert min(found.tracing_ms, found.lowering_ms, found.compiling_ms) > 0
    assert found.ms == found.tracing_ms + found.lowering_ms + found.compiling_ms
    assert found.site.startswith("test_watch.py:")
    assert found.site.endswith(" in test_compilation_says_times_site_and_stage")
    assert found.version is None
    assert found.to_dict()["causes"][0]["kind"] in ("first call", "function object")
    assert len(function.explain()) == 1
    assert function.explain()[0] == found


def test_program_from_the_persistent_cache_is_said_to_be(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    try:
        function = doubled()
        function(X)
        jax.clear_caches()
        function(X)
        assert [each.cache_hit for each in function.compilations] == [False, True]
        assert "(cached)" in str(function.explain())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_table_has_causes_and_advice_in_text_and_html():
    function = doubled(name="double")
    for size in (6, 5, 4):
        function(X[:size])
    text = str(function.explain())
    assert text.splitlines()[0].startswith("double: compiled 3 times, ")
    assert "argument x: shape (6,) -> (5,)" in text
    assert text.count("advice: pad") == 1
    html = function.explain()._repr_html_()
    assert "argument x: shape (5,) -&gt; (4,)" in html
    assert "<ul>" in html
    assert function.explain()[1].what == "traced again"
    assert repr(function.explain()) == text


def test_call_that_compiles_nothing_looks_at_no_argument(monkeypatch):
    function = doubled()
    function(X)
    monkeypatch.setattr(type(function), "_signature", None)
    function(X)
    assert len(function.compilations) == 1


def test_records_are_bounded_and_hold_no_array():
    function = doubled(name="double")
    for size in range(130):
        function(np.zeros(size, np.float32))
    assert len(function.compilations) == 128
    assert function.compilations[-1].number == 130
    assert "130 times; the newest 128 of them" in str(function.explain())
    x = jnp.zeros(131)
    gone = weakref.ref(x)
    function(x)
    del x
    gc.collect()
    assert gone() is None


def test_method_takes_its_object():
    class Model:
        scale = 3.0

        @programs.watch
        @functools.partial(jax.jit, static_argnums=0)
        def apply(self, x):
            return self.scale * x

    model = Model()
    assert model.apply(X).tolist() == (3 * X).tolist()
    model.apply(X[:2])
    assert model.apply.explain()[-1].why == "argument x: shape (6,) -> (2,)"
    Model().apply(X[:2])
    assert "argument self: static value" in Model.apply.compilations[-1].why


def test_donated_arguments_are_named_after_the_call():
    function = programs.watch(jax.jit(lambda state, x: state + x, donate_argnames="state"))
    state = function(jnp.zeros(6), X)
    given = jnp.zeros((6,), jnp.int32) + jnp.ones(6, jnp.int32)
    function(given, X.astype(np.int32))
    assert function.compilations[-1].why == (
        "argument state: dtype float32 -> int32; argument x: dtype float32 -> int32"
    )
    assert function(state, X).shape == (6,)


def test_error_of_the_function_is_its_own_and_no_compilation():
    def wrong(x):
        raise KeyError("mine")

    function = programs.watch(jax.jit(wrong))
    with pytest.raises(KeyError, match="mine"):
        function(X)
    assert function.compilations == ()


def test_compilation_of_a_call_that_fails_afterwards_is_kept():
    def host(x):
        raise RuntimeError("on the host")

    def function(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct((), np.float32), x)

    watched = programs.watch(jax.jit(function), max_compiles=1)
    with pytest.raises(Exception, match="on the host"):
        jax.block_until_ready(watched(np.float32(1)))
    assert len(watched.compilations) == 1


def test_nested_functions_each_have_their_own():
    inner = programs.watch(jax.jit(lambda x: x + 1), name="inner")

    def host(x):
        return np.asarray(inner(np.asarray(x)))

    def around(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * 2

    outer = programs.watch(jax.jit(around), name="outer")
    assert jax.block_until_ready(outer(X)).tolist() == ((X + 1) * 2).tolist()
    for function in outer, inner:
        assert [each.what for each in function.compilations] == ["first"]


def test_what_a_callback_compiles_is_not_the_function_s():
    def host(x):
        def other(x):
            return x + 3

        return np.asarray(jax.jit(other)(np.asarray(x)))

    def around(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x) * 2

    function = programs.watch(jax.jit(around), max_compiles=1)
    for _ in range(2):
        before = heard.count
        assert jax.block_until_ready(function(X)).tolist() == ((X + 3) * 2).tolist()
        assert heard.count > before  # the callback has compiled, in this thread
    assert len(function.compilations) == 1


# ------------------------------------------------------------------------------------ at most


def test_more_compilations_than_allowed_raise_with_the_causes():
    function = doubled(max_compiles=2, name="step")
    function(X)
    function(X[:5])
    with pytest.raises(mmsb.RecompilationError) as raised:
        function(X[:4])
    error = raised.value
    assert (error.name, error.max_compiles, len(error.compilations)) == ("step", 2, 3)
    assert "step was to compile 2 times at most" in str(error)
    assert "argument x: shape (5,) -> (4,)" in str(error)
    assert "advice: pad" in str(error)
    assert isinstance(error, mmsb.MMSBError)
    assert function(X[:4]).tolist() == (2 * X[:4]).tolist()  # it was compiled
    with pytest.raises(mmsb.RecompilationError):
        function(X[:3])


def test_more_compilations_raise_in_the_thread_that_called():
    function = doubled(max_compiles=1)
    function(X)
    raised = []

    def call():
        try:
            function(X[:3])
        except mmsb.RecompilationError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert function(X).shape == X.shape
    assert len(function.compilations) == 2


def test_threads_that_call_at_once_lose_no_compilation():
    function = doubled()
    threads = [
        threading.Thread(target=lambda n=n: function(np.zeros(n, np.float32))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.number for each in function.compilations) == list(range(1, 9))


# ---------------------------------------------------------------------------------- what is kept


class Raising:
    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return self.number

    def __eq__(self, other):
        return self.number == other.number

    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize("show_values", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [("hunter2" * 900, "hunter3" * 900), (Raising(1), Raising(2)), (10**9000, 10**9001)],
    ids=["long", "raising", "large"],
)
def test_static_values_are_shown_safely(before, after, show_values):
    function = programs.watch(jax.jit(lambda x, n: x, static_argnums=1), show_values=show_values)
    function(X, before)
    function(X, after)
    (cause,) = function.compilations[-1].causes
    assert cause.kind == "static value"
    assert max(len(cause.before), len(cause.after)) <= 100
    if not show_values:
        assert "hunter" not in str(function.explain())


@pytest.mark.parametrize("secret", [np.str_("hunter2"), np.bytes_(b"hunter2")])
def test_strings_of_numpy_are_no_numbers(secret):
    function = programs.watch(jax.jit(lambda x, n: x, static_argnums=1))
    function(X, 1)
    function(X, secret)
    assert function.compilations[-1].causes[0].kind == "static value"
    assert "hunter" not in str(function.explain())


def test_short_strings_are_shown_when_asked_for():
    function = programs.watch(jax.jit(lambda x, n: x, static_argnums=1), show_values=True)
    function(X, "train")
    function(X, "eval")
    assert function.compilations[-1].why == "argument n: static value 'train' -> 'eval'"


# ----------------------------------------------------------------------------------------- bus


def test_compilation_is_a_commit_with_its_cause():
    bus = mmsb.open()
    bus.commit({"w": X})
    function = doubled(bus=bus, name="double")
    function(X)
    function(X[:2])
    versions = [each.version for each in function.compilations]
    assert versions == [2, 3]
    commit = list(bus.log(source="compile"))[-1]
    assert commit.version == 3
    assert commit.note["watched"] == "double"
    assert commit.note["why"] == "argument x: shape (6,) -> (2,)"
    assert commit.note["site"].startswith("test_watch.py:")
    program = programs.load(bus, "double")
    assert (program.version, program.summary["arguments"]) == (3, {"float32[2]": 1})
    assert programs.diff(programs.load(bus, "double", 2), program)
    bus.commit({"w": X + 1})  # a tree goes on as it was
    assert bus.version == 4


@pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache")
@pytest.mark.parametrize(
    "name", ["a*b", "a\0b", "", "..", "/", pytest.param("\U0001d518" * 80, id="long")]
)
def test_function_of_any_name_is_recorded(name):
    def function(x):
        return 2 * x

    function.__name__ = name
    bus = mmsb.open()
    watched = programs.watch(jax.jit(function), bus=bus)
    watched(X)
    assert watched.compilations[0].version == 1
    assert programs.names(bus) == (watched.compilations[0].function,)


def test_second_process_counts_on_in_the_same_array(tmp_path):
    for _ in range(2):
        with mmsb.open(tmp_path / "x.mmsb") as bus:
            doubled(bus=bus, name="double")(X)
    with mmsb.open(tmp_path / "x.mmsb", mode="r") as bus:
        assert [commit.note["compilation"] for commit in bus.log(source="compile")] == [1, 1]


def test_bus_that_fails_is_warned_of_once():
    bus = mmsb.open()
    function = doubled(bus=bus, name="double")
    bus.close()
    with pytest.warns(UserWarning, match="double was not recorded in the bus: ClosedError") as seen:
        results = [function(x) for x in (X, X[:2])]
    assert [r.tolist() for r in results] == [(2 * X).tolist(), [0, 2]]
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert ".." not in str(seen[0].message)
    assert [each.version for each in function.compilations] == [None, None]


def test_function_that_compiles_inside_a_batch_goes_on():
    bus = mmsb.open()
    bus.create("x", (6,))
    function = doubled(bus=bus)
    with pytest.warns(UserWarning, match="not recorded"), bus.batch():
        bus.write("x", function(X))
    assert bus.read("x").tolist() == (2 * X).tolist()
    function(X[:2])
    assert function.compilations[-1].version == bus.version


def test_compilation_after_a_version_of_digests_logs_its_bytes_first():
    bus = mmsb.open(save=mmsb.Every(steps=10))
    function = doubled(bus=bus)
    bus.commit({"w": X}, step=0)
    bus.commit({"w": X + 1}, step=1)
    function(X)
    assert [each.version for each in function.compilations] == [4]
    assert bus.tree()["w"].tolist() == (X + 1).tolist()


def test_compilation_after_a_version_of_which_all_is_gone_is_warned_of_and_the_next_recorded():
    bus = mmsb.open(save=mmsb.Every(steps=2))
    function = doubled(bus=bus)
    bus.commit({"w": jnp.asarray(X)}, step=0)
    donated = jnp.asarray(X) + 1
    bus.commit({"w": donated}, step=1)
    donated.delete()
    with pytest.warns(UserWarning, match="not recorded in the bus: .*digest"):
        function(X)
    bus.commit({"w": jnp.asarray(X) + 2}, step=2)
    function(X[:2])
    assert [each.version for each in function.compilations] == [None, 4]


def test_handler_that_compiles_when_it_hears_of_a_compilation_comes_to_an_end():
    bus = mmsb.open()
    function = doubled(bus=bus)
    sizes = iter(range(1, 100))
    with bus.subscribe(["changed", "created"], lambda event: function(jnp.ones(next(sizes)))):
        function(jnp.ones((2, 2)))
    versions = [each.version for each in function.compilations]
    assert versions[0] == 1
    assert set(versions[1:]) == {None}
    assert len(versions) < 20


def test_function_inside_a_derived_one_is_a_part_of_its_wave():
    bus = mmsb.open()
    function = doubled(bus=bus)
    bus.create("x", (6,))
    bus.derive("y", ["x"], lambda x: function(x) + 1)
    bus.write("x", X)
    assert bus.read("y").tolist() == (2 * X + 1).tolist()
    assert function.compilations == ()


# --------------------------------------------------------------------------------- watch_all


def test_all_functions_of_the_thread_are_heard_of():
    x = jnp.zeros(7)

    def first(x):
        return x + 1

    def second(x):
        return x * 2

    with programs.watch_all() as seen:
        jax.jit(first)(x)
        with programs.watch_all() as inside:
            jax.jit(second)(x)
        thread = threading.Thread(target=lambda: jax.jit(lambda x: x * 3)(x))
        thread.start()
        thread.join()
        jax.clear_caches()
        jax.jit(first)(x)
    jax.jit(lambda x: x - 1)(x)
    names = [(each.function, each.number) for each in seen]
    assert names == [("first", 1), ("second", 1), ("first", 2)]
    assert [each.function for each in inside] == ["second"]
    assert seen[0].tracing_ms > 0
    assert seen[0].ms > seen[0].compiling_ms > 0
    assert seen[0].site.startswith("test_watch.py:")
    assert str(seen).startswith("compiled 3 functions, ")
    assert "<td>second</td>" in seen._repr_html_()
    assert str(programs.CompiledFunctions()) == "nothing was compiled"
    assert not heard.handlers


def test_listeners_do_not_pile_up_and_come_back():
    counts = []
    for _ in range(3):
        with programs.watch_all():
            before = heard.count
            jax.monitoring.record_event_duration_secs(
                "/jax/core/compile/backend_compile_duration", 0.0, fun_name="made up"
            )
            counts.append(heard.count - before)
    assert counts == [1, 1, 1]
    jax.monitoring.clear_event_listeners()
    function = doubled()
    function(X)
    assert len(function.compilations) == 1


# ------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"function": lambda x: x}, TypeError, "Call jax.jit first"),
        ({"function": 3}, TypeError, "Call jax.jit first"),
        ({"function": doubled()}, TypeError, "is watched already"),
        ({"max_compiles": 0}, ValueError, "expected 1 or more"),
        ({"max_compiles": -1}, ValueError, "expected 1 or more"),
        ({"max_compiles": "2"}, TypeError, "expected an integer"),
        ({"max_compiles": True}, TypeError, "expected an integer"),
        ({"name": ""}, ValueError, "name=''"),
        ({"name": "a/b"}, ValueError, "without "),
        ({"name": "a*b"}, ValueError, "without "),
        ({"name": ".."}, ValueError, "and not"),
        ({"function": jax.pmap(lambda x: x)}, TypeError, "jax.pmap for one"),
        ({"function": eqx.filter_pmap(lambda x: x)}, TypeError, "jax.pmap for one"),
        ({"name": 3}, TypeError, "expected the name of a program"),
        ({"bus": "log.mmsb"}, TypeError, "expected a Bus"),
        ({"show_values": 1}, TypeError, "expected True or False"),
    ],
)
def test_bad_argument_is_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        programs.watch(**{"function": jax.jit(lambda x: x), **arguments})


def test_bus_that_cannot_commit_is_refused(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        bus.commit({"w": X})
    with pytest.raises(mmsb.ClosedError, match="is closed"):
        doubled(bus=bus)
    with (
        mmsb.open(tmp_path / "x.mmsb", mode="r") as reader,
        pytest.raises(mmsb.ClosedError, match="only reads"),
    ):
        doubled(bus=reader)


def test_fault_of_the_explanation_does_not_reach_the_call(monkeypatch):
    function = doubled(name="double")

    def broken(self, args, kwargs):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(type(function), "_signature", broken)
    with pytest.warns(UserWarning, match="double cannot be explained: ZeroDivisionError"):
        assert function(X).shape == X.shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function(X[:2]).shape == (2,)
    assert [each.why for each in function.compilations] == ["not explained: ZeroDivisionError"] * 2
