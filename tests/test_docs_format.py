"""docs/format.md is true: its tables are the code's, and a reader written from it alone reads logs.

The reader is `tools.format_reader`, which shares no code with the library. It is held against a
model of what was written (`tests.store._logs.Scribe`), and so is the library.
"""

import ast
import doctest
import json
import re
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._base import strict_json, texts
from mmsb_jax._core.tree import statics
from mmsb_jax._store.commit import tally
from mmsb_jax._store.encoding import base, choose, digest, group
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format import chain as _chain
from mmsb_jax._store.format import chunk as _chunk
from mmsb_jax._store.format import data as _frames
from mmsb_jax._store.format import frame, index, tags
from mmsb_jax._store.format import manifest as _manifest
from mmsb_jax._store.format import record as _record
from mmsb_jax._store.format.chunk import Coding
from mmsb_jax._store.log import archive, contents, in_force
from mmsb_jax._store.log import segment as _segment
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.transfer import stream
from tests.golden.compare import check_library, check_reader, codings
from tests.golden.make import describe, fork, reopen, write_story
from tests.store._logs import Scribe
from tools import format_reader as reader

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "format.md").read_text()
GOLDEN = Path(__file__).parent / "golden"

Row = dict[str, str]


def tables() -> dict[str, list[Row]]:
    """The tables of the page that have a heading of their own: heading → rows by column."""
    found = {}
    for heading, body in re.findall(r"^### Table: (.+)\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        columns, _, *rows = (
            [cell.strip() for cell in line.split("|")[1:-1]] for line in body.split("\n")[:-1]
        )
        found[heading] = [dict(zip(columns, row, strict=True)) for row in rows]
    return found


TABLES = tables()
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8}

STRUCTS = {
    "frame header": (frame._HEADER.format + frame._HEADER_HASH.format[1:], reader.HEADER),
    "manifest": (_manifest._FIXED.format, reader.MANIFEST),
    "ancestor": (_chain._ANCESTOR.format, reader.ANCESTOR),
    "compaction": (_manifest._COMPACTION.format, reader.COMPACTION),
    "archive entry": (_manifest._ARCHIVE.format, reader.ARCHIVE_ENTRY),
    "archived block": (archive._BLOCK.format, reader.BLOCK),
    "archived commit": (archive._ENTRY.format, reader.ARCHIVED),
    "archive": (archive._INDEX.format, reader.ARCHIVE),
    "segment": (_segment._META.format, reader.SEGMENT),
    "commit": (_record._FIXED.format, reader.COMMIT),
    "operation": (_record._OP.format, reader.OPERATION),
    "record": ("<QQIIQII", reader.RECORD),
    "chunk": (_chunk._CHUNK.format, reader.CHUNK),
    "digest": ("<QIIQ", reader.DIGEST),
    "index": (index._HEAD.format, reader.INDEX),
    "stream": (stream._HEAD.format, reader.STREAM),
}

