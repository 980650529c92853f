"""Entry 10: files that say anything end in an error of the library, or in what was recorded.

Their hashes, chains and digests are mended after each change, so that what is behind those checks
is tried as well. The short form changes by chance; the long one is led by what Atheris sees of the
decoder (`make torture` installs it).
"""

import importlib.util
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture._bundle import STREAM, Bundle, frames_of, pack, unpack
from tests.torture._mutate import mutated, random_mutate
from tests.torture._reading import MACHINE_BYTES, small_machine, try_bundle
from tests.torture._scale import scaled
from tests.torture._seal import seal
from tests.torture._seeds import seeds

ROOT = Path(__file__).parents[2]
INPUTS, PARTS = 320, 4
MOST_BYTES = 10 * MACHINE_BYTES
"""Two states, what they are compared by, and a snapshot: each as large as the machine may hold."""


@pytest.mark.parametrize("bundle", seeds(), ids=lambda bundle: "+".join(bundle)[:20])
def test_seed_taken_apart_and_sealed_again_is_the_same(bundle: Bundle):
    assert unpack(pack(bundle)) == bundle
    parts = {name: frames_of(raw) for name, raw in bundle.items()}
    files = {name: frames for name, (frames, _) in parts.items()}
    seal(files, with_digests=True)
    assert bundle == {
        name: b"".join(frame.encode() for frame in files[name]) + parts[name][1] for name in bundle
    }


def test_seeds_are_read_whole():
    with small_machine():
        for bundle in seeds():
            try_bundle(pack(bundle))
    assert sum(STREAM in bundle for bundle in seeds()) == 3


@pytest.mark.parametrize("part", range(PARTS))
def test_files_that_say_anything_end_in_an_error_or_in_what_was_recorded(part: int):
    pool = [pack(bundle) for bundle in seeds()]
    before, numbers = most_resident_bytes(), range(part, INPUTS, PARTS)
    with small_machine():
        for number in numbers:
            rng = random.Random(number)
            raw = rng.choice(pool)
            for _ in range(rng.randrange(1, 4)):
                raw = mutated(raw, rng, random_mutate(rng), pool)
            try:
                try_bundle(raw)
            except BaseException as error:
                error.add_note(f"input {number}")
                raise
    grown = most_resident_bytes() - before
    print(f"{len(numbers)} inputs, {grown / 1e6:.0f} MB more at most")
    assert grown < MOST_BYTES


def most_resident_bytes() -> int:
    """The most that this process has held in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.long
def test_fuzzer_of_the_decoder_finds_no_other_error(tmp_path: Path):
    """Ten minutes. What it found lies in the folder that the failure names."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("Atheris is not installed: pip install -e '.[fuzz]'")
    corpus, found = tmp_path / "corpus", tmp_path / "found"
    corpus.mkdir()
    found.mkdir()
    seconds = scaled(600, least=20)
    command = [
        *(sys.executable, "-m", "tests.torture._fuzz", str(corpus)),
        *(f"-max_total_time={seconds}", "-max_len=65536", "-timeout=30", "-rss_limit_mb=2048"),
        *(f"-artifact_prefix={found}/", "-print_final_stats=1"),
    ]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
        timeout=seconds + 120,
    )  # fmt: skip
    said = run.stderr
    seen = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
    tried = re.search(r"number_of_executed_units: (\d+)", said)
    assert seen, said[-5_000:]
    edges, features, kept = map(int, seen[-1])
    print(
        f"{int(tried[1]) if tried else 0:,} inputs in {seconds} s: {edges:,} edges and "
        f"{features:,} features of the decoder, {kept} inputs kept"
    )
    saved = list(found.iterdir())
    assert not saved, f"{saved[0]}: python -m tests.torture._fuzz {saved[0]}\n{said[-5_000:]}"
    assert run.returncode == 0, said[-5_000:]
