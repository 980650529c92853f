"""Derived arrays in time and elsewhere: reopened, forked, read beside the writer, checked out."""

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.graph._graphs import F, head, insides, raw, runs, stale


def double(x: Any) -> Any:
    return x * 2


def plus(x: Any, y: Any) -> Any:
    return x + y


def negative(x: Any) -> Any:
    return -x


RULES = {"c": (["a"], double), "d": (["c", "b"], plus), "lazy": (["d"], negative)}


def derive(bus: mmsb.Bus, *names: str) -> list[Any]:
    return [
        bus.derive(n, *RULES[n], when="read" if n == "lazy" else "commit") for n in names or RULES
    ]


@pytest.fixture
def path(tmp_path) -> Path:
    """The log of a bus with a graph, closed."""
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        for name in ("a", "b"):
            bus.create(name, (2,))
        with bus.batch():
            bus.write("a", F(1, 2))
            bus.write("b", F(10, 20))
            derive(bus)
        bus.write("a", F(3, 4))  # version 2
        bus.read("lazy")  # version 3
        bus.write("b", F(0, 0))  # version 4: lazy is stale
    return tmp_path / "run.mmsb"


def test_reopened_graph_is_there_without_functions(path):
    with mmsb.open(path) as bus:
        found = bus.derived()
        assert {n: d.is_attached for n, d in found.items()} == dict.fromkeys(RULES, False)
        assert found["d"].inputs == ("c", "b")
        assert found["d"].function.endswith("test_derive_reopen.plus")
        assert (found["lazy"].when, found["lazy"].is_stale) == ("read", True)
        np.testing.assert_array_equal(bus.read("d"), F(6, 8))
        with pytest.warns(UserWarning, match=r"derived 'lazy'.*is stale.*attach.*lazy"):
            np.testing.assert_array_equal(bus.read("lazy"), F(-16, -28))
        assert bus.verify()


def test_commit_without_functions_marks_and_keeps_the_last_bytes(path):
    with mmsb.open(path) as bus:
        assert bus.write("a", F(9, 9)).changed == ("a",)
        assert insides(bus).stale == {"c": "dirty", "d": "pending", "lazy": "dirty"}
        assert bus.propagate() is None
        with pytest.warns(UserWarning, match="stale"):
            np.testing.assert_array_equal(bus.read("c"), F(6, 8))
    with mmsb.open(path) as bus:  # the marks are in the log
        assert stale(bus) == {"c", "d", "lazy"}
        assert bus.verify()


def test_attaching_what_is_right_commits_and_runs_nothing(path):
    with mmsb.open(path) as bus:
        version = bus.version
        assert derive(bus) == [None, None, None]
        assert bus.version == version
        assert runs(bus) == {"c": 0, "d": 0, "lazy": 0}
        assert stale(bus) == {"lazy"}
        np.testing.assert_array_equal(bus.read("lazy"), F(-6, -8))
        assert bus.write("a", F(1, 1)).changed == ("a", "c", "d")


def test_attaching_what_is_stale_computes_it_once_its_parents_are_there(path):
    with mmsb.open(path) as bus:
        bus.write("a", F(9, 9))
        assert derive(bus, "d") == [None]  # c cannot be computed yet
        assert stale(bus) == {"c", "d", "lazy"}
        [commit] = derive(bus, "c")
        assert commit.changed == ("c", "d")
        assert stale(bus) == {"lazy"}
        derive(bus, "lazy")
        np.testing.assert_array_equal(bus.read("lazy"), F(-18, -18))


def test_attaching_in_a_batch_computes_all_that_is_stale_in_one_commit(path):
    with mmsb.open(path) as bus:
        bus.write("a", F(9, 9))
        version = bus.version
        with bus.batch():
            derive(bus)
        assert bus.version == version + 1
        assert stale(bus) == {"lazy"}
        np.testing.assert_array_equal(bus.read("d"), F(18, 18))


def test_attaching_another_function_of_the_same_name_computes_anew(path):
    def other(x: Any) -> Any:
        return x * 3

    other.__qualname__, other.__module__ = double.__qualname__, double.__module__
    with mmsb.open(path) as bus:
        commit = bus.derive("c", ["a"], other)
        assert commit.changed == ("c",)
        np.testing.assert_array_equal(bus.read("c"), F(9, 12))
        assert stale(bus) == {"d", "lazy"}
        derive(bus, "d", "lazy")
        np.testing.assert_array_equal(bus.read("d"), F(9, 12))


def test_edge_that_is_cut_while_functions_are_away_is_noticed(path):
    with mmsb.open(path) as bus:
        bus.create("w/0", (2,))
        bus.write("w/0", F(1, 1))
        bus.derive("sum", ["w/*"], lambda w: sum(x.sum() for x in w.values()))
        bus.clone("w/0", "w/1")
        assert float(bus.read("sum")) == 4
    with mmsb.open(path) as bus:
        bus.delete("w/1")
        assert "sum" in stale(bus)
        bus.clone("w/0", "w/2")
        bus.clone("w/0", "w/3")
        commit = bus.derive("sum", ["w/*"], lambda w: sum(x.sum() for x in w.values()))
        assert commit.changed == ("sum",)
        assert float(bus.read("sum")) == 6


