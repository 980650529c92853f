"""Versions for servers: a reader that knows only the published layout has the very bytes."""

import json
import shutil
import threading

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsb_jax as mmsb
from mmsb_jax._bus.weights.directory import WeightDirectory
from tests.bus._pull import Server, folder_of, read_file


def tree_of(rng, changed=0.01, before=None):
    """Weights of several dtypes; of ``before``, some of whose elements are changed."""
    if before is None:
        return {
            "bf16": rng.standard_normal((40, 50)).astype(ml_dtypes.bfloat16),
            "f8": rng.standard_normal(333).astype(ml_dtypes.float8_e4m3fn),
            "frozen": rng.standard_normal(77).astype(np.float32),
            "none": np.zeros((0, 3), np.float32),
            "one": np.asarray(rng.standard_normal(), np.float64),
        }
    tree = {name: array.copy() for name, array in before.items()}
    for name in ("bf16", "f8", "one"):
        flat = tree[name].reshape(-1)
        chosen = rng.random(flat.size) < changed
        flat[chosen] = rng.standard_normal(flat.size).astype(flat.dtype)[chosen]
    tree["bf16"][0, 0] = np.nan
    return tree


def bytes_of(tree):
    return {name: np.asarray(array).tobytes() for name, array in sorted(tree.items())}


def history(tmp_path, count, **options):
    """(bus, publisher, what each number is) of ``count`` pushes."""
    bus = mmsb.open(tmp_path / "run.mmsb")
    publisher = bus.publish(tmp_path / "weights", **options)
    rng, tree, known = np.random.default_rng(0), None, {}
    for _ in range(count):
        tree = tree_of(rng, before=tree)
        bus.commit(tree)
        pushed = publisher.push()
        known[pushed.number] = bytes_of(tree)
    return bus, publisher, known


@pytest.mark.parametrize("encoding", ["xor", "overwrite"])
def test_server_that_follows_has_the_bytes_of_each_version(tmp_path, encoding):
    _, publisher, known = history(tmp_path, 7, encoding=encoding, anchor_every=3)
    server = Server()
    for number, expected in known.items():
        assert server.pull(publisher.path, number).arrays() == expected
        assert Server().pull(publisher.path, number).arrays() == expected  # one that begins there
    full = [json_of(publisher, number).get("delta_encoding") is None for number in known]
    assert full == [True, False, False, True, False, False, True]


def json_of(publisher, number):
    path = folder_of(publisher.path, number) / "model.safetensors.index.json"
    return json.loads(path.read_text())["metadata"]


def test_index_says_where_a_version_is_from(tmp_path):
    bus, publisher, _ = history(tmp_path, 2)
    full, change = json_of(publisher, 1), json_of(publisher, 2)
    own = {"mmsb_log_id", "mmsb_version", "mmsb_chain", "mmsb_digest", "mmsb_weights"}
    own |= {"mmsb_anchor"}
    assert full.keys() == own | {"version", "total_size"}
    assert change == {
        "version": "000002",
        "base_version": "000001",
        "delta_encoding": "xor",
        "compression_format": "zstd",
        "checksum_format": "xxh3-128",
    } | {key: change[key] for key in own}
    assert (change["mmsb_version"], change["mmsb_anchor"]) == (2, 1)
    fork = bus.fork(version=2)
    assert fork.publish(publisher.path).push().number == 2  # it has that version too


def test_commits_go_on_while_a_version_is_written(tmp_path, monkeypatch):
    bus, publisher, known = history(tmp_path, 2)
    put, was = WeightDirectory.put, bus.tree()
    bus.commit(was | {"one": np.asarray(5.0)})

    def late(self, index, files):
        thread = threading.Thread(target=bus.commit, args=(was | {"one": np.asarray(6.0)},))
        thread.start()
        thread.join()  # the bus is not held
        return put(self, index, files)

    monkeypatch.setattr(WeightDirectory, "put", late)
    assert (publisher.push().version, bus.version) == (3, 4)
    expected = known[2] | bytes_of({"one": np.asarray(5.0)})
    assert Server().pull(publisher.path, 3).arrays() == expected


