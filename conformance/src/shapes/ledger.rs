//! Where multiplies are booked.

use std::sync::{Arc, Mutex, PoisonError};

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Account {
    /// The model's: linear maps, convolutions, attention.
    #[default]
    Model,
    /// A pruning method's: votes, reads, similarity.
    Scoring,
}

/// Multiply-accumulates by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Of matrix products.
    pub matmul: u64,
    /// Of convolutions.
    pub convolution: u64,
}

impl Tally {
    /// All kinds.
    pub fn macs(&self) -> u64 {
        self.matmul + self.convolution
    }

    /// 2 × MAC · 10⁻¹².
    pub fn tflop(&self) -> f64 {
        2e-12 * self.macs() as f64
    }
}

/// What a run would have cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The model's own work.
    pub model: Tally,
    /// The method's.
    pub scoring: Tally,
    /// Elements of all weights.
    pub parameters: u64,
    /// Elements of the largest tensor made by an operation.
    pub largest_tensor: usize,
    /// Elements of the largest `[.., rows, columns]` of one head of one row: last two of four axes, as an attention
    /// map has them.
    pub largest_map: usize,
    account: Account,
}

impl Ledger {
    /// Books multiply-accumulates of matrix products to whoever works.
    pub fn book_matmul(&mut self, macs: u64) {
        self.tally().matmul += macs;
    }

    /// Books multiply-accumulates of convolutions.
    pub fn book_convolution(&mut self, macs: u64) {
        self.tally().convolution += macs;
    }

    /// Notes a tensor that an operation made.
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

/// A handle to a ledger: what tensors without data live on.
#[derive(Debug, Clone, Default)]
pub struct ShapeDevice(Arc<Mutex<Ledger>>);

impl ShapeDevice {
    /// What was booked so far.
    pub fn ledger(&self) -> Ledger {
        self.with(|ledger| *ledger)
    }

    /// Starts a new page; the weights stay counted.
    pub fn clear(&self) {
        self.with(|ledger| *ledger = Ledger { parameters: ledger.parameters, ..Ledger::default() });
    }

    /// Works on the ledger.
    pub fn with<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `f` with everything booked to the method's account.
    pub fn scoring<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.with(|ledger| std::mem::replace(&mut ledger.account, Account::Scoring));
        let result = f();
        self.with(|ledger| ledger.account = before);
        result
    }
}