def test_resize_while_functions_are_away_is_noticed(path):
    with mmsb.open(path) as bus:
        bus.resize("a", (1,))
        assert "c" in stale(bus)
        bus.resize("b", (1,))
        assert derive(bus)[0] is not None
        np.testing.assert_array_equal(bus.read("d"), F(6))
        np.testing.assert_array_equal(bus.read("lazy"), F(-6))
        assert bus.verify(derive=True)


def test_functions_are_recognised_in_another_process(tmp_path):
    code = """
        import sys, numpy as np, jax, jax.numpy as jnp, mmsb_jax as mmsb
        def layer(p, x, k):
            h = jax.nn.gelu(x @ p["w"] + 1.5) + jax.random.normal(k, (3,))
            return {"h": h, "n": jax.lax.scan(lambda c, y: (c + y * 2, c), 0.0, h)[0]}
        table = jnp.arange(3.0)
        with mmsb.open(sys.argv[1]) as bus:
            tree = {"p": {"w": np.ones((4, 3), np.float32)}, "x": np.ones(4, np.float32),
                    "k": jax.random.key(0), "s": 1}
            bus.commit(tree)
            version = bus.version
            commits = [bus.derive("layer", ["p", "x", "k"], layer),
                       bus.derive("more", ["layer/h"], lambda h: h * table, equal="never"),
                       bus.derive("paged", ["x"], lambda x: jnp.tanh(x) * 3, pagewise=True)]
            print(bus.version - version, [c is None for c in commits])
    """
    said = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run.mmsb")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["3 [False, False, False]", "0 [True, True, True]"]


def test_fork_of_the_newest_version_computes_as_its_origin(path):
    with mmsb.open(path) as bus:
        derive(bus)
        with bus.fork() as fork:
            assert {n: d.is_attached for n, d in fork.derived().items()} == dict.fromkeys(
                RULES, True
            )
            assert stale(fork) == {"lazy"}
            assert fork.write("a", F(7, 7)).changed == ("a", "c", "d")
            np.testing.assert_array_equal(fork.read("lazy"), F(-14, -14))
            assert fork.verify(derive=True)
        np.testing.assert_array_equal(bus.read("c"), F(6, 8))


@pytest.mark.parametrize("on_disk", [False, True])
def test_fork_at_an_older_version_has_the_graph_and_marks_of_then(path, tmp_path, on_disk):
    with mmsb.open(path) as bus:
        derive(bus)
        bus.derive("c", ["b"], double)  # version 5 and on: another graph
        bus.derive("later", ["c"], double)
        with bus.fork(tmp_path / "fork.mmsb" if on_disk else None, version=3) as fork:
            found = fork.derived()
            assert set(found) == set(RULES)
            assert found["c"].inputs == ("a",)
            assert not found["c"].is_attached  # its function does something else now
            assert found["d"].is_attached
            assert stale(fork) == set()
            assert derive(fork, "c") == [None]
            assert fork.write("a", F(5, 5)).changed == ("a", "c", "d")
            np.testing.assert_array_equal(fork.read("lazy"), F(-20, -30))
            assert fork.verify(derive=True)
        assert bus.derived()["c"].inputs == ("b",)


def test_fork_keeps_functions_of_parts_of_a_tree():
    with mmsb.open() as bus:
        bus.commit({"params": {"w": F(1, 2), "b": F(3)}})
        bus.derive("sum", ["params"], lambda p: p["w"].sum() + p["b"].sum())
        with bus.fork() as fork:
            assert fork.derived()["sum"].is_attached
            fork.create("x", (2,))
            assert fork.write("x", F(1, 1)).changed == ("x",)
            assert fork.write("params/w", F(5, 5)).changed == ("params/w", "sum")
            assert float(fork.read("sum")) == 13
            fork.commit({"params": {"w": F(6, 6), "b": F(3)}})
            assert float(fork.read("sum")) == 15


def test_every_version_gives_back_its_derived_bytes(path):
    with mmsb.open(path) as bus:
        derive(bus)
        bus.snapshot()
        for i in range(5):
            bus.write("a", F(i, -i))
            bus.read("lazy")
        known = {3: (F(6, 8), F(-16, -28)), 4: (F(6, 8), F(-16, -28)), bus.version: (F(8, -8),)}
        for version, (c, *lazy) in known.items():
            found = bus.checkout(version=version, arrays=["**"])
            np.testing.assert_array_equal(found["c"], c)
            for value in lazy:
                np.testing.assert_array_equal(found["lazy"], value)
        history = [raw(entry.value) for entry in bus.history("d")]
        assert history[:3] == [raw(F(12, 24)), raw(F(16, 28)), raw(F(6, 8))]
        assert bus.diff(3, 4).arrays[0].name == "b"
        report = bus.verify(derive=True)
        assert report
        before = head(bus)
    with mmsb.open(path) as bus:
        assert head(bus) == before
        assert bus.verify()