def test_what_did_not_change_is_left_out(tmp_path):
    bus, publisher, known = history(tmp_path, 2)
    folder = folder_of(publisher.path, 2)
    _, tensors = read_file(folder / "model-00001-of-00001.safetensors")
    assert "frozen" not in tensors
    bus.commit({**bus.tree(), "frozen": bus.tree()["frozen"]}, step=5)
    pushed = publisher.push()
    assert [path.suffix for path in pushed.path.iterdir()] == [".json"]
    assert Server().pull(publisher.path, 3).arrays() == known[2]


def test_same_version_again_is_what_is_there(tmp_path):
    bus, publisher, _ = history(tmp_path, 2)
    again = publisher.push()
    assert again == bus.publish(publisher.path).push()
    assert (again.number, again.full) == (2, False)
    assert again.nbytes == sum(path.stat().st_size for path in again.path.iterdir())


def test_version_may_be_an_older_one_and_the_log_may_go_back(tmp_path):
    bus, publisher, known = history(tmp_path, 4)
    server = Server().pull(publisher.path, 4)
    assert publisher.push(2).number == 5
    assert server.pull(publisher.path, 5).arrays() == known[2]
    state, _ = bus.resume(bus.tree(), at=1)
    bus.commit(state | {"one": np.asarray(5.0)})
    pushed = publisher.push()
    assert (pushed.number, pushed.version, pushed.full) == (6, 5, False)
    assert server.pull(publisher.path, 6).arrays() == bytes_of(state | {"one": np.asarray(5.0)})


def test_other_names_shapes_or_dtypes_are_a_full_version(tmp_path):
    bus, publisher, _ = history(tmp_path, 2)
    for tree in ({"a": np.ones(4)}, {"a": np.ones((2, 2))}, {"a": np.ones((2, 2), np.int64)}):
        bus.commit(tree, structure="new")
        pushed = publisher.push()
        assert pushed.full
        assert Server().pull(publisher.path, pushed.number).arrays() == bytes_of(tree)


def test_what_was_published_otherwise_than_now_is_followed_by_a_full_version(tmp_path):
    bus = mmsb.open()
    for value in (0, 1):
        bus.commit({"a": np.full(1000, value), "b": np.full(1000, 7)})
        names = {"a": "x", "b": "y"} if value == 0 else {"a": "y", "b": "x"}
        pushed = bus.publish(tmp_path, rename=names).push()
    assert pushed.full
    expected = bytes_of({"x": np.full(1000, 7), "y": np.full(1000, 1)})
    assert Server().pull(tmp_path, 1).pull(tmp_path, 2).arrays() == expected


def test_change_of_all_is_a_full_version_where_that_is_smaller(tmp_path):
    bus, rng = mmsb.open(), np.random.default_rng(0)
    publisher = bus.publish(tmp_path)
    for _ in range(2):
        bus.commit({"w": rng.integers(0, 256, 10_000, np.uint8)})
        pushed = publisher.push()
    assert pushed.full


def test_server_begins_anew_where_a_version_is_missing(tmp_path):
    bus, publisher, _ = history(tmp_path, 4)
    shutil.rmtree(folder_of(publisher.path, 3))
    with pytest.raises(FileNotFoundError):
        Server().pull(publisher.path, 4)
    tree = bus.tree() | {"one": np.asarray(7.0)}
    bus.commit(tree)
    pushed = publisher.push()
    assert (pushed.number, pushed.full) == (5, True)
    for server in (Server(), Server().pull(publisher.path, 2)):
        assert server.pull(publisher.path, 5).arrays() == bytes_of(tree)


def test_number_is_not_used_twice(tmp_path):
    bus, publisher, known = history(tmp_path, 3)
    server = Server().pull(publisher.path, 3)
    for number in (1, 2, 3):
        shutil.rmtree(folder_of(publisher.path, number))
    pushed = bus.publish(publisher.path).push(2)
    assert (pushed.number, pushed.full) == (4, True)
    assert server.pull(publisher.path, 4).arrays() == known[2]


def test_directory_of_another_log_is_refused(tmp_path):
    _, publisher, _ = history(tmp_path, 2)
    other = mmsb.open()
    other.commit({"w": 1.0})
    with pytest.raises(mmsb.DivergenceError, match="Publish into another directory"):
        other.publish(publisher.path)
    both = other.publish(tmp_path / "empty"), mmsb.open().publish(tmp_path / "empty")
    both[0].push()
    with pytest.raises(mmsb.DivergenceError, match="not in the history"):
        both[1].prune()
    shutil.rmtree(folder_of(tmp_path / "empty", 1))  # the directory is that log's all the same
    with pytest.raises(mmsb.DivergenceError, match="not in the history"):
        mmsb.open().publish(tmp_path / "empty")


