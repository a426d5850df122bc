//! Every operation again, in plain loops over f64: slow, and nothing in it to get wrong.

mod attention;
mod block;
mod nn;
mod page_rank;
mod recovery;
mod tensor;

pub use attention::*;
pub use block::*;
pub use nn::*;
pub use page_rank::*;
pub use recovery::*;
pub use tensor::*;
