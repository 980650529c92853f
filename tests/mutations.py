"""Breaks the package in one place after another, and sees that the tests find each.

``python -m tests.mutations [NUMBER...]``: in a copy of the tree, a line is changed, and the tests
that should notice are run as `make test` runs them; they must fail. A line that is not there any
more is an error: the list follows the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


_MOST_S = 600
"""Seconds of the tests of one mutation."""


class Mutation(NamedTuple):
    """A line of ``mmsb_jax``, what it becomes, and who should notice."""

    file: str
    before: str
    after: str
    tests: str


MUTATIONS = [
    Mutation("_store/state/aside.py", "builds_on = chain if not flags & FULL and chain",
             "builds_on = chain if chain", "store/test_parts.py"),
    Mutation("_store/state/aside.py", "self._begin(state, head, array_id)  # by a writer",
             "pass  # by a writer", "store/test_parts.py"),
    Mutation("_store/state/aside.py", "or self._since != head.table.saved_version",
             "", "store/test_parts.py"),
    Mutation("_store/state/aside.py", "if newest.get(i, 0) < version}",
             "if i not in newest}", "store/test_parts.py"),
    Mutation("_store/commit/head.py", "if i in known and i not in changed]",
             "if False]", "store/test_parts.py bus/test_parts.py"),
    Mutation("_store/commit/head.py", "            self.aside = BytesAside()\n            return",
             "            pass", "store/test_parts.py"),
    Mutation("_store/commit/head.py", "return not self.is_saved and self.tally.snapshot_is_due(",
             "return False and self.tally.snapshot_is_due(", "bus/test_parts.py"),
    Mutation("_store/format/index.py", "rows.touched.extend(record.logged())",
             "rows.touched.extend(record.touched())", "store/test_parts.py"),
    Mutation("_store/query/diff.py", "        log.check_saved(version)\n", "        pass\n",
             "bus/test_diff_logs.py"),
    Mutation("_store/maintain/salvage/trial.py", "lanes != found.table.lanes[array_id] or",
             "", "store/test_parts.py"),
    Mutation("_bus/saving/parts.py", "places.update(self._places[pattern])",
             "places = set(self._places[pattern])", "bus/test_parts.py"),
    Mutation("_bus/saving/parts.py", "(s for s in (own, whole) if s)", "(s for s in (whole,) if s)",
             "bus/test_parts.py"),
    Mutation("_store/log/in_force.py", "if found.record.log_id != segment.log_id:", "if False:",
             "store/test_process.py"),
    Mutation("_store/writer/writer.py", "if self._introduced_in != self._file_name or",
             "if not self._introduced_in or", "store/test_process.py"),
    Mutation("_store/writer/writer.py", "or self._introduced is not self.process:",
             "or False:", "store/test_process.py"),
    Mutation("_store/writer/writer.py", "if not (self.process or scan.has_process):",
             "if not self.process:", "store/test_process.py"),
    Mutation("_store/log/in_force.py", "text.startswith(said.removesuffix(_CUT))",
             "text.startswith(said)", "store/test_process.py"),
    Mutation("_bus/query/history.py", "found = state if is_saved else aside.beside(state)",
             "found = log.state(shown, self._is_mine)", "bus/test_parts.py"),
    Mutation("_bus/write/tree_writer.py", "return cls(replace(draft, contents={}), *rest)",
             "return cls(draft, *rest)", "bus/test_parts.py"),
    Mutation("_bus/write/tree_writer.py", "return None if due.places and len(due.places) ==",
             "return None if len(due.places) ==", "bus/test_parts.py"),
    Mutation("_bus/engine/process.py", "if any(isinstance(leaf, jax.Array) for leaf in leaves):",
             "if True:", "bus/test_rerun.py"),
    Mutation("_compile/monitor.py", "if heard.trials == before:", "if True:",
             "programs/test_watch.py"),
    Mutation("_compile/made.py", "max(0.0, time.ms - before)", "time.ms",
             "bus/test_stats_programs.py"),
    Mutation("_graph/run/runner.py", "if capacity not in pager.capacities:",
             "if not pager.capacities:", "bus/test_stats_programs.py"),
    Mutation("programs/_watching/watched.py",
             "return not timing.is_taken and self._jax_name in (None, timing.function)",
             "return not timing.is_taken", "programs/test_watch.py"),
    Mutation("programs/_watching/watched.py", "self._count > self._max_compiles",
             "self._count >= self._max_compiles", "programs/test_watch.py"),
    Mutation("programs/_watching/watched.py", "others -= 1", "pass",
             "programs/test_watch_causes.py"),
    Mutation("programs/_watching/causes.py", "key=lambda before: _distance(before, now, pairs)",
             "key=lambda before: 0", "programs/test_watch_causes.py"),
    Mutation("programs/_watching/statics.py", 'return "hash" in str(error)', "return False",
             "programs/test_watch_causes.py"),
    Mutation("programs/_watching/signature.py", "while spec and spec[-1] is None:", "while False:",
             "programs/test_watch_causes.py"),
    Mutation("programs/_watching/values.py", "np.number | np.bool_", "np.generic",
             "programs/test_watch.py"),
    Mutation("programs/_watching/values.py", "or bool(one == two)", "or True",
             "programs/test_watch_causes.py"),
    Mutation("programs/_watching/values.py", "if show_values else safe_text(value)",
             "if True else safe_text(value)", "programs/test_watch.py"),
    Mutation("programs/_watching/everything.py", "handlers.remove(hear)", "pass",
             "programs/test_watch.py"),
    Mutation("_bus/orbax/files.py", "not begun or about.get(", "True or about.get(",
             "orbax/test_refusals.py"),
    Mutation("_bus/orbax/read.py", 'kind == "jax.Array" and not _is_wide(leaf.dtype)',
             'kind == "jax.Array"', "orbax/test_from_orbax.py"),
    Mutation("_bus/orbax/notes.py", "_CUSTOM: self.custom or None", "_CUSTOM: None",
             "orbax/test_from_orbax.py"),
    Mutation("_bus/orbax/write.py", "joined[_name_in_orbax(name)] > 1", "False",
             "orbax/test_refusals.py"),
    Mutation("_bus/orbax/nested.py", "node.keys() == set(numbers)",
             "False", "orbax/test_to_orbax.py"),
    Mutation("orbax/_intake.py", "plans[done:]", "plans", "orbax/test_from_orbax.py"),
    Mutation("orbax/_manager.py", "if extra is None and self._says_extra:", "if False:",
             "orbax/test_manager.py"),
    Mutation("orbax/_manager.py", "self.bus.resume(tree, at=self._restored)", "pass",
             "orbax/test_manager.py"),
    Mutation("_base/patterns.py", 'rstrip("/")) + r"(?:/.*)?"', 'rstrip("/"))',
             "cli/test_globs.py"),
    Mutation("_base/memory_limit.py", "if nbytes > _machine_bytes():", "if nbytes < 0:",
             "store/test_limits.py"),
    Mutation("_core/delta.py", "has_later, mask[following], 0", "has_later, mask, 0",
             "core/test_laws.py"),
    Mutation("_core/digest.py", "words + key", "words ^ key", "core/test_digest.py"),
    Mutation("_core/tlog.py", "fits &= ~(log.overflow | delta.overflow)",
             "fits &= ~delta.overflow", "core/test_tlog.py"),
    Mutation("_core/table/bookkeeping.py", "stays = is_last_writer & (writers[group] == holders)",
             "stays = holders == 1", "core/test_page_table.py"),
    Mutation("_core/table/bookkeeping.py", "fits = ~books.overflow & (count", "fits = (count",
             "core/test_page_table.py"),
    Mutation("_core/table/bookkeeping.py", "comes_free = (ref_count > 0) & (after == 0)",
             "comes_free = after == 0", "core/test_page_table.py"),
    Mutation("_core/table/bookkeeping.py", "& (free_count >= 0), rows, lost)", ", rows, lost)",
             "core/test_in_place.py"),
    Mutation("_core/tree/slices.py", "is_new.at[1:, 0].set(begin[1:] != end[:-1])",
             "is_new", "core/test_slices.py"),
    Mutation("_bus/stacked.py", "    if len(said) != count:", "    if len(said) < 0:",
             "bus/test_stacked.py"),
    Mutation("_core/tree/words.py", "elements.reshape(-1, each)", "elements.reshape(each, -1).T",
             "core/test_packing.py"),
    Mutation("_store/files/lock.py", "fcntl.LOCK_EX | fcntl.LOCK_NB",
             "fcntl.LOCK_SH | fcntl.LOCK_NB",
             "store/test_lock.py"),
    Mutation("_store/files/disk.py", "self._os.replace(draft, path)",
             "self._os.rename(draft, path.with_name('x'))", "store/test_files.py"),
    Mutation("_store/format/chain.py", "record.previous_chain != chain or ", "",
             "store/test_recovery.py"),
    Mutation("_store/format/frame.py", "_MUST_UNDERSTAND = 1", "_MUST_UNDERSTAND = 2",
             "test_docs_format.py"),
    Mutation("_store/encoding/sparse.py", "gaps[starts] = 0", "gaps[starts] = 1",
             "store/test_codec.py"),
    Mutation("_store/encoding/choose.py", "2 * items * (unit + 1) < nbytes",
             "items * (unit + 1) < nbytes", "store/test_codec.py"),
    Mutation("_store/encoding/decode.py", "Coding.XOR_ZSTD: decode_mixed",
             "Coding.XOR_ZSTD: decode_compressed", "store/test_codec.py"),
    Mutation("_store/log/recovery.py", "if not ids.may_hold(segment.log_id",
             "if False and not ids.may_hold(segment.log_id",
             "store/test_recovery.py store/test_log.py"),
    Mutation("_store/writer/writer.py",
             "self._write(commit)\n            except OSError as error:\n"
             "                self._take_back(start)\n",
             "self._write(commit)\n            except OSError as error:\n", "store/test_writer.py"),
    Mutation("_store/writer/writer.py", "self._sync_commit(record.version, ",
             "(lambda *_: None)(record.version, ", "store/test_writer.py"),
    Mutation("_store/commit/head.py", "if self.writer.log.version >= landing.version:",
             "if self.writer.log.version > landing.version:", "store/test_head.py"),
    Mutation("_store/commit/head.py", "self.structure = record.version", "pass",
             "bus/test_derive.py"),
    Mutation("_store/commit/compare.py", "return prefers_sparse(items, self.unit, self.nbytes)",
             "return False", "test_docs_format.py bus/test_arrays.py bus/test_deterministic.py"),
    Mutation("_store/commit/lots.py", "words -= np.repeat(starts[rows], counts)", "pass",
             "bus/test_deterministic.py store/test_head.py"),
    Mutation("_store/commit/lots.py", "versions[self._touched[start:stop]] = version",
             "versions[:] = version", "store/test_change.py"),
    Mutation("_store/commit/encode.py", "return [is_due or is_fresh(info.id)",
             "return [is_due", "store/test_change.py store/test_head.py"),
    Mutation("_store/encoding/group.py", "coding, sizes = Coding.XOR_GROUP, others",
             "pass", "store/test_codec.py"),
    Mutation("_store/format/chunk.py",
             "sizes[group] = [sizes[first] * nbytes // total for nbytes in raw[group]]", "pass",
             "store/test_codec.py"),
    Mutation("_store/format/chunk.py", 'held = np.where(is_shared, table["raw"], held)',
             "pass", "store/test_codec.py"),
    Mutation("_store/maintain/compact.py", "remove_leftovers(self._files, self._log.manifest)",
             "pass", "store/test_compact.py"),
    Mutation("_graph/wave/wave.py", "if not is_asked and self._is_hit(node):",
             "if self._is_hit(node):", "bus/test_derive_inputs.py"),
    Mutation("_graph/wave/wave.py", "if mark != self._mark(node):", "if True:",
             "bus/test_derive.py"),
    Mutation("_bus/engine/engine.py", "            self.derivations.revert()\n", "",
             "bus/test_derive_failures.py"),
    Mutation("_bus/engine/engine.py", "self._snapshots or self._has_upkeep) and self.head",
             "True) and self.head", "bus/test_arrays.py"),
    Mutation("_bus/engine/queue.py", "while len(self._entries) > most:", "while False:",
             "bus/test_copies.py"),
    Mutation("_bus/events/events.py", "if version > max(self._newest, self._last_queued()):",
             "if True:", "bus/test_events_threads.py"),
    Mutation("_bus/trees/checkout.py", 'raw = raw if spec.kind == "jax" else raw.copy()', "pass",
             "bus/test_like.py"),
    Mutation("_bus/write/draft_builder.py", "raw.copy() if self._owns else raw", "raw",
             "bus/test_arrays.py"),
    Mutation("_bus/replica/arrays.py", "if table.digest() != table.state_digest:", "if False:",
             "bus/test_hostile.py"),
    Mutation("algebra/_paths/fixpoint.py", "changed = differs(better, value)",
             "changed = differs(value, better) & False", "algebra/test_paths.py"),
    Mutation("cli/common/command.py", "\nNO = 1\n", "\nNO = 0\n", "cli/test_verify.py"),
    Mutation("_store/encoding/sparse.py", "gap, before = place - before - 1, place",
             "gap, before = place - before, place", "bus/test_deterministic.py"),
    Mutation("_store/commit/plain.py", "if tally.is_full_due(array.key, array.nbytes):",
             "if False:", "bus/test_deterministic.py"),
    Mutation("_bus/events/kinds.py", "sorted(op.info.name", "list(op.info.name",
             "bus/test_events.py"),
    Mutation("_store/state/snapshot.py", "if all(targets[chunk] is None for chunk in chunks):",
             "if False:", "store/test_snapshot.py"),
    Mutation("_store/commit/plan.py", "self.grown_bytes -= 0 if before is None",
             "self.grown_bytes -= 0 if True", "store/test_head.py"),
    Mutation("_store/commit/lots.py", "lot.joined = joined if is_same else None",
             "lot.joined = joined", "store/test_change.py"),
    Mutation("_bus/write/straight.py", "if made_for != self._made_for:", "if not self._made_for:",
             "bus/test_arrays.py bus/test_derive.py"),
    Mutation("_bus/derive/quiet.py", "self._all.runs[name] = count", "pass", "bus/test_derive.py"),
    Mutation("_bus/derive/registry.py", "self.stale or self.awaited or", "self.awaited or",
             "bus/test_deterministic.py bus/test_derive.py"),
    Mutation("_bus/write/tree_writer.py", "if max(bases.values(), default=0) > since:", "if False:",
             "bus/test_living.py"),
    Mutation("_bus/write/tree_writer.py", "if last.version is None and not engine.queue.depth:",
             "if False:", "bus/test_living.py"),
    Mutation("_bus/trees/living.py", "weakref.ref(leaf) if isinstance(leaf, jax.Array)",
             "weakref.ref(leaf) if hasattr(leaf, 'shape')", "bus/test_living.py"),
    Mutation("_bus/trees/staging.py", "            self._free.clear()\n", "            pass\n",
             "bus/test_copies.py"),
    Mutation("_store/query/diff.py", "touched.update(log.row(version).touched)", "pass",
             "cli/test_state_diff.py bus/test_arrays.py"),
    Mutation("_store/log/in_force.py", "if not giver and log.kept_since == 1:", "if False:",
             "store/test_snapshot.py"),
    Mutation("kernels/xla.py", "place = first[0] + jnp.minimum(each.min(), 0)", "place = first[0]",
             "kernels/test_kernels.py"),
    Mutation("kernels/xla.py", "jnp.where(is_there, last, -1)", "last",
             "kernels/test_kernels.py"),
    Mutation("kernels/dispatch.py", "_LEAST_JAX = 0, 11", "_LEAST_JAX = 0, 9",
             "kernels/test_kernels.py"),
    Mutation("_core/replay.py", ".at[changed].max(order[last]", ".at[changed].min(order[last]",
             "core/test_replay.py"),
    Mutation("_bus/device/pieces.py", "edge % WORD_BYTES == 0 for edge in edges",
             "edge >= 0 for edge in edges", "bus/test_shadow.py"),
    Mutation("_bus/device/shadow.py", "self.version, self.is_queued = None, False",
             "self.is_queued = False", "bus/test_shadow.py"),
    Mutation("_bus/device/shadow.py", "count * _DENSE > words[leaf]", "count > 0",
             "bus/test_shadow.py"),
    Mutation("_store/commit/plan.py", "if self._order:", "if not self._order:",
             "bus/test_shadow.py"),
    Mutation("_graph/wave/compiled.py", "jnp.where(kept, NO_PAGE, delta.page)", "delta.page",
             "graph/test_compiled.py"),
    Mutation("_graph/wave/compiled.py", ".set(due & differ)", ".set(due)",
             "graph/test_compiled.py"),
    Mutation("_graph/run/pagewise.py", "if size % WORD_BYTES and rows.size",
             "if False and rows.size", "bus/test_derive.py"),
    Mutation("_core/delta.py", "return most_of_branches(jnp.max(value)), False",
             "return value, True", "graph/test_compiled.py"),
    Mutation("_bus/device/digest_shadow.py", "is_in = words < piece.words",
             "is_in = words >= 0", "bus/test_shadow.py"),
    Mutation("_bus/write/tree_writer.py", "places = range(len(data)) if is_audit else self._to_read"
             "(last, shape, data, ids, others)\n        if ops:",
             "places = self._to_read(last, shape, data, ids, others)\n        if ops:",
             "bus/test_shadow.py"),
    Mutation("_bus/device/shadow.py", "if found is self._newest:", "if True:",
             "bus/test_shadow_cut_short.py"),
    Mutation("_bus/write/tree_writer.py",
             "return shadow.is_queued and self._engine.queue.depth > 0",
             "return self._engine.queue.depth > 0", "bus/test_shadow_cut_short.py"),
    Mutation("_bus/engine/queue.py", "if entry.since != self.failures and not entry.is_begun:",
             "if False:", "bus/test_shadow_cut_short.py"),
    Mutation("_bus/device/pieces.py", "shard.index[: array.ndim]", "shard.index",
             "bus/test_shadow_cut_short.py"),
    Mutation("_bus/device/shadow.py", "= without_wide_types(shards[shadow.device])",
             "= shards[shadow.device]", "bus/test_shadow_cut_short.py"),
    Mutation("_core/replay.py", "jnp.where(i < limit, i, -1)", "i", "graph/test_compiled.py"),
    Mutation("_store/state/state.py", "        for array_id, lanes in self.ahead.items():",
             "        for array_id, lanes in ():", "bus/test_save.py"),
    Mutation("_store/state/state.py", "        self.ahead.clear()\n        for", "        for",
             "bus/test_save.py"),
    Mutation("_store/maintain/compact.py", "log.last_saved(keep_since - 1) + 1", "keep_since",
             "store/test_unsaved.py"),
    Mutation("_bus/engine/queue.py", " and self._entries[0].since != self.failures", "",
             "bus/test_shadow_cut_short.py"),
    Mutation("_bus/write/tree_writer.py", "or self._pending or self._origin is not None",
             "or self._pending", "bus/test_going_back.py"),
    Mutation("_store/query/superseded.py", "[*before, (origin + 1, version - 1)]",
             "[(origin + 1, version - 1)]", "bus/test_going_back.py"),
    Mutation("_bus/saving/digests.py", "is_upper = index & 1 == 1", "is_upper = index & 1 == 0",
             "bus/test_save.py"),
    Mutation("_bus/trees/checkout.py", "old <= new", "True", "bus/test_resume.py"),
    Mutation("_store/maintain/compact.py", "if self.kept != self._states_to_keep():",
             "if False:", "store/test_compact.py"),
    Mutation("_store/maintain/compact.py", "if versions > dropped:", "if True:",
             "store/test_compact.py"),
    Mutation("_store/maintain/cut.py", "freed - len(missing) * state_bytes", "freed",
             "store/test_compact.py"),
    Mutation("_bus/saving/keep.py", "None if math.isnan(number := float(value)) else number",
             "float(value)", "bus/test_keep.py"),
    Mutation("_bus/write/tree_writer.py",
             "if all(rows[i][:2] == table.lanes_now(array_id) for i, array",
             "if all(True for i, array", "bus/test_warmup.py"),
    Mutation("_store/maintain/copy.py", "there.scan.chain != source.chain_at(there.version)",
             "False", "store/test_copy.py"),
    Mutation("_store/maintain/copy.py", "for piece in pieces[:-1]:", "for piece in pieces:",
             "store/test_copy.py"),
    Mutation("_bus/engine/engine.py", "self.keeper is not None and is_copied",
             "self.keeper is not None", "bus/test_copy_to.py"),
    Mutation("_bus/saving/signals.py", "self._sent_again.add(number)", "pass",
             "bus/test_preempted.py"),
    Mutation("_bus/saving/signals.py", "max(min(ends) - time.monotonic(), 0.001) if ends else None",
             "None", "bus/test_preempted.py"),
    Mutation("_bus/write/array_writer.py", "if self.preemption.is_due and self._save_now():",
             "if False:", "bus/test_preempted.py"),
    Mutation("_bus/saving/keeper.py", "if not is_in(spans, version) and",
             "if True and", "bus/test_keep.py"),
    Mutation("_bus/weights/tensors.py", "(elements[1::2] << 4)", "(elements[1::2] << 3)",
             "bus/test_safetensors.py"),
    Mutation("_bus/weights/tensor_file.py", "if end != size:", "if end > size:",
             "bus/test_safetensors.py"),
    Mutation("_bus/weights/publisher.py", "if set(range(anchor, number)) - ",
             "if False and set(range(anchor, number)) - ", "bus/test_publish.py"),
    Mutation("_bus/weights/publisher.py", "return weights if weights.checksum() == newest.weights",
             "return weights if True", "bus/test_publish.py"),
    Mutation("_bus/weights/publisher.py", "number < needed]", "number < numbers[-keep:][0]]",
             "bus/test_publish.py"),
    Mutation("_bus/weights/directory.py", "if folder.suffix == \".draft\":", "if False:",
             "bus/test_publish_cut_short.py"),
    Mutation("_bus/weights/directory.py", "self._files().publish(_MARK,", "(lambda *_: 0)(_MARK,",
             "bus/test_publish.py"),
    Mutation("_bus/query/bisection.py", "if not is_in(self._spans, v)]", "]",
             "bus/test_bisect.py"),
    Mutation("_bus/query/bisection.py", "max([good, *(v for v in between if v < version)])",
             "good", "bus/test_bisect.py"),
    Mutation("_store/query/superseded.py", "version = span[0] - 1", "version = span[0] - 2",
             "bus/test_bisect.py"),
    Mutation("_store/query/diff.py", "table.lanes_now(array_id))", "0)", "bus/test_diff_logs.py"),
    Mutation("_bus/write/going_back.py", "and not are_annotations([name])", "",
             "bus/test_reverting.py"),
    Mutation("_bus/write/going_back.py", "head.bases.get(array_id, 0) <= then.version",
             "head.bases.get(array_id, 0) <= then.version + 1", "bus/test_reverting.py"),
    Mutation("_bus/write/tree_writer.py", "shape if shape is before else copy.copy(shape)",
             "shape", "bus/test_reverting.py"),
    Mutation("_bus/reverting.py", "engine.look_anew(shape)", "pass", "bus/test_reverting.py"),
    Mutation("_store/maintain/fork.py", "size == piece.end_offset == self._size(name, size)",
             "is_sealed", "bus/test_fork_shared.py"),
    Mutation("_store/maintain/fork.py", "and piece.end <= (self.shared_until or 0)", "",
             "bus/test_fork_shared.py"),
    Mutation("_store/files/disk.py", "self._unlink(path)  # another file", "return True  #",
             "bus/test_fork_shared.py"),
    Mutation("cli/inspect/usage.py", "segments - extra - sum(stored.values())",
             "segments - sum(stored.values()) - 1", "cli/test_find.py"),
    Mutation("cli/find/history.py", "operated | {*log.select", "{*log.select", "cli/test_find.py"),
    Mutation("_store/maintain/verify.py", "log.view is view and not log.reload()",
             "not log.reload()", "store/test_verify.py"),
    Mutation("demo/language/_training.py", "default_rng(number)", "default_rng()",
             "test_demo_language.py"),
    Mutation("demo/language/_model.py", "is_causal=True", "is_causal=False",
             "test_demo_language.py"),
    Mutation("demo/language/_loop.py", "if number == spoil_at:", "if number == spoil_at + 1:",
             "test_demo_language.py"),
    Mutation("demo/language/_child.py", "os.kill(os.getpid(), signal.SIGKILL)", "pass",
             "test_demo_language.py"),
    Mutation("demo/language/_story.py", "if not holds:", "if holds is None:",
             "test_demo_language.py"),
    Mutation("programs/_captured/rows.py", "_make_room(room, starts, ends, _NUMBER_BYTES)", "pass",
             "programs/test_rows.py"),
    Mutation("programs/_captured/rows.py", "np.diff(ends, prepend=-1) == 1",
             "np.diff(ends, prepend=-1) == 0", "programs/test_rows.py"),
    Mutation("programs/_captured/stages.py", '_STACK_TABLES.sub("", _METADATA.sub("", hlo))',
             '_STACK_TABLES.sub("", hlo)', "programs/test_capture.py"),
    Mutation("programs/_captured/stages.py", '_ADDRESS.sub("", printed)', "printed",
             "programs/test_capture.py"),
    Mutation("programs/_captured/stages.py", "get_asm(large_elements_limit=_MOST_ELEMENTS)",
             "get_asm()", "programs/test_capture.py"),
    Mutation("programs/_captured/capture.py", "bus._tree_writer().save_last()", "pass",
             "programs/test_capture.py"),
    Mutation("programs/_captured/capture.py", "elif part in known:", "elif False:",
             "programs/test_capture.py"),
    Mutation("programs/_captured/arrays.py", "if not is_in(passed, version)]", "]",
             "programs/test_capture.py"),
    Mutation("programs/_captured/diff.py",
             "if texts[0][stage] != texts[1][stage]", "if False",
             "programs/test_program_diff.py"),
    Mutation("_bus/query/rerun.py", "if not info.name.startswith(PROGRAM_PREFIX)]", "]",
             "programs/test_capture.py"),
    Mutation("_bus/weights/tensors.py",
             "if name.startswith(PROGRAM_PREFIX) and not self._has_programs:", "if False:",
             "programs/test_capture.py"),
    Mutation("_bus/trees/checkout.py",
             "not info.name.startswith(PROGRAM_PREFIX) if wanted is None", "True if wanted is None",
             "programs/test_capture.py"),
    Mutation("_bus/derive/log_entries.py", "known.fingerprint == fingerprint:", "False:",
             "bus/test_function_version.py"),
    Mutation("_bus/derive/transaction.py", "node.fingerprint, self._table.version + 1",
             "node.fingerprint, self._table.version", "bus/test_function_version.py"),
]  # fmt: skip


def copy_tree(target: Path) -> None:
    """What the repository has of the tree, as it is here."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def is_found(mutation: Mutation, tree: Path) -> bool:
    """Whether the tests fail with a mutation."""
    path = tree / "mmsb_jax" / mutation.file
    whole = path.read_text()
    assert whole.count(mutation.before) == 1, (
        f"{mutation.file}: {mutation.before!r} stands not once"
    )
    path.write_text(whole.replace(mutation.before, mutation.after))
    try:
        tests = [f"tests/{name}" for name in mutation.tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-n", "2", "--dist", "loadfile", *tests]
        environment = os.environ | {"PYTHONPATH": str(tree), "HYPOTHESIS_PROFILE": "ci"}
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_MOST_S
        )
        has_failed = " failed" in done.stdout or " error" in done.stdout
        assert has_failed == (done.returncode != 0), done.stdout + done.stderr
    except subprocess.TimeoutExpired:  # what waits for ever is noticed too
        return True
    else:
        return has_failed
    finally:
        path.write_text(whole)


def main() -> int:
    """Try those asked for, or all; the number that no test noticed."""
    chosen = [int(word) for word in sys.argv[1:]] or range(len(MUTATIONS))
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        for number in chosen:
            mutation = MUTATIONS[number]
            found = is_found(mutation, Path(folder))
            missed += not found
            told = "found" if found else "NOT FOUND"
            print(f"{number:2} {told}: {mutation.file}: {mutation.before.strip()!r}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} found")
    return missed


if __name__ == "__main__":
    sys.exit(min(1, main()))
