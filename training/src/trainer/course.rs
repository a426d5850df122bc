//! A course of training. It sums the workers' gradients in order and then does a step of the optimizer.

use atedm_core::{Error, Result, Weights};
use atedm_tch::{OrBackend, TchTensor};
use tch::{Kind, Tensor as Raw};

use super::optimizer::{AdamW, Course};
use super::parameters::Parameters;

/// One share of every batch: its data and its loss. It runs on a thread of its own, so it holds its own handles.
pub(super) trait Worker: Send {
    /// The mean loss (a scalar with a gradient) of this worker's share of the batch of `step`. It depends only on the
    /// recipe and on `step`.
    fn loss(&mut self, weights: &Weights<TchTensor>, step: u64) -> Result<TchTensor>;
}

/// Parameters in the course of training.
#[derive(Debug)]
pub(super) struct Progress {
    /// The parameters.
    pub(super) parameters: Parameters,
    /// The optimizer's state.
    pub(super) optimizer: AdamW,
    /// Steps done.
    pub(super) done: u64,
}

impl Progress {
    /// A course at its beginning.
    pub(super) fn new(parameters: Parameters) -> Result<Self> {
        Ok(Self { optimizer: AdamW::new(&parameters)?, parameters, done: 0 })
    }

    /// Does one step. Every worker computes its gradient on its own thread. Gradients are summed in the workers' order,
    /// so the result does not depend on which worker is first. Gives the mean loss.
    pub(super) fn step<W: Worker>(&mut self, workers: &mut [W], course: &Course, kind: Kind) -> Result<f64> {
        let step = self.done;
        let shares: Vec<Result<(f64, Raw)>> = std::thread::scope(|scope| {
            let start = |worker| {
                let handles = self.parameters.handles();
                scope.spawn(move || -> Result<(f64, Raw)> {
                    let weights = handles.weights(kind)?;
                    let loss = W::loss(worker, &weights, step)?;
                    let value = loss.as_ref().f_double_value(&[]).or_backend("loss")?;
                    Ok((value, handles.gradient(&loss)?))
                })
            };
            let running: Vec<_> = workers.iter_mut().map(start).collect();
            let died =
                |_| Err(Error::NotFinite { what: "a worker of the training (it panicked)".to_string() });
            running.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
        });
        let (mut total, mut sum): (f64, Option<Raw>) = (0.0, None);
        let count = shares.len() as f64;
        for share in shares {
            let (loss, gradient) = share?;
            total += loss / count;
            let gradient = gradient.f_mul_scalar(1.0 / count).or_backend("gradient")?;
            sum = Some(match sum {
                None => gradient,
                Some(sum) => sum.f_add(&gradient).or_backend("gradient")?,
            });
        }
        let gradient = sum.ok_or_else(|| Error::config("workers", "expected at least 1, got 0"))?;
        self.optimizer.step(&self.parameters, &gradient, course, step)?;
        self.done += 1;
        Ok(total)
    }
}
