//! Who takes the images of a run.

use atedm_core::Error;

use super::finished::FinishedBatch;
use super::task::ImageTask;
use crate::failure::{Failure, Outcome};

/// Takes images when they are finished.
pub trait Sink {
    /// Is called once, when the models are loaded and before the first image is made.
    ///
    /// # Errors
    /// A failure if images cannot be kept. The run then makes none.
    fn begin(&mut self) -> Outcome {
        Ok(())
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// A failure if the batch cannot be kept. The run then makes no other.
    fn keep(&mut self, finished: FinishedBatch<'_>) -> Outcome;

    /// The failure for an error that stopped a batch. It names the prompt and the point.
    fn blame(&self, error: Error, task: &ImageTask<'_>) -> Failure {
        let prompt = task.prompts.first().map_or("", |prompt| prompt.id.as_str());
        Failure::from(error).within(format!("{prompt} {}", task.point.info.label))
    }
}

impl<F: FnMut(FinishedBatch<'_>) -> Outcome> Sink for F {
    fn keep(&mut self, finished: FinishedBatch<'_>) -> Outcome {
        self(finished)
    }
}
