"""What `make test` tries a sample of, and `make test-long` all of.

A test with many forms is in `EVERY`: each so-manyth of its forms is run by `make test`. The numbers
have no factor in common with those of the values of a parameter, so that each value has its turn. A
test that goes through all bytes, or moments, takes its step from `stepped`.
"""

from collections import Counter
from collections.abc import Sequence

import pytest

EVERY = {
    "algebra/test_empty.py": {
        "test_folds_closures_and_powers_without_entries": 5,
        "test_gradients_without_entries_are_zero": 5,
        "test_paths_without_edges_reach_the_source_alone": 9,
        "test_products_without_entries_are_zero": 9,
    },
    "algebra/test_gradients.py": {
        "test_path_gradient_is_the_flow_along_the_tree": 7,
        "test_product_gradient_is_that_of_differences": 5,
        "test_product_gradient_where_nothing_wins_is_that_of_differences": 2,
    },
    "algebra/test_laws.py": {
        "test_check_of_instance_finds_nothing": 7,
        "test_semiring_law_holds_for_drawn_values": 7,
    },
    "algebra/test_paths.py": {
        "test_best_paths_are_a_fixed_point": 5,
        "test_k_hop_is_the_nodes_within_so_many_edges": 3,
        "test_longest_paths_of_a_dag_are_those_of_networkx": 5,
        "test_paths_under_vmap_are_those_of_each_source": 3,
        "test_paths_where_going_round_does_not_help_have_values": 2,
        "test_paths_with_a_nan_end_and_say_so": 2,
        "test_paths_with_an_endless_cycle_show_it_and_under_jit_mark_where_it_leads": 3,
        "test_reachable_is_that_of_scipy_with_a_tree_of_fewest_edges": 5,
        "test_shortest_paths_are_those_of_scipy": 9,
        "test_shortest_paths_of_real_weights_are_those_of_scipy_to_rounding": 3,
        "test_shortest_paths_with_edges_of_no_length_have_a_tree": 2,
        "test_shortest_paths_with_negative_edges_are_those_of_bellman_and_ford": 3,
        "test_widest_paths_are_those_of_a_spanning_tree": 7,
    },
    "algebra/test_products.py": {
        "test_matmul_of_every_pair_is_that_of_the_definition": 7,
        "test_matmul_of_sparse_matrices_within_a_mask_has_its_structure": 3,
        "test_product_with_mask_and_accumulator_writes_inside_of_the_mask_only": 5,
        "test_products_under_vmap_and_scan_are_those_of_each": 3,
        "test_vecmat_and_matvec_are_those_of_the_definition": 11,
    },
    "algebra/test_semiring.py": {
        "test_fold_is_that_of_numpy": 4,
    },
    "bus/test_derive_refusals.py": {
        "test_derive_of_a_function_that_fails_when_traced_says_how": 2,
    },
    "core/test_in_place.py": {
        "test_diff_allocates_a_byte_for_each_word": 3,
    },
    "core/test_packing.py": {
        "test_every_bit_pattern_of_a_small_dtype_comes_back": 3,
    },
    "core/test_replay.py": {
        "test_replay_drops_a_block_outside_of_the_pool": 5,
    },
    "core/test_settings.py": {
        "test_operations_under_a_setting_give_what_they_give_without": 4,
    },
    "core/test_transforms.py": {
        "test_operation_in_a_scan_is_that_of_each": 3,
        "test_operation_under_jit_is_that_of_the_plain_call": 3,
        "test_operation_under_two_vmaps_is_that_of_each": 2,
        "test_operation_under_vmap_is_that_of_each": 5,
    },
    "store/test_unreadable.py": {
        "test_read_whose_nth_call_fails_gives_the_right_thing_or_says_so": 3,
    },
    "torture/test_identity.py": {
        "test_writer_whose_directory_is_elsewhere_is_refused_before_long": 3,
    },
    "torture/test_interrupts.py": {
        "test_interrupt_at_a_random_moment_leaves_all_before_or_after": 3,
    },
    "torture/test_limits.py": {
        "test_too_little_of_anything_leaves_what_was_acknowledged": 2,
    },
    "torture/test_nth_call.py": {
        "test_call_that_fails_at_any_place_leaves_all_as_it_was": 3,
    },
}
"""File, below this folder → test → one form in how many is run by `make test`."""


def stepped(step: int) -> pytest.MarkDecorator:
    """Gives ``step`` to a test that goes through a range: this one, and in the long form 1."""
    values = [step, pytest.param(1, marks=pytest.mark.long)]
    return pytest.mark.parametrize("step", values, ids=["sample", "all"])


def mark_long(items: Sequence[pytest.Item]) -> None:
    """Mark the forms that only the long run takes."""
    seen: Counter[tuple[str, str]] = Counter()
    for item in items:
        file, _, name = item.nodeid.removeprefix("tests/").partition("::")
        test = name.partition("[")[0]
        every = EVERY.get(file, {}).get(test)
        if every is not None:
            if seen[file, test] % every:
                item.add_marker(pytest.mark.long)
            seen[file, test] += 1
