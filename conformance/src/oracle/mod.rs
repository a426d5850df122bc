//! Every operation again, in plain loops over f64. They are slow, but simple enough to be certainly correct.

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