CONSTANTS: dict[str, dict[str, Any]] = {
    "kinds": dict(frame.Kind.__members__),
    "operation codes": dict(_record.OpCode.__members__),
    "codings": dict(Coding.__members__),
    "commit flags": {
        "HAS_STEP": _record.HAS_STEP,
        "DIGEST_ONLY": _record.DIGEST_ONLY,
        "EXTRA_IS_JSON": _record.EXTRA_IS_JSON,
        "VALUES_REPLACE": _record.VALUES_REPLACE,
        "STRUCTURE_CHANGED": _record.STRUCTURE_CHANGED,
        "DIGESTS": _record.DIGESTS,
    },
    "record flags": {
        "FULL": _record.FULL,
        "PAGE_VERSIONS": _record.PAGE_VERSIONS,
        "ASIDE": _record.ASIDE,
    },
    "index flags": {
        "HAS_STEP": index._HAS_STEP,
        "HAS_OPERATIONS": index._HAS_OPS,
        "SAYS_EXTRA": index._SAYS_EXTRA,
        "KNOWS_EXTRA": index._KNOWS_EXTRA,
        "UNSAVED": index._IS_UNSAVED,
    },
    "the writer's constants": {
        "inline_bytes": _frames.INLINE_BYTES,
        "chunk_bytes": _chunk.CHUNK_BYTES,
        "sparse_items": _chunk.SPARSE_ITEMS,
        "sparse_span_bytes": _chunk.SPARSE_SPAN_BYTES,
        "compress_below": choose._COMPRESS_BELOW,
        "samples": choose._SAMPLES,
        "sample_items": choose._SAMPLE_ITEMS,
        "small_bytes": group.SMALL_BYTES,
        "lot_bytes": 4 * group.LOT_WORDS,
        "group_bytes": group.LEAST_BYTES,
        "zstd_level": base._ZSTD_LEVEL,
        "least_delta_bytes": tally.LEAST_SPARSE_BYTES,
        "least_logged_bytes": tally.LEAST_TOTAL_BYTES,
        "block_bytes": archive.BLOCK_BYTES,
    },
    "digest constants": {
        "GOLDEN": digest.GOLDEN,
        "SALT": digest.SALT,
        "FIRST": digest._FIRST,
        "SECOND": digest._SECOND,
    },
    "sizes and limits": {
        "alignment_bytes": frame.ALIGNMENT_BYTES,
        "header_bytes": frame.HEADER_BYTES,
        "commit_fixed_bytes": _record._FIXED.size,
        "record_bytes": _record.RECORD.itemsize,
        "chunk_table_bytes": _record.CHUNK.itemsize,
        "segment_frame_bytes": _segment.SEGMENT_FRAME_BYTES,
        "max_meta_bytes": frame.MAX_META_BYTES,
        "max_data_bytes": frame.MAX_DATA_BYTES,
        "max_dimensions": _record.MAX_DIMENSIONS,
        "max_name_bytes": _record.MAX_NAME_BYTES,
        "max_text_bytes": _record.MAX_TEXT_BYTES,
        "max_array_bytes": _record.MAX_ARRAY_BYTES,
        "max_extra_bytes": contents.MAX_EXTRA_BYTES,
        "max_note_bytes": _record.MAX_NOTE_BYTES,
        "max_tag_bytes": tags.MAX_TAG_BYTES,
        "max_process_bytes": in_force.MAX_PROCESS_BYTES,
        "max_static_bytes": statics.MAX_TEXT,
        "max_digits": texts.MAX_DIGITS,
        "max_json_depth": strict_json.MAX_JSON_DEPTH,
        "max_page_bytes": _manifest.MAX_PAGE_BYTES,
        "max_number": frame.MAX_NUMBER,
    },
}


# The page against the code


def test_page_tables_are_all_checked():
    others = {"dtypes", "index columns", "hashes", "digests of words", "terms"}
    assert TABLES.keys() == STRUCTS.keys() | CONSTANTS.keys() | others


@pytest.mark.parametrize("heading", STRUCTS)
def test_page_layout_equals_the_code(heading: str):
    written, own = STRUCTS[heading]
    layout, end = "<", 0
    for row in TABLES[heading]:
        kind = row["type"]
        size = SIZES.get(kind) or int(kind.removesuffix(" bytes"))
        assert int(row["offset"]) == end, row
        layout += CODES.get(kind, f"{size}s")
        end += size
    assert layout == written
    assert layout == own.format
    assert end == own.size


@pytest.mark.parametrize(
    ("heading", "dtype"), [("record", _record.RECORD), ("chunk", _record.CHUNK)]
)
def test_page_layout_equals_the_numpy_table(heading: str, dtype: np.dtype):
    assert dtype.fields is not None
    found = [(row["field"], int(row["offset"])) for row in TABLES[heading]]
    assert found == [(name, offset) for name, (_, offset) in dtype.fields.items()]


