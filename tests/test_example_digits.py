"""The notebook on derived arrays: its cells run, and what it says of its pipeline is so.

The pipeline is that of the notebook. What has to run, and what has to come out, is found here by
other means: from the bytes before and after, and by NumPy and scikit-learn.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import NearestCentroid

import mmsb_jax as mmsb

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "derive.ipynb"
TRAIN, TEST = range(13), range(13, 18)

Arrays = dict[str, np.ndarray]


def pipeline() -> dict[str, tuple[list[str], list[str]]]:
    """What the notebook's text says: function → (arrays that it reads, arrays that it makes)."""
    found = {}
    for i in (*TRAIN, *TEST):
        found[f"normalised/{i}"] = [f"raw/{i}"], [f"normalised/{i}"]
        found[f"features/{i}"] = [f"normalised/{i}"], [f"features/{i}"]
    for i in TRAIN:
        found[f"sums/{i}"] = (
            [f"features/{i}", f"label/{i}"],
            [f"sums/{i}/total", f"sums/{i}/count"],
        )
    sums = [f"sums/{i}/{part}" for i in TRAIN for part in ("total", "count")]
    found["prototypes"] = sums, ["prototypes"]
    for i in TEST:
        found[f"predicted/{i}"] = [f"features/{i}", "prototypes"], [f"predicted/{i}"]
        found[f"table/{i}"] = [f"label/{i}", f"predicted/{i}"], [f"table/{i}"]
    found["confusion"] = [f"table/{i}" for i in TEST], ["confusion"]
    return found


