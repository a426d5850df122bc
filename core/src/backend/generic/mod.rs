//! The bodies of the default methods, as public functions. A backend gets them without work, and its overrides can
//! fall back to them. Tests check overrides against them. Each body is bounded by the level *below* its method.

mod attention;
mod block;
mod nn;
mod tensor;

pub use attention::{
    attention, dense_map, dense_read, dense_row_entropy, dense_second_moment, dense_votes, read, row_entropy,
    second_moment, streamed_from_qk, votes,
};
pub use block::{block, dense_block, dense_strongest, dense_top_k, strongest, top_k};
pub use nn::{geglu, group_norm, layer_norm, linear, quick_gelu};
pub use tensor::{
    from_f32, indices_complement, indices_concat, indices_gather, indices_inverse, indices_reshape,
    scatter_into, segment_mean, softmax, to_f32,
};