def by_page(heading: str, raw: bytes) -> dict[str, Any]:
    """The fields of a structure at the beginning of ``raw``, as the page lays them out."""
    names = [row["field"] for row in TABLES[heading]]
    return dict(zip(names, struct.unpack_from(STRUCTS[heading][0], raw), strict=True))


def test_page_fields_of_frames_are_those_that_the_code_reads():
    raw = (GOLDEN / "v1" / "whole" / "log" / f"{2:08}-{8:020}.seg").read_bytes()
    header, found = frame.Header.decode(raw[:64], None), by_page("frame header", raw)
    assert (found.pop("magic"), found.pop("format")) == (b"MMSB", 1)
    assert found.pop("flags") == header.must_understand
    assert found.pop("header_hash") == xxhash.xxh3_64_intdigest(raw[:56])
    assert found == {name: getattr(header, name) for name in found}
    files = DiskFiles(GOLDEN / "v1" / "whole")
    segment = _segment.read_segment(files, f"log/{2:08}-{8:020}.seg")
    found = by_page("segment", raw[64:])
    assert found == {name: getattr(segment, name) for name in found}


def test_page_fields_of_the_manifest_are_those_that_the_code_reads():
    files = DiskFiles(GOLDEN / "v1" / "fork")
    manifest = _manifest.Manifest.read(files, "fork")
    raw = files.read("manifest")[64:]
    assert by_page("manifest", raw) == {
        "log_id": manifest.ids.own,
        "page_bytes": manifest.page_bytes,
        "created_ns": manifest.created_ns,
        "ancestors": 1,
    }
    ((log_id, last_version),) = manifest.ids.lineage
    found = by_page("ancestor", raw[_manifest._FIXED.size :])
    assert found == {"log_id": log_id, "last_version": last_version}


def test_page_fields_of_commits_are_those_that_the_code_reads():
    files = DiskFiles(GOLDEN / "v1" / "whole")
    log = Log(files, "whole")
    raw = files.read(log.pieces[0].segment.name)[log.row(1).offset + 64 :]
    record, found = log.record(1), by_page("commit", raw)
    info, operation = record.ops[0].info, by_page("operation", raw[_operations_at(record) :])
    assert found.pop("state_digest") == record.state_digest.to_bytes(16, "little")
    assert found.pop("flags") == record.flags | _record.HAS_STEP
    assert found.pop("reserved") == 0
    assert found.pop("frames") == len(record.frame_sizes)
    assert found.pop("ops_bytes") == sum(len(_record._encode_op(op)) for op in record.ops)
    assert found.pop("constants_bytes") == len(json.dumps(record.values))
    for name in ("note", "source"):
        assert found.pop(f"{name}_bytes") == len(getattr(record, name))
    for name in ("records", "chunks"):
        assert found.pop(name) == len(getattr(record, name))
    assert found == {name: getattr(record, name) for name in found}
    assert operation == {
        "code": record.ops[0].code,
        "dimensions": len(info.shape),
        "kind_bytes": len(info.kind),
        "dtype_bytes": len(info.dtype),
        "name_bytes": len(info.name) | 1 << 15,
        "id": info.id,
    }


def _operations_at(record: _record.CommitRecord) -> int:
    tables = len(record.records) * _record.RECORD.itemsize + len(record.chunks) * 24
    return _record._FIXED.size + 8 * len(record.frame_sizes) + tables


def test_page_fields_of_an_index_are_those_that_the_code_reads():
    files = DiskFiles(GOLDEN / "v1" / "whole")
    log = Log(files, "whole")
    piece = log.pieces[0]
    found = by_page("index", files.read(piece.segment.index_name)[64:])
    assert found == {
        "chain": log.chain_after(7),
        "first_version": 1,
        "rows": 7,
        "sources_bytes": sum(2 + len(s) for s in ("train", "nothing changed", "", "edit")),
        "touched": sum(len(log.row(version).touched) for version in range(1, 8)),
        "end_offset": piece.end_offset,
    }