PIPELINE = pipeline()
NAMES = [
    *(f"{part}/{i}" for part in ("raw", "label") for i in (*TRAIN, *TEST)),
    *(name for _, made in PIPELINE.values() for name in made),
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> dict[str, Any]:
    """The names that the notebook's cells leave behind."""
    names: dict[str, Any] = {"__name__": "notebook", "FOLDER": tmp_path_factory.mktemp("notebook")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(names["FOLDER"])
        for cell in json.loads(NOTEBOOK.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    return names


@pytest.fixture(scope="module")
def bus(notebook) -> mmsb.Bus:
    """The pipeline on a bus of its own; the tests change it one after another, in any order."""
    bus = mmsb.open()
    bus.commit({"raw": notebook["raw"], "label": notebook["label"]})
    with bus.batch():
        notebook["derive"](bus)
    return bus


def contents(bus: mmsb.Bus) -> Arrays:
    return {name: np.asarray(bus.read(name)) for name in NAMES}


def runs(bus: mmsb.Bus) -> dict[str, int]:
    return {name: derived.runs for name, derived in bus.derived().items()}


def differing_bytes(before: np.ndarray, after: np.ndarray) -> int:
    old, new = (np.frombuffer(array.tobytes(), np.uint8) for array in (before, after))
    return int((old != new).sum())


def turned(array: np.ndarray) -> np.ndarray:
    """Ten images upside down."""
    array[20:30] = array[20:30, ::-1]
    return array


def brighter(array: np.ndarray) -> np.ndarray:
    """Ten images of another brightness; the same brightness the next time."""
    array[40:50] = array[40:50] * 2 if array[40:50].max() <= 16 else array[40:50] // 2
    return array


def relabelled(array: np.ndarray) -> np.ndarray:
    """Ten labels moved on by one."""
    array[60:70] = (array[60:70] + 1) % 10
    return array


PREDICTED = {f"predicted/{i}" for i in TEST}
EDITS: dict[str, tuple[dict[str, Callable[[np.ndarray], np.ndarray]], set[str]]] = {
    "test images": ({"raw/15": turned}, {"normalised/15", "features/15", "predicted/15"}),
    "training images": (
        {"raw/3": turned},
        {"normalised/3", "features/3", "sums/3", "prototypes", *PREDICTED},
    ),
    "images of three arrays": (
        {"raw/2": turned, "raw/9": turned, "raw/16": turned},
        {f"{part}/{i}" for i in (2, 9, 16) for part in ("normalised", "features")}
        | {"sums/2", "sums/9", "prototypes", *PREDICTED},
    ),
    "brightness": ({"raw/14": brighter, "raw/5": brighter}, {"normalised/14", "normalised/5"}),
    "labels of test images": ({"label/13": relabelled}, {"table/13", "confusion"}),
    "labels of training images": ({"label/4": relabelled}, {"sums/4", "prototypes", *PREDICTED}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edit_of_ten_runs_what_follows_from_changed_bytes_once(edit: str, bus: mmsb.Bus):
    changes, reached = EDITS[edit]
    before, counts = contents(bus), runs(bus)
    with bus.batch():
        for name, change in changes.items():
            bus.write(name, change(before[name].copy()))
    (commit,) = bus.log(since=bus.version)
    after = contents(bus)

    differing = {name: differing_bytes(before[name], after[name]) for name in NAMES}
    changed = {name for name, count in differing.items() if count}
    due = {name for name, (reads, _) in PIPELINE.items() if changed.intersection(reads)}
    assert reached <= due < PIPELINE.keys()
    assert {name: count - counts[name] for name, count in runs(bus).items()} == {
        name: int(name in due) for name in PIPELINE
    }
    assert commit.changed == tuple(sorted(changed))
    assert commit.changed_bytes == sum(differing.values())
    (first,) = bus.log(since=2, until=2)
    assert commit.logged_bytes < first.logged_bytes / 10


def test_edit_that_the_normalisation_undoes_reaches_nothing_else(bus: mmsb.Bus):
    counts = runs(bus)
    commit = bus.write("raw/17", brighter(np.array(bus.read("raw/17"))))
    assert commit is not None
    assert commit.changed == ("raw/17",)
    assert [name for name, count in runs(bus).items() if count > counts[name]] == ["normalised/17"]


@pytest.mark.parametrize("values", ["written back", "the same"])
def test_edit_without_a_changed_byte_runs_nothing(values: str, bus: mmsb.Bus):
    counts, value = runs(bus), np.array(bus.read("raw/7"))
    with bus.batch():
        if values == "written back":
            bus.write("raw/7", turned(value.copy()))
        bus.write("raw/7", value)
    (commit,) = bus.log(since=bus.version)
    assert (commit.changed, commit.changed_bytes) == ((), 0)
    assert runs(bus) == counts


def test_pipeline_after_edits_has_the_bytes_of_one_made_anew(notebook, bus: mmsb.Bus):
    for name in ("raw/1", "raw/12", "raw/13"):
        bus.write(name, turned(np.array(bus.read(name))))
    with mmsb.open() as fresh:
        fresh.commit(bus.tree())
        with fresh.batch():
            notebook["derive"](fresh)
        found, expected = contents(bus), contents(fresh)
        assert set(runs(fresh).values()) == {1}
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    assert bus.verify()


def test_pipeline_after_edits_agrees_with_scikit_learn(bus: mmsb.Bus):
    bus.write("raw/6", turned(np.array(bus.read("raw/6"))))
    found = contents(bus)
    raw, label = (
        np.concatenate([found[f"{part}/{i}"] for i in (*TRAIN, *TEST)]) for part in ("raw", "label")
    )
    x = raw / raw.max(axis=(1, 2), keepdims=True)
    down, right = np.abs(x[:, 1:] - x[:, :-1]), np.abs(x[:, :, 1:] - x[:, :, :-1])
    x = np.hstack([part.reshape(len(raw), -1) for part in (x, down, right)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # corners are black in every image of a class
        model = NearestCentroid().fit(x[:1300], label[:1300])
    np.testing.assert_allclose(found["prototypes"], model.centroids_, rtol=1e-5, atol=1e-6)
    predicted = np.concatenate([found[f"predicted/{i}"] for i in TEST])
    np.testing.assert_array_equal(predicted, model.predict(x[1300:]))
    counted = confusion_matrix(label[1300:], predicted)
    np.testing.assert_array_equal(found["confusion"], counted)


def test_pipeline_of_a_reopened_log_is_attached_and_runs_nothing(notebook, tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"raw": notebook["raw"], "label": notebook["label"]})
        with bus.batch():
            notebook["derive"](bus)
        version, expected = bus.version, contents(bus)
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert not any(derived.is_attached for derived in bus.derived().values())
        notebook["derive"](bus)
        assert all(derived.is_attached for derived in bus.derived().values())
        assert set(runs(bus).values()) == {0}
        assert bus.version == version
        assert all((array == expected[name]).all() for name, array in contents(bus).items())


def test_dashboard_is_computed_when_it_is_read_and_not_before(notebook):
    params = {
        "hidden": notebook["layer"](jax.random.key(0), 64, 32),
        "out": notebook["layer"](jax.random.key(1), 32, 10),
    }
    state = {"params": params, "opt": notebook["optimizer"].init(params)}
    with mmsb.open() as bus:
        bus.commit(state)
        bus.derive("norm", ["params/**"], notebook["norm"], when="read")
        changed = []
        for reading in range(3):
            for _ in range(10):
                state, _ = notebook["step"](state, notebook["x"][:64], notebook["y"][:64])
                changed.append(bus.commit(state, wait=False).result().changed)
            assert bus.derived()["norm"].is_stale
            assert bus.derived()["norm"].runs == reading
            for layer, part in (("out", "bias"), ("hidden", "weight"), ("out", "weight")):
                found = bus.read(f"norm/{layer}/{part}")
                expected = np.linalg.norm(np.asarray(state["params"][layer][part]))
                np.testing.assert_allclose(found, expected, rtol=1e-5)
            assert not bus.derived()["norm"].is_stale
            assert bus.derived()["norm"].runs == reading + 1
        assert not [name for names in changed for name in names if name.startswith("norm/")]
        assert len(list(bus.log(array="norm/out/weight"))) == 3


def test_logs_of_the_notebook_hold_what_it_says(notebook):
    with mmsb.open(notebook["FOLDER"] / "training.mmsb", mode="r") as run:
        read = [commit.version for commit in run.log(array="norm/out/weight")]
        # One commit at step 0, one for the rule, one a step, and one a reading.
        assert read == [2 + 50 * k + k for k in (1, 2, 3, 4)]
        assert run.version == 2 + 200 + 4
        assert run.verify()
    with mmsb.open(notebook["FOLDER"] / "digits.mmsb", mode="r") as bus:
        first, *_, last = bus.history("confusion")
        assert first.value.sum() == last.value.sum() == 497
        assert np.trace(first.value) > 0.85 * 497
        assert bus.verify()