def test_reader_sees_derived_arrays_and_warns_of_stale_ones(path):
    with mmsb.open(path, mode="r") as reader:
        assert set(reader.derived()) == set(RULES)
        assert not any(derived.is_attached for derived in reader.derived().values())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(reader.read("d"), F(6, 8))
        with pytest.warns(UserWarning, match=r"'lazy'.*stale.*reader"):
            np.testing.assert_array_equal(reader.read("lazy"), F(-16, -28))
        assert ("c", "d", "data") in set(reader.graph.edges())
        with pytest.raises(mmsb.ClosedError):
            reader.write("a", F(0, 0))


def test_reader_computes_what_is_derived_on_it_and_logs_nothing(path):
    with mmsb.open(path) as bus, mmsb.open(path, mode="r") as reader:
        derive(bus)
        assert reader.derive("mine", ["d", "a"], plus) is None
        assert reader.derive("more", ["mine"], lambda m: {"x": m, "y": m.sum()}) is None
        np.testing.assert_array_equal(reader.read("mine"), F(9, 12))
        assert float(reader.read("more/y")) == 21
        version = bus.version
        bus.write("a", F(1, 1))
        np.testing.assert_array_equal(reader.read("mine"), F(3, 3))
        assert float(reader.read("more/y")) == 6
        assert bus.version == version + 1
        assert set(bus.derived()) == set(RULES)
        assert {("mine", "more/x", "data"), ("a", "c", "data")} <= set(reader.graph.edges())
        reader.derive("lazy", ["d"], negative)  # one of the log's, which is stale there
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(reader.read("lazy"), F(-2, -2))


def test_reader_derives_names_again_in_any_order(path):
    with mmsb.open(path, mode="r") as reader:
        reader.derive("x", ["a"], double)
        reader.derive("y", ["x"], double)
        reader.derive("z", ["b"], lambda b: b + 1)
        reader.derive("x", ["z"], double)  # now it reads what was derived after it
        np.testing.assert_array_equal(reader.read("y"), F(4, 4))
        with pytest.raises(mmsb.GraphCycleError):
            reader.derive("z", ["y"], double)
        np.testing.assert_array_equal(reader.read("y"), F(4, 4))


def test_reader_refuses_what_a_writer_refuses(path):
    with mmsb.open(path, mode="r") as reader:
        with pytest.raises(mmsb.StructureError, match=r"'a'.*written"):
            reader.derive("a", ["b"], double)
        with pytest.raises(mmsb.ArrayNotFoundError, match="'nothing'"):
            reader.derive("x", ["nothing"], double)
        with pytest.raises(mmsb.RecomputeError, match="derived 'x'"):
            reader.derive("x", ["a"], lambda a: 1 / 0)
        assert set(reader.derived()) == set(RULES)
        with pytest.raises(mmsb.ArrayNotFoundError):
            reader.read("x")


def test_reader_value_is_not_equal_to_what_was_never_there(path):
    with mmsb.open(path, mode="r") as reader:
        reader.derive("x", ["c"], lambda c: c / 100, equal=lambda old, new: jnp.all(new < 1))
        np.testing.assert_array_equal(reader.read("x"), F(6, 8) / np.float32(100))


def test_killed_writer_leaves_marks_that_the_next_one_finds(path):
    code = """
        import os, sys, numpy as np, mmsb_jax as mmsb
        bus = mmsb.open(sys.argv[1])
        bus.write("a", np.array([5, 5], np.float32))
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=True)
    with mmsb.open(path) as bus:
        assert stale(bus) == {"c", "d", "lazy"}
        with bus.batch():
            derive(bus)
        np.testing.assert_array_equal(bus.read("d"), F(10, 10))


def test_key_that_is_derived_comes_back_as_a_key(path):
    with mmsb.open(path) as bus:
        bus.commit({"key": jax.random.key(0)})
        bus.derive("next", ["key"], lambda key: jax.random.split(key))
        wanted = raw(jax.random.split(jax.random.key(0)))
        assert raw(bus.read("next")) == wanted
    with mmsb.open(path, mode="r") as reader:
        assert raw(reader.read("next")) == wanted
        assert jnp.issubdtype(reader.read("next").dtype, jax.dtypes.prng_key)


def test_bus_compiles_nothing_that_another_bus_has_compiled(compilations):
    offset = np.arange(3, dtype=np.float32)

    def derive_all(bus, offset):
        bus.create("x", (3,))
        bus.create("large", (40_000,))
        bus.derive("small", ["x"], lambda x: x * 3.5 + offset)
        bus.derive("total", ["large"], lambda large: large.sum() * 3.5)
        bus.derive("paged", ["large"], lambda large: large * 3.5, pagewise=True)
        bus.write("x", np.ones(3, np.float32))
        bus.write("large", np.ones(40_000, np.float32))
        return [np.asarray(bus.read(name)) for name in ("small", "total", "paged")]

    with mmsb.open() as first:
        derive_all(first, offset)
    compilations.clear()
    with mmsb.open() as second:
        small, total, paged = derive_all(second, offset + 1)
    assert compilations == []
    assert small.tolist() == [4.5, 5.5, 6.5]
    assert total == 140_000
    assert (paged == 3.5).all()