@pytest.mark.parametrize("heading", CONSTANTS)
def test_page_constants_equal_the_code(heading: str):
    first, second = list(TABLES[heading][0])[:2]
    found = {
        row[first]: float(int(row[second], 0) if "." not in row[second] else row[second])
        for row in TABLES[heading]
    }
    assert found == {name: float(value) for name, value in CONSTANTS[heading].items()}


def test_page_index_columns_equal_the_code():
    assert tuple(row["column"] for row in TABLES["index columns"]) == index._COLUMNS


def test_page_dtypes_have_the_sizes_that_numpy_knows():
    known = 0
    for row in TABLES["dtypes"]:
        dtype = getattr(ml_dtypes, row["name"], None) or getattr(np, row["name"], None)
        assert reader.itemsize(row["name"]) == int(row["bytes"])
        if dtype is not None:
            known += 1
            assert np.dtype(dtype).itemsize == int(row["bytes"]), row
    assert known > 25


@pytest.mark.parametrize("dtype", [">f4", "|S3", "<U5", "<M8[ns]", "<m8[ns]", "<U0"])
def test_reader_itemsize_of_a_protocol_string_equals_numpy(dtype: str):
    assert reader.itemsize(dtype) == np.dtype(dtype).itemsize


def test_page_hashes_equal_the_code():
    expected = [
        f"{xxhash.xxh3_64_intdigest(b''):x}",
        _chain.frames_hash([]).hex(),
        _chain.frames_hash([(10, 5), (1048576, 7)]).hex(),
    ]
    assert [row["value"] for row in TABLES["hashes"]] == expected
    assert reader.hash_of_frames([(10, 5), (1048576, 7)]).hex() == expected[2]


def test_page_digests_of_words_equal_the_code():
    for row in TABLES["digests of words"]:
        words = [int(word, 16) for word in row["words"].split() if word != "none"]
        array = np.array(words, np.uint32)
        expected = int(row["lane0"], 16), int(row["lane1"], 16)
        assert digest.digest_words(array) == expected
        assert reader.lanes_of(array.tobytes()) == expected
    assert f"`mix(1)` is `{reader.mix(1):x}`" in PAGE
    lane0, lane1 = reader.lanes_of(bytes(range(1, 7)))
    assert re.search(rf"the lanes `{lane0:08x}` and\s+`{lane1:08x}`", PAGE)


def test_page_terms_equal_the_code():
    terms = [
        digest.state_term(1, b"w\0jax\0float32\0(2, 3)", (5, 7)),
        digest.state_term(2, b"step\0int\0int64\0()", (0, 0)),
        digest.constant_term("act", "f:jax.nn.relu"),
    ]
    found = [row["term, as a number in hexadecimal"] for row in TABLES["terms"]]
    assert found == [f"{term:032x}" for term in terms]
    array = reader.Operation(1, 1, True, (2, 3), "jax", "float32", "w")
    assert reader.array_term(array, (5, 7)) == terms[0]
    assert reader.constant_term("act", "f:jax.nn.relu") == terms[2]
    state = digest.state_sum(terms[0], terms[2])
    assert f"the digest `{state:032x}`" in PAGE
    chain = _segment.chain_after(bytes(16), b"meta", xxhash.xxh3_64_intdigest(b""))
    assert f"`{chain.hex()}`" in PAGE


def test_page_hexdump_is_the_golden_manifest():
    dump = re.search(r"```\n(4d4d .*?)```", PAGE, re.DOTALL)
    assert dump is not None
    raw = bytes.fromhex("".join(line[:39] for line in dump[1].splitlines()))
    assert raw == (GOLDEN / "v1" / "fork" / "manifest").read_bytes()


