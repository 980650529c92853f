"""What a bus says of the programs that it has compiled: which, why, and for how long."""

import json

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb


def why_of(programs):
    return [each.why for each in programs]


def test_new_bus_has_compiled_nothing():
    stats = mmsb.open().stats()
    assert (len(stats.programs), stats.programs.total) == (0, 0)
    assert str(stats.programs) == "0"
    assert stats.to_dict()["wave_programs"] == []


def commit_copies(bus, tree, **options):
    """Commit a tree of new arrays, so that none is known to be the same."""
    bus.commit(jax.tree_util.tree_map(jnp.array, tree), **options)
    bus.sync()


def test_copies_say_which_leaves_they_are_for():
    bus = mmsb.open()
    tree = {"a": jnp.zeros((3, 5)), "b": jnp.zeros(7, jnp.int32)}
    commit_copies(bus, tree)  # of a new structure: it waits
    commit_copies(bus, tree, wait=False)
    tree["b"] = jnp.zeros(11, jnp.int32)
    commit_copies(bus, tree, structure="new")
    commit_copies(bus, tree, wait=False)
    made = bus.stats().programs
    assert made.total == len(made) == 2
    assert why_of(made) == [
        "the first commit that does not wait",
        "leaves of another shape, dtype or place: int32[11]",
    ]
    assert made[0].name == "a copy of 1 float32[3,5], 1 int32[7]"
    assert all(each.ms > 0 for each in made)


def test_another_choice_of_leaves_is_named():
    bus = mmsb.open()
    a, b = jnp.zeros((3, 5)), jnp.zeros(7, jnp.int32)
    bus.commit({"a": a, "b": b})
    commit_copies(bus, {"a": a, "b": b}, wait=False)
    bus.commit({"a": a, "b": b})
    bus.commit({"a": a + 1, "b": b}, wait=False)  # the same array is left out
    bus.sync()
    assert why_of(bus.stats().programs)[1:] == ["another choice of leaves changed"]


def test_wave_says_why_it_was_compiled():
    bus = mmsb.open()
    bus.create("x", (4,))
    bus.derive("twice", ["x"], lambda x: x * 2.25)
    bus.write("x", np.ones(4, np.float32))
    bus.derive("root", ["x"], lambda x: jnp.sqrt(x) + 0.125)
    bus.write("x", np.full(4, 4, np.float32))
    made = bus.stats().wave_programs
    assert why_of(made)[0] == "the first wave of small functions"
    assert any("functions that no program has: root" in why for why in why_of(made))
    assert made[0].ms > 0
    total = sum(each.ms for each in made)
    assert str(made) == f"{len(made)}, {total:,.1f} ms"


def test_large_function_says_what_of_its_inputs_changed():
    bus = mmsb.open()
    bus.create("x", (6000,))
    bus.derive("sum", ["x"], lambda x: jnp.cumsum(x) * 1.5)
    bus.write("x", np.ones(6000, np.float32))
    bus.resize("x", (7000,))
    made = [each for each in bus.stats().wave_programs if each.name == "sum"]
    assert why_of(made) == [
        "its first run: it is large or may fail, and runs by itself",
        "other inputs: x float32[6000] (jax) -> float32[7000] (jax)",
    ]
    assert all(each.ms > 0 for each in made)


def test_pages_of_a_large_array_say_how_many():
    bus = mmsb.open()
    bus.create("x", (40_000,))
    bus.derive("y", ["x"], lambda x: x * 3.5, pagewise=True)
    value = np.ones(40_000, np.float32)
    bus.write("x", value)
    value[0] = 2
    bus.write("x", value)
    made = [each for each in bus.stats().wave_programs if each.name == "y"]
    assert [each.why.split(" ", 1)[1] for each in made] == [
        "of its pages at once: no program for so many yet"
    ] * len(made)
    assert len(made) == 2


def test_program_that_another_bus_compiled_takes_no_time():
    def add(x):
        return x + 0.375

    times = []
    for _ in range(2):
        bus = mmsb.open()
        bus.create("x", (4,))
        bus.derive("y", ["x"], add)
        bus.write("x", np.ones(4, np.float32))
        times.append(bus.stats().wave_programs[0].ms)
    assert times[0] > 0
    assert times[1] == 0


def test_newest_programs_are_kept_and_all_are_counted():
    from mmsb_jax._compile.made import CompileTime, ProgramLog

    log = ProgramLog()
    for number in range(70):
        log.add(f"p{number}", "why", CompileTime(1.0))
    made = log.programs()
    assert (len(made), made.total) == (64, 70)
    assert made[-1].name == "p69"
    assert str(made).startswith("70, ")


def test_table_stays_readable_and_dict_is_json():
    bus = mmsb.open()
    bus.commit({"a": jnp.zeros(3)})
    commit_copies(bus, {"a": jnp.zeros(3)}, wait=False)
    stats = bus.stats()
    (line,) = [line for line in str(stats).splitlines() if line.startswith("programs")]
    assert len(line) < 60
    assert json.loads(json.dumps(stats.to_dict()))["programs"][0]["why"] == stats.programs[0].why
    assert "<td>programs</td>" in stats._repr_html_()
