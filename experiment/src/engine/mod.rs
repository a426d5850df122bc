//! Makes the images of a plan on any backend. It loads the models once. If they stay in memory, it encodes a prompt once for
//! all its points. `generate` is a plan of one point and one batch and takes the same way.

mod encoded;
mod finished;
mod make;
mod models;
mod plugins;
mod run;
mod sink;
mod task;

pub use finished::{FinishedBatch, FinishedImage};
pub use plugins::Plugins;
pub use run::PlannedRun;
pub use sink::Sink;
pub use task::{Batch, ImageTask, Replay};