@pytest.mark.parametrize("page", ["format", "durability", "security"])
def test_page_names_files_that_are_there(page: str):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    named = re.findall(r"`((?:tests|tools)/[\w/.]+)`", text)
    linked = [f"docs/{link}" for link in re.findall(r"\]\((\w+\.md)\)", text)]
    assert named + linked
    assert [name for name in named + linked if not (ROOT / name).exists()] == []


def test_reader_imports_nothing_of_the_library():
    imported, own = set(), set()
    for path in Path(reader.__file__).parent.rglob("*.py"):
        own.add(reader.__name__ + f".{path.stem}" * (path.stem != "__init__"))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add("." * node.level + (node.module or ""))
    others = {name.partition(".")[0] for name in imported - own}
    assert others - sys.stdlib_module_names == {"xxhash", "zstandard"}


def test_reader_is_used_as_its_head_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(reader)
    assert result.attempted
    assert not result.failed


# The reader and the library against what was written


def test_reader_of_a_log_written_now_gives_every_version(tmp_path: Path):
    for scribe, name in zip(
        write_story(tmp_path / "whole", tmp_path / "fork"), ("whole", "fork"), strict=True
    ):
        check_library(tmp_path / name, describe(scribe))
        log = check_reader(tmp_path / name, describe(scribe))
        assert {Coding.SPARSE, Coding.SPARSE_ZSTD, Coding.FULL} <= codings(log)
        assert not log.left_out


def test_reader_of_groups_gives_every_version(tmp_path: Path):
    noise = np.random.default_rng(0)
    scribe = Scribe(DiskFiles(tmp_path))
    dtypes = {"<f4": 700, "|u1": 701, "<f2": 333, "<f8": 50, "|S3": 11}
    for k, (dtype, count) in enumerate(dtypes.items()):
        for twin in range(3):
            scribe.create(f"{k}/{twin}", (count,), dtype)
    for step in range(3):
        for k, (dtype, count) in enumerate(dtypes.items()):
            for twin in range(3):
                size = count * np.dtype(dtype).itemsize
                raw = np.frombuffer(np.random.default_rng(k).bytes(size), np.uint8)
                scribe.write(f"{k}/{twin}", raw if step == 0 else raw ^ step)
        scribe.commit(step)
    scribe.write("0/0", noise.integers(0, 9, 2800, np.uint8)).commit()
    scribe.snapshot(rotate=False)
    scribe.close()
    check_library(tmp_path, describe(scribe))
    log = check_reader(tmp_path, describe(scribe))
    assert codings(log) >= {Coding.FULL_GROUP, Coding.XOR_GROUP}


def test_reader_of_a_fork_of_a_fork_gives_every_version(tmp_path: Path):
    _, branch = write_story(tmp_path / "whole", tmp_path / "fork")
    step = np.array(5)
    for version, ancestors in ((9, 2), (8, 1), (4, 1)):
        folder = tmp_path / str(version)
        later = fork(branch, version, folder)
        later.write("step", step).commit()
        later.close()
        check_library(folder, describe(later))
        log = check_reader(folder, describe(later))
        assert len(log.manifest.ancestors) == ancestors
    nothing = fork(branch, 0, tmp_path / "nothing")
    nothing.create("x", (3,)).commit()
    assert check_reader(tmp_path / "nothing", describe(nothing)).manifest.ancestors == []


