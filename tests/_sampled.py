"""What `make test` tries a sample of, and `make test-long` all of.

A test with many forms is in `EVERY`: each so-manyth of its forms is run by `make test`. The numbers
have no factor in common with those of the values of a parameter, so that each value has its turn. A
test that goes through all bytes, or moments, takes its step from `stepped`; one whose examples cost
a compilation each tries half as many, by `halved`.

``THINNED=3`` in the environment: of all tests that have forms, a third of what is run otherwise.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import pytest

EVERY: dict[str, dict[str, int | tuple[int, int]]] = {
    "algebra/test_copies.py": {
        "test_matrix_and_plan_come_back_with_the_same_structure": 5,
    },
    "algebra/test_empty.py": {
        "test_folds_closures_and_powers_without_entries": 9,
        "test_gradients_without_entries_are_zero": 5,
        "test_paths_without_edges_reach_the_source_alone": 17,
        "test_products_without_entries_are_zero": 17,
    },
    "algebra/test_gradients.py": {
        "test_matmul_gradient_goes_to_one_pair_of_each_place": 3,
        "test_path_gradient_is_the_flow_along_the_tree": 7,
        "test_product_gradient_is_that_of_differences": 7,
        "test_product_gradient_where_nothing_wins_is_that_of_differences": 2,
    },
    "algebra/test_laws.py": {
        "test_check_of_instance_finds_nothing": 17,
        "test_max_times_of_integers_saturates": 3,
        "test_semiring_law_holds_for_drawn_values": 17,
    },
    "algebra/test_paths.py": {
        "test_best_paths_are_a_fixed_point": 7,
        "test_k_hop_is_the_nodes_within_so_many_edges": (5, 1),
        "test_longest_paths_of_a_dag_are_those_of_networkx": 5,
        "test_path_counts_of_a_dag_are_exact_and_saturate": (2, 1),
        "test_paths_reach_nothing_from_a_node_without_edges": 2,
        "test_paths_under_vmap_are_those_of_each_source": (3, 1),
        "test_paths_where_going_round_does_not_help_have_values": 2,
        "test_paths_with_a_nan_end_and_say_so": 2,
        "test_paths_with_an_endless_cycle_show_it_and_under_jit_mark_where_it_leads": (9, 2),
        "test_reachable_is_that_of_scipy_with_a_tree_of_fewest_edges": (5, 1),
        "test_shortest_paths_are_those_of_scipy": 9,
        "test_shortest_paths_of_lengths_that_round_away_have_a_tree": (3, 1),
        "test_shortest_paths_of_real_weights_are_those_of_scipy_to_rounding": (2, 1),
        "test_shortest_paths_with_edges_of_no_length_have_a_tree": (3, 2),
        "test_shortest_paths_with_negative_edges_are_those_of_bellman_and_ford": 3,
        "test_widest_paths_are_those_of_a_spanning_tree": (7, 4),
    },
    "algebra/test_products.py": {
        "test_matmul_of_every_pair_is_that_of_the_definition": 7,
        "test_matmul_of_sparse_matrices_within_a_mask_has_its_structure": 3,
        "test_product_with_mask_and_accumulator_writes_inside_of_the_mask_only": 7,
        "test_products_under_vmap_and_scan_are_those_of_each": 3,
        "test_vecmat_and_matvec_are_those_of_the_definition": 11,
    },
    "algebra/test_refused.py": {
        "test_call_with_what_is_right_is_not_refused": 3,
    },
    "algebra/test_semiring.py": {
        "test_fold_is_that_of_numpy": 11,
    },
    "algebra/test_star.py": {
        "test_power_is_the_product_of_so_many": (2, 1),
        "test_star_in_min_plus_is_the_distance_of_all_pairs": 2,
    },
    "bus/test_bad_arguments.py": {
        "test_bad_argument_is_refused_in_the_library_s_words_and_the_bus_goes_on": 3,
    },
    "bus/test_copies.py": {
        "test_head_over_commits_and_writes_keeps_its_buffers": 3,
    },
    "bus/test_derive.py": {
        "test_any_callable_of_arrays_can_derive": 2,
    },
    "bus/test_derive_arguments.py": {
        "test_anything_that_can_be_called_is_a_function": 3,
    },
    "bus/test_derive_interrupts.py": {
        "test_prepare_and_undo_that_are_interrupted_anywhere_leave_all_as_it_was": 2,
    },
    "bus/test_derive_refusals.py": {
        "test_derive_of_a_function_that_fails_when_traced_says_how": 2,
    },
    "bus/test_derive_settings.py": {
        "test_equal_functions_under_other_settings_are_not_one": 3,
        "test_setting_changes_no_byte_of_what_is_compiled_already": 2,
    },
    "bus/test_exact.py": {
        "test_leaf_committed_comes_back_to_the_bit": 3,
        "test_nnx_module_comes_back_as_itself": 2,
    },
    "bus/test_replica.py": {
        "test_replica_is_bit_exact_for_every_dtype_and_kind_of_change": 5,
    },
    "bus/test_settings.py": {
        "test_async_dispatch_on_and_off_gives_the_same_bytes": (2, 1),
        "test_x64_on_and_off_gives_the_same_bytes": 3,
    },
    "bus/test_shadow.py": {
        "test_random_program_on_eight_devices_gives_the_same_log": 5,
        "test_random_programs_give_the_same_log": 40,
    },
    "bus/test_statics.py": {
        "test_static_that_changes_is_refused_with_path_and_both_values": 7,
    },
    "bus/test_strict.py": {
        "test_commit_refused_changes_nothing_and_the_next_one_works": 5,
        "test_int_may_cross_64_bits_both_ways": 3,
    },
    "cli/test_arguments.py": {
        "test_command_on_a_bad_log_says_why_and_changes_nothing": 7,
        "test_command_without_permission_to_read_says_so": 7,
    },
    "cli/test_output.py": {
        "test_command_whose_output_fits_nowhere_says_so": (4, 1),
        "test_command_whose_reader_has_gone_ends_as_by_sigpipe": 4,
    },
    "core/test_delta.py": {
        "test_compose_keeps_the_first_blocks_that_fit": (2, 1),
        "test_compose_with_an_overflowed_delta_has_overflowed": 2,
        "test_diff_keeps_the_first_blocks_that_fit": 3,
        "test_a_block_outside_of_the_pool_is_dropped": 5,
        "test_diff_without_capacity_makes_room_for_a_power_of_two": 3,
    },
    "core/test_digest.py": {
        "test_update_digest_is_the_digest_from_scratch": 4,
    },
    "core/test_in_place.py": {
        "test_apply_of_a_donated_pool_is_in_place": 3,
        "test_replay_into_a_donated_pool_is_in_place": 3,
        "test_diff_allocates_a_byte_for_each_word": 3,
    },
    "core/test_packing.py": {
        "test_every_bit_pattern_of_a_small_dtype_comes_back": 7,
        "test_nan_payloads_and_signed_zeros_come_back": 3,
        "test_pack_and_unpack_under_jit_keep_every_dtype": 5,
    },
    "core/test_replay.py": {
        "test_replay_drops_a_block_outside_of_the_pool": 5,
    },
    "core/test_settings.py": {
        "test_operations_under_a_setting_give_what_they_give_without": 7,
    },
    "core/test_transforms.py": {
        "test_operation_in_a_scan_is_that_of_each": (5, 3),
        "test_operation_under_jit_is_that_of_the_plain_call": 5,
        "test_operation_under_two_vmaps_is_that_of_each": (3, 1),
        "test_operation_under_vmap_is_that_of_each": 9,
    },
    "graph/test_graph_large.py": {
        "test_deep_chain_has_its_levels_whichever_way_it_was_built": 3,
    },
    "graph/test_interpreter.py": {
        "test_wave_under_any_settings_gives_the_same_bytes": 3,
    },
    "graph/test_wave_shapes.py": {
        "test_layered_graph_runs_exactly_what_is_below_the_change": 2,
    },
    "store/test_compact.py": {
        "test_compact_at_any_version_keeps_what_it_says": 3,
    },
    "store/test_unreadable.py": {
        "test_read_whose_nth_call_fails_gives_the_right_thing_or_says_so": 3,
    },
    "test_bad_calls.py": {
        "test_bad_argument_is_refused_in_the_library_s_words": 5,
        "test_call_is_fine": 5,
    },
    "torture/test_fuzz.py": {
        "test_files_that_say_anything_end_in_an_error_or_in_what_was_recorded": 2,
    },
    "torture/test_identity.py": {
        "test_reader_of_a_log_that_was_replaced_or_removed_says_so": 7,
        "test_writer_whose_directory_is_elsewhere_is_refused_before_long": 5,
    },
    "torture/test_interrupts.py": {
        "test_interrupt_at_a_call_or_return_leaves_all_before_or_after": (2, 1),
        "test_interrupt_at_a_random_moment_leaves_all_before_or_after": 4,
    },
    "torture/test_limits.py": {
        "test_too_little_of_anything_leaves_what_was_acknowledged": (3, 1),
    },
    "torture/test_nth_call.py": {
        "test_call_that_fails_at_any_place_leaves_all_as_it_was": 3,
    },
    "torture/test_processes.py": {
        "test_process_made_anew_reads_and_is_refused_to_write": 2,
    },
    "torture/test_syscalls.py": {
        "test_call_that_fails_beneath_python_leaves_what_was_acknowledged": 2,
    },
}
"""File, below this folder → test → one form in how many is run by `make test`.

The first is that of number 0, or of the second number of a pair: so tests of the same graphs differ
in which of them they try.
"""


def halved(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test of Hypothesis with half the examples of the profile."""
    return hypothesis.settings(max_examples=hypothesis.settings().max_examples // 2)(test)


def stepped(step: int) -> pytest.MarkDecorator:
    """Gives ``step`` to a test that goes through a range: this one, and in the long form 1."""
    values = [step, pytest.param(1, marks=pytest.mark.long)]
    return pytest.mark.parametrize("step", values, ids=["sample", "all"])


def mark_long(items: Sequence[pytest.Item]) -> None:
    """Mark the forms that only the long run takes."""
    seen: Counter[tuple[str, str]] = Counter()
    thinned = int(os.environ.get("THINNED", "1"))
    for item in items:
        file, _, name = item.nodeid.removeprefix("tests/").partition("::")
        test, _, form = name.partition("[")
        every = EVERY.get(file, {}).get(test, 1)
        step, first = every if isinstance(every, tuple) else (every, 0)
        if form and seen[file, test] % (step * thinned) != first:
            item.add_marker(pytest.mark.long)
        seen[file, test] += 1
