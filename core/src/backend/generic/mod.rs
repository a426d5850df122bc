//! The bodies of the defaulted methods, as public functions: what a backend gets for nothing, what an override falls
//! back to, and what it is checked against. Each is bounded by the level *below* the method it serves.

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
