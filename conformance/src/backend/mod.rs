//! The suite for backends: generic functions, each of which checks one rule of the contract for every dtype that a
//! backend offers. `conformance_suite!` makes them tests. [`run_suite`] makes a [`Report`] of them.
//!
//! A check is `fn(&DeviceOf<B>, DType) -> Result<()>`. It fails by an unexpected error or a failed assertion.
//!
//! ```
//! use atedm_core::DType;
//! use atedm_core::reference::{NdDevice, Reference32};
//!
//! atedm_conformance::conformance_suite!(f32, Reference32, NdDevice, &[DType::F32]);
//! ```

pub mod at_edm;
pub mod attention;
pub mod block;
pub mod choice;
pub mod donors;
pub mod graph;
pub mod layout;
pub mod memory;
pub mod nn;
pub mod properties;
pub mod reuse;
pub mod seam;
pub mod support;
pub mod tensor;

use atedm_core::{Backend, DType, DeviceOf, Result};

use crate::report::{KnownFailure, Outcome, Report};

/// The type of a check. It fails by an unexpected error or a failed assertion.
pub type CheckFn<B> = fn(&DeviceOf<B>, DType) -> Result<()>;

/// Runs one check for every dtype. The run fails if an unlisted check fails, and also if a check passes that is listed
/// as a known failure.
///
/// # Panics
/// If the outcome is not the expected one.
pub fn run<B: Backend>(
    name: &str,
    check: CheckFn<B>,
    device: &DeviceOf<B>,
    dtypes: &[DType],
    known: &[KnownFailure],
) {
    for &dtype in dtypes {
        Outcome::of(("", name), dtype, known, || check(device, dtype)).assert(B::NAME);
    }
}

/// Runs every check for every dtype, whatever the results are.
pub fn run_suite<B: Backend>(device: &DeviceOf<B>, dtypes: &[DType], known: &[KnownFailure]) -> Report {
    let outcomes = checks::<B>().into_iter().flat_map(|(group, name, check)| {
        dtypes.iter().map(move |&dtype| Outcome::of((group, name), dtype, known, || check(device, dtype)))
    });
    Report::new("backend", B::NAME, outcomes.collect())
}

/// Emits one `#[test]` per check for a backend: `conformance_suite!(name, Backend, device, dtypes[, known failures])`.
#[macro_export]
macro_rules! conformance_suite {
    ($suite:ident, $backend:ty, $device:expr, $dtypes:expr) => {
        $crate::conformance_suite!($suite, $backend, $device, $dtypes, &[]);
    };
    ($suite:ident, $backend:ty, $device:expr, $dtypes:expr, $known:expr) => {
        #[cfg(test)]
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $crate::each_check!($backend, $device, $dtypes, $known);
        }
    };
}

