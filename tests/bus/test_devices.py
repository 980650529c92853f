"""Arrays on many devices and of many processes, in processes that have them."""

import pytest

from tests.bus._script import run_script


@pytest.mark.parametrize("what", ["shards_that_are_gone", "mesh_that_is_gone", "two_processes"])
def test_on_eight_devices(what):
    devices = 4 if what == "two_processes" else 8
    flags = f"--xla_force_host_platform_device_count={devices}"
    assert run_script(f"from tests.bus import _devices; _devices.{what}()", XLA_FLAGS=flags) == ""