def test_fork_is_refused_once_its_parent_went_on(tmp_path):
    bus, publisher, _ = history(tmp_path, 2)
    fork = bus.fork(version=1)
    for one in (bus, fork):
        one.commit(one.tree() | {"one": np.asarray(9.0)}, note=str(one))
    with pytest.raises(mmsb.DivergenceError):
        fork.publish(publisher.path)
    bus.publish(publisher.path).push()


@pytest.mark.parametrize("metadata", [{}, {"version": "000001", "delta_encoding": "xor"}])
def test_directory_of_another_program_is_refused(tmp_path, metadata):
    folder = folder_of(tmp_path, 1)
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata}))
    with pytest.raises(mmsb.DivergenceError, match="was not published from a log"):
        mmsb.open().publish(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[", "null", "{}", '{"metadata": {"mmsb_log_id": 1}}', "\udce9"]
)
def test_index_that_is_damaged_is_refused(tmp_path, text):
    _, publisher, _ = history(tmp_path, 2)
    path = folder_of(publisher.path, 2) / "model.safetensors.index.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises((mmsb.CorruptionError, mmsb.DivergenceError), match="weight_v000002"):
        publisher.push()
    shutil.rmtree(path.parent)  # as the error says
    assert publisher.push().number == 3


def test_log_that_is_opened_again_goes_on(tmp_path):
    bus, publisher, _ = history(tmp_path, 2)
    bus.snapshot()
    bus.close()
    with pytest.raises(mmsb.ClosedError):
        publisher.push()
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        tree = bus.tree() | {"one": np.asarray(3.0)}
        bus.commit(tree)
        pushed = bus.publish(publisher.path).push()
        assert (pushed.number, pushed.full) == (3, False)
    assert Server().pull(publisher.path, 3).arrays() == bytes_of(tree)


def test_what_was_published_may_be_dropped_from_the_log(tmp_path):
    bus, publisher, _ = history(tmp_path, 3)
    for value in (1.0, 2.0, 3.0):
        bus.commit(bus.tree() | {"one": np.asarray(value)})
    bus.compact(keep_since=6)
    with pytest.raises(mmsb.VersionError, match="compacted"):
        bus.checkout(version=3)
    assert not publisher.push(5).full  # it remembers what it published
    bus.commit(bus.tree() | {"one": np.asarray(4.0)})
    bus.compact(keep_since=7)
    other = bus.publish(publisher.path)
    assert other.push().full
    assert Server().pull(publisher.path, 5).arrays() == bytes_of(bus.tree())


def test_version_without_bytes_is_refused_and_passed_over(tmp_path):
    bus = mmsb.open(save=mmsb.Every(steps=10))
    publisher = bus.publish(tmp_path)
    with pytest.raises(mmsb.VersionError, match="no version has bytes"):
        publisher.push()
    for step in range(14):
        bus.commit({"w": np.full(9, step)}, step=step)
    with pytest.raises(mmsb.VersionError, match="the nearest with bytes: 11"):
        publisher.push(bus.latest)
    pushed = publisher.push()
    assert pushed.version == 11
    assert Server().pull(tmp_path, 1).arrays() == bytes_of({"w": np.full(9, 10)})
    assert publisher.push(1).number == 2


def test_reader_publishes_what_is_durable(tmp_path):
    bus, publisher, _ = history(tmp_path, 2)
    bus.commit(bus.tree() | {"one": np.asarray(3.0)})
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
        beside = reader.publish(publisher.path)
        assert beside.push().number == 2
        with pytest.raises(mmsb.VersionError, match="power cut"):
            beside.push(3)
        bus.sync()
        bus.commit(bus.tree(), step=1)
        assert beside.push(3).number == 3
    assert publisher.push(3).number == 3  # which is there


def test_view_for_servers_is_derived_and_renamed(tmp_path):
    bus = mmsb.open()
    bus.commit({"params": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}, "n": 1})
    bus.derive("serve/w", ["params/w"], lambda w: w.T.astype(jnp.bfloat16))
    rename = {"serve/w": "model.layers.0.weight", "params/b": "model.layers.0.bias"}
    publisher = bus.publish(tmp_path, arrays=["serve", "params/b"], rename=rename)
    publisher.push()
    weight, bias = (
        Server().pull(tmp_path, 1).tensors[f"model.layers.0.{n}"] for n in ("weight", "bias")
    )
    assert weight[:2] == ("BF16", (3, 2))
    assert bytes(weight[2]) == np.arange(6).reshape(2, 3).T.astype(ml_dtypes.bfloat16).tobytes()
    assert bias[:2] == ("F32", (3,))
    bus.mode = "deferred"
    bus.commit({"params": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "n": 1})
    with pytest.raises(mmsb.StructureError, match="'serve/w' is stale at version 3"):
        publisher.push()
    bus.propagate()
    assert not publisher.push().full
    with pytest.raises(mmsb.StructureError, match="stale"):
        publisher.push(3)


