"""Names that could not be read back: refused by whatever way they come, with the log whole."""

import jax.numpy as jnp
import pytest

import mmsb_jax as mmsb

LONG = "n" * 32_768
DEEP = ("k" * 20_000, "l" * 20_000)
NAMES = {"long": LONG, "empty": "", "NUL": "\0", "None": None, "half a character": "caf\udce9"}


def check_whole(bus: mmsb.Bus, path) -> None:
    assert bus.commit({"w": jnp.full(2, 7.0)}).version == bus.version
    assert bus.verify()
    bus.close()
    with mmsb.open(path) as again:
        assert again.verify()
        assert again.checkout()["w"].tolist() == [7.0, 7.0]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_clone_to_a_name_that_cannot_be_read_back_is_refused(tmp_path, name):
    bus = mmsb.open(tmp_path / "x.mmsb")
    bus.commit({"w": jnp.ones(2)})
    with pytest.raises(mmsb.StructureError, match=r"name"):
        bus.clone("w", name)
    check_whole(bus, tmp_path / "x.mmsb")


@pytest.mark.parametrize(
    "results",
    [lambda w: {LONG: w}, lambda w: {DEEP[0]: {DEEP[1]: w}}, lambda w: {"caf\udce9": w}],
    ids=["key", "keys together", "half a character"],
)
def test_results_whose_names_cannot_be_read_back_are_refused(tmp_path, results):
    bus = mmsb.open(tmp_path / "x.mmsb")
    bus.commit({"w": jnp.ones(2)})
    with pytest.raises(mmsb.StructureError, match="makes an array 'd/"):
        bus.derive("d", ["w"], results)
    check_whole(bus, tmp_path / "x.mmsb")