macro_rules! checks {
    ($d:tt; $($group:ident: $($check:ident)*;)*) => {
        /// Every check of the suite: group and name.
        pub const CHECKS: &[(&str, &str)] = &[$($((stringify!($group), stringify!($check)),)*)*];

        /// Every check of the suite for a backend: group, name, and the check itself.
        pub fn checks<B: Backend>() -> Vec<(&'static str, &'static str, CheckFn<B>)> {
            vec![$($((stringify!($group), stringify!($check), $group::$check::<B> as CheckFn<B>),)*)*]
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! each_check {
            ($d backend:ty, $d device:expr, $d dtypes:expr, $d known:expr) => {$($(
                #[test]
                fn $check() {
                    let check = $d crate::backend::$group::$check::<$d backend>;
                    $d crate::backend::run::<$d backend>(stringify!($check), check, &$d device, $d dtypes, $d known);
                }
            )*)*};
        }
    };
}

checks! { $;
    layout:
        bytes_round_trip f32_round_trip full_fills cast_rounds_to_nearest reshape_keeps_the_order
        permute_follows_numpy narrow_takes_a_run concat_joins views_read_back_row_major
        wrong_layouts_are_errors;
    tensor:
        arithmetic_broadcasts_length_one_axes only_length_one_axes_broadcast no_dtype_is_promoted
        affine_exp_ln_sqrt clamp_min_keeps_nan matmul_of_two_to_four_axes matmul_of_views
        matmul_rejects_misfits softmax_of_the_last_axis softmax_of_large_logits reductions_keep_the_axis
        half_precision_sums_do_not_stall wrong_axes_are_errors nothing_works_in_place;
    choice:
        split_top_k_against_the_oracle equal_scores_keep_the_lower_index negative_zero_equals_zero
        nan_scores_are_errors infinite_scores_have_an_order kept_counts_out_of_range_are_errors
        argmax_rows_against_the_oracle argmax_rows_takes_the_lowest_of_equals gather_along_every_axis
        gather_rejects_misfits scatter_into_replaces_rows scatter_into_rejects_misfits
        segment_mean_against_the_oracle segment_mean_rejects_misfits indices_against_plain_lists
        indices_reject_misfits partitions_are_checked;
    nn:
        conv2d_against_the_oracle conv2d_rejects_misfits upsample_nearest_against_the_oracle
        embedding_against_the_oracle activations_against_the_oracle linear_against_the_oracle
        layer_norm_against_the_oracle group_norm_against_the_oracle norms_far_from_zero norms_near_zero
        geglu_against_the_oracle nn_overrides_equal_the_generic_bodies tensor_overrides_equal_the_generic_bodies
        nn_rejects_misfits;
    attention:
        attention_against_the_oracle attention_with_every_bias attention_of_views attention_of_large_logits
        attention_equals_the_generic_body graphs_come_only_when_asked_for log_sum_exp_is_in_the_accumulator
        attention_casts_the_first_vote attention_rejects_misfits;
    graph:
        votes_against_the_oracle read_against_the_oracle row_entropy_against_the_oracle
        row_entropy_of_one_hot_rows second_moment_against_the_oracle strongest_against_the_oracle
        strongest_takes_the_lowest_of_equals streamed_equals_dense graph_from_queries_and_keys
        graph_overrides_equal_the_generic_bodies graphs_beyond_one_block graph_rejects_misfits;
    donors:
        block_against_the_oracle top_k_against_the_oracle top_k_takes_the_lowest_of_equals
        one_donor_is_the_strongest donors_of_nan_are_errors donors_beyond_one_block
        donor_overrides_equal_the_generic_bodies donors_reject_misfits soft_and_update_copy_against_the_oracle
        bicubic_update_copy_against_the_oracle;
    seam:
        unpruned_is_the_plain_block reductions_form_a_stack around_is_undone_before_the_residual
        misplaced_answers_are_errors reducers_pay_only_for_what_they_want
        joint_and_parallel_layers_are_plain_sums tables_follow_the_tokens;
    reuse:
        a_kept_output_stands_for_its_sublayer outputs_in_place_must_fit nests_enclose_each_other;
    at_edm:
        page_rank_on_self_attention page_rank_on_cross_attention convergence_is_judged_per_head
        comparison_scorers_against_the_oracle pruned_blocks_against_the_oracle ratio_zero_is_the_identity
        depth_one_is_the_identity replayed_masks_give_the_same_output guidance_masks_are_shared
        protected_tokens_stay a_first_vote_on_the_way_changes_nothing;
    memory:
        warm_votes_add_up kept_sets_serve_several_evaluations;
    properties:
        every_split_is_a_partition ties_always_keep_the_lower_index kept_rows_survive_every_recovery
        plans_compose scores_are_a_distribution permuting_tokens_permutes_scores
        sparing_configurations_are_identities both_forms_of_any_graph_agree
        overrides_equal_the_generic_bodies_on_any_size;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check that is not listed would never run.
    #[test]
    fn every_check_is_listed() {
        let sources = [
            ("layout", include_str!("layout.rs")),
            ("tensor", include_str!("tensor.rs")),
            ("choice", include_str!("choice.rs")),
            ("nn", include_str!("nn.rs")),
            ("attention", include_str!("attention.rs")),
            ("graph", include_str!("graph.rs")),
            ("donors", include_str!("donors.rs")),
            ("seam", include_str!("seam.rs")),
            ("reuse", include_str!("reuse.rs")),
            ("at_edm", include_str!("at_edm.rs")),
            ("memory", include_str!("memory.rs")),
            ("properties", include_str!("properties.rs")),
        ];
        for (group, source) in sources {
            for line in source.lines().filter(|line| line.starts_with("pub fn ")) {
                let name = line.trim_start_matches("pub fn ").split(['<', '(']).next().unwrap();
                assert!(CHECKS.contains(&(group, name)), "{group}::{name} is not listed");
            }
        }
    }
}