def test_integers_of_4_bits_go_out_packed(tmp_path):
    bus = mmsb.open()
    q = np.arange(-8, 8).astype(ml_dtypes.int4)
    bus.commit({"q": q})
    with pytest.raises(mmsb.StructureError, match="array 'q' is int4, which safetensors does not"):
        bus.publish(tmp_path).push()

    def packed(q):
        nibbles = q.astype(jnp.int8).view(jnp.uint8) & 15
        return nibbles[::2] | nibbles[1::2] << 4

    bus.derive("packed", ["q"], packed)
    publisher = bus.publish(tmp_path, arrays="packed")
    publisher.push()
    bus.commit({"q": q[::-1].copy()})
    publisher.push()
    raw = np.arange(7, -9, -1).astype(np.int8).view(np.uint8) & 15
    assert Server().pull(tmp_path, 2).arrays() == bytes_of({"packed": raw[::2] | raw[1::2] << 4})


def test_files_that_are_no_weights_go_into_full_versions(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json", "a.safetensors", "model.safetensors.index.json"):
        (base / name).write_text(name)
    (base / "folder").mkdir()
    bus = mmsb.open()
    publisher = bus.publish(tmp_path / "weights", config=base)
    for value in (1.0, 2.0):
        bus.commit({"w": np.full(1000, value)})
        publisher.push()
    server = Server().pull(publisher.path, 2)
    assert server.others == {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    assert server.arrays() == bytes_of({"w": np.full(1000, 2.0)})
    assert len(list(folder_of(publisher.path, 2).iterdir())) == 2
    with pytest.raises(mmsb.LocationError, match="is no directory"):
        bus.publish(tmp_path / "weights", config=tmp_path / "not there")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["commit", "push", "older", "prune", "again", "lose"]), max_size=14),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_every_server_gets_to_the_newest(tmp_path_factory, script, anchor_every, keep):
    path = tmp_path_factory.mktemp("weights")
    bus, rng = mmsb.open(), np.random.default_rng(len(script))
    publisher = bus.publish(path, anchor_every=anchor_every)
    states, servers, known, tree = {}, [Server()], {}, tree_of(rng)
    for word in ["commit", "push", *script, "commit", "push"]:
        if word == "commit":
            tree = tree_of(rng, before=tree)
            states[bus.commit(tree).version] = bytes_of(tree)
        elif word in ("push", "older"):
            pushed = publisher.push(None if word == "push" else rng.choice(list(states)))
            assert (
                known.setdefault(pushed.number, states[pushed.version]) == (states[pushed.version])
            )
            assert Server().pull(path, pushed.number).arrays() == states[pushed.version]
            servers.append(Server().pull(path, pushed.number))
        elif word == "prune":
            publisher.prune(keep)
        elif word == "again":
            publisher = bus.publish(path, anchor_every=anchor_every)
        elif (lost := folder_of(path, max(known))).exists():
            shutil.rmtree(lost)
    for server in servers:
        assert server.pull(path, max(known)).arrays() == known[max(known)]


def test_prune_keeps_what_the_newest_need(tmp_path):
    _, publisher, known = history(tmp_path, 8, anchor_every=3)  # full: 1, 4, 7
    assert publisher.prune(keep=3) == [1, 2, 3]  # 6 is applied to 5, and that to 4
    assert publisher.prune(keep=3) == []
    for number in range(4, 9):
        assert Server().pull(publisher.path, number).arrays() == known[number]
    assert publisher.prune() == [4, 5, 6]
    assert Server().pull(publisher.path, 8).arrays() == known[8]
    with pytest.raises(ValueError, match="keep=0"):
        publisher.prune(0)
