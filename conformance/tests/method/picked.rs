//! A reduction that keeps some tokens and gives all others the value of a kept one, optionally with a fault.

use std::sync::atomic::{AtomicUsize, Ordering};

use atedm_core::plugin::{IndexPlan, Reduction, expect_tokens};
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};
use atedm_core::{DType, Indices, Partition, Result, Tensor};

use crate::faults::Fault;

#[derive(Debug, Clone)]
pub(crate) struct Picked {
    plan: IndexPlan<NdTensor>,
    kept: Vec<Vec<u32>>,
    protected: (usize, usize),
    fault: Option<Fault>,
}

impl Picked {
    /// Each row keeps these tokens of `tokens`. The others get the first one's value.
    pub(crate) fn new(
        kept: Vec<Vec<u32>>,
        tokens: usize,
        protected: (usize, usize),
        fault: Option<Fault>,
    ) -> Result<Self> {
        let partition = Partition::<NdTensor>::from_kept(&kept, tokens, &NdDevice)?;
        let donors = vec![vec![0; partition.pruned.dims().1]; kept.len()];
        let plan = IndexPlan::new(&partition, &NdIndices::from_host(&donors, &NdDevice)?)?;
        Ok(Self { plan, kept, protected, fault })
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

impl Reduction<NdTensor> for Picked {
    fn kept(&self) -> usize {
        match self.fault {
            Some(Fault::KeptIsOneMore) => self.plan.kept() + 1,
            Some(Fault::KeepsNothing) => 0,
            _ => self.plan.kept(),
        }
    }

    fn shrink(&self, full: &NdTensor) -> Result<NdTensor> {
        match self.fault {
            Some(Fault::ShrinkTakesAnything) => full.gather(1, &NdIndices::from_host(&self.kept, &NdDevice)?),
            Some(Fault::IdleRounds) => self.plan.shrink(&full.cast(DType::F32)?.cast(DType::F64)?),
            _ => self.plan.shrink(full),
        }
    }

    fn restore(&self, reduced: &NdTensor) -> Result<NdTensor> {
        let full = self.plan.restore(reduced);
        match self.fault {
            Some(Fault::RestoresTooFew) => full.and(Ok(reduced.clone())),
            Some(Fault::RestoresOneMore) => full?.affine(1.0, 1.0),
            Some(Fault::RestoresNan) => full?.affine(f64::NAN, 0.0),
            Some(Fault::RestorePanics) => {
                assert_eq!(reduced.shape()[1], self.plan.kept());
                full
            }
            Some(Fault::ProtectedAreMerged) => {
                let full = full?;
                let (start, end) = self.protected;
                expect_tokens(&full, full.shape()[1], "restore")?;
                if end < start + 2 {
                    return Ok(full);
                }
                let mean = full.narrow(1, start, 2)?.mean(1)?;
                let rest = full.shape()[1] - start - 2;
                let after = full.narrow(1, start + 2, rest)?;
                NdTensor::concat(&[&full.narrow(1, 0, start)?, &mean, &mean, &after], 1)
            }
            _ => full,
        }
    }

    fn positions(&self) -> Option<Result<NdIndices>> {
        let mut rows = self.kept.clone();
        match self.fault {
            Some(Fault::PositionsDescend) => rows.iter_mut().for_each(|row| row.reverse()),
            Some(Fault::PositionsLieBeyond) => rows.iter_mut().flatten().for_each(|place| *place += 1000),
            Some(Fault::PositionsRepeat) => rows.iter_mut().for_each(|row| row.fill(0)),
            Some(Fault::PositionsAreOfOneRow) => rows.extend_from_within(..1),
            Some(Fault::PositionsWander) => {
                static CALLS: AtomicUsize = AtomicUsize::new(0);
                let calls = CALLS.fetch_add(1, Ordering::Relaxed);
                for row in &mut rows {
                    let turn = calls % row.len().max(1);
                    row.rotate_left(turn);
                }
            }
            _ => {}
        }
        Some(NdIndices::from_host(&rows, &NdDevice))
    }

    fn clone_box(&self) -> Box<dyn Reduction<NdTensor>> {
        if !self.has(Fault::CopyForgetsTheOrder) {
            return Box::new(self.clone());
        }
        let (tokens, count) = (self.plan.source().dims().1, self.plan.kept() as u32);
        let last = (tokens as u32 - count..tokens as u32).collect();
        let rows = vec![last; self.kept.len()];
        Box::new(Self::new(rows, tokens, self.protected, None).unwrap())
    }
}
