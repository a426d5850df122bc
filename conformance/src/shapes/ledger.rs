//! Counts multiply-accumulates.

use std::sync::{Arc, Mutex, PoisonError};

/// The account that work is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Account {
    /// The model's work: linear maps, convolutions, attention.
    #[default]
    Model,
    /// A pruning method's work: votes, reads, similarity.
    Scoring,
}

/// Multiply-accumulates by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Multiply-accumulates of matrix products.
    pub matmul: u64,
    /// Multiply-accumulates of convolutions.
    pub convolution: u64,
}

impl Tally {
    /// The sum over all kinds.
    pub fn macs(&self) -> u64 {
        self.matmul + self.convolution
    }

    /// The sum in TFLOP: 2 × MAC · 10⁻¹².
    pub fn tflop(&self) -> f64 {
        2e-12 * self.macs() as f64
    }
}

/// The cost that a run would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The model's own work.
    pub model: Tally,
    /// The method's own work.
    pub scoring: Tally,
    /// Number of elements of all weights.
    pub parameters: u64,
    /// Number of elements of the largest tensor that an operation made.
    pub largest_tensor: usize,
    /// Number of elements of the largest `[rows, columns]`: the last two of four axes. An attention map of one head and
    /// row has this size.
    pub largest_map: usize,
    account: Account,
}

impl Ledger {
    /// Counts multiply-accumulates of matrix products for the current account.
    pub fn book_matmul(&mut self, macs: u64) {
        self.tally().matmul += macs;
    }

    /// Counts multiply-accumulates of convolutions for the current account.
    pub fn book_convolution(&mut self, macs: u64) {
        self.tally().convolution += macs;
    }

    /// Records the size of a tensor that an operation made.
    pub fn note(&mut self, shape: &[usize]) {
        self.largest_tensor = self.largest_tensor.max(shape.iter().product());
        if let [_, _, rows, columns] = shape {
            self.largest_map = self.largest_map.max(rows * columns);
        }
    }

    fn tally(&mut self) -> &mut Tally {
        match self.account {
            Account::Model => &mut self.model,
            Account::Scoring => &mut self.scoring,
        }
    }
}

/// A handle to a ledger. It is the device of tensors without data.
#[derive(Debug, Clone, Default)]
pub struct ShapeDevice(Arc<Mutex<Ledger>>);

impl ShapeDevice {
    /// The counts so far.
    pub fn ledger(&self) -> Ledger {
        self.with(|ledger| *ledger)
    }

    /// Resets the counts, except for the weights.
    pub fn clear(&self) {
        self.with(|ledger| *ledger = Ledger { parameters: ledger.parameters, ..Ledger::default() });
    }

    /// Calls `f` with the ledger.
    pub fn with<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `f` with all work counted for the method.
    pub fn scoring<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.with(|ledger| std::mem::replace(&mut ledger.account, Account::Scoring));
        let result = f();
        self.with(|ledger| ledger.account = before);
        result
    }
}