def test_reader_of_large_arrays_finds_their_data_frames(tmp_path: Path):
    noise = np.random.default_rng(0)
    plain = np.frombuffer(noise.bytes(1_300_001), np.uint8).copy()
    smooth = np.arange(400_000, dtype=np.float32)
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("plain", plain.shape, np.uint8).create("smooth", smooth.shape)
    scribe.write("plain", plain).write("smooth", smooth).commit(extra=noise.bytes(300_000))
    plain[noise.permutation(plain.size)[:280_000]] ^= 255
    scribe.write("plain", plain).commit()
    scribe.write("smooth", np.nextafter(smooth, np.float32(np.inf))).commit()
    scribe.snapshot(rotate=False)
    scribe.close()
    log = check_reader(tmp_path, describe(scribe))
    first, second, third = log.commits
    assert first.frame_sizes[0] == _chunk.CHUNK_BYTES
    assert len(first.frame_sizes) == 2
    dense = {Coding.FULL, Coding.FULL_GROUP}
    assert {c.coding for r in first.records for c in r.chunks} == dense
    (sparse,) = second.records
    most = _chunk.SPARSE_ITEMS
    assert [chunk.items for chunk in sparse.chunks] == [most, 280_000 - most]
    assert {c.coding for r in third.records for c in r.chunks} == {Coding.XOR_GROUP}
    assert third.records[0].chunks[1].offset == _chunk.CHUNK_BYTES


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8, 3, 6])
def test_reader_of_every_size_of_element_gives_every_version(itemsize: int, tmp_path: Path):
    raw = np.frombuffer(np.random.default_rng(itemsize).bytes(itemsize * 333), np.uint8).copy()
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (333,), f"S{itemsize}", "numpy").write("x", raw).commit()
    for places in ([0, 332], [7], range(0, 333, 3), range(333)):
        raw = raw.copy()
        raw.reshape(333, itemsize)[list(places), -1] ^= 1
        scribe.write("x", raw).commit()
    scribe.close()
    check_reader(tmp_path, describe(scribe))
    check_library(tmp_path, describe(scribe))


Action = Callable[[Scribe, Path, st.DataObject], Scribe]


def _change(scribe: Scribe, _: Path, data: st.DataObject) -> Scribe:
    """A commit of a few operations and writes."""
    held = scribe.history[-1].arrays
    for name in data.draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3)):
        noise = np.random.default_rng(data.draw(st.integers(0, 99)))
        length = data.draw(st.integers(0, 300))
        what = data.draw(st.sampled_from(["few", "many", "all", "resize", "delete"]))
        if name not in held:
            dtype = data.draw(st.sampled_from(["uint8", "int16", "float32", "complex128"]))
            scribe.create(name, (length,), dtype, member=data.draw(st.booleans()))
            scribe.write(name, noise.integers(0, 9, length).astype(dtype))
        elif what == "delete":
            scribe.delete(name)
        elif what == "resize":
            scribe.resize(name, (length,))
        else:
            raw = np.frombuffer(held[name].content, np.uint8).copy()
            most = {"few": 3, "many": raw.size // 3, "all": raw.size}[what]
            raw[noise.permutation(raw.size)[:most]] ^= np.uint8(1 + length % 255)
            scribe.write(name, raw)
    scribe.constant("k", data.draw(st.sampled_from(["s:x", "n:", "i:7"])))
    step = data.draw(st.none() | st.integers(-(2**63), 2**63 - 1))
    scribe.commit(step, extra=data.draw(st.none() | st.binary(max_size=40)))
    return scribe


def _rotate(scribe: Scribe, _: Path, data: st.DataObject) -> Scribe:
    scribe.snapshot(rotate=True)
    return scribe


def _snapshot(scribe: Scribe, _: Path, data: st.DataObject) -> Scribe:
    scribe.snapshot(rotate=False)
    return scribe


def _close(scribe: Scribe, root: Path, _: st.DataObject) -> Scribe:
    return reopen(scribe.close(), root)


def _die(scribe: Scribe, root: Path, _: st.DataObject) -> Scribe:
    return reopen(scribe, root)


ACTIONS: list[Action] = [_change, _change, _change, _rotate, _snapshot, _close, _die]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=12))
def test_reader_of_any_history_gives_every_version(data: st.DataObject, actions: list[Action]):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scribe = Scribe(DiskFiles(root))
        for action in actions:
            scribe = action(scribe, root, data)
        scribe.close()
        check_reader(root, describe(scribe))
        check_library(root, describe(scribe))
