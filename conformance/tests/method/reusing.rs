//! A method that reuses earlier outputs. At every odd step, nest 1 and one cross-attention outside it return their last
//! output. From step 3 on it wants no guidance.

use std::collections::BTreeMap;

use atedm_core::backend::dims;
use atedm_core::plugin::{
    Action, BlockId, BlockShape, Event, LayerTokens, NestId, NestSite, Row, Run, Site, Step, StepOf,
    Sublayer, TokenReducer,
};
use atedm_core::reference::NdTensor;
use atedm_core::{Error, Result, Tensor};

use crate::faults::Fault;

/// The nest that does not run at odd steps.
const NEST: NestId = NestId(1);

#[derive(Debug)]
pub(crate) struct Reusing {
    fault: Option<Fault>,
    /// Whether it reuses no sublayer's output.
    nests_only: bool,
    nests: BTreeMap<Row, NdTensor>,
    sublayers: BTreeMap<(BlockId, Row), NdTensor>,
}

/// Whether a step reuses earlier outputs.
fn reuses(index: usize) -> bool {
    index % 2 == 1
}

/// Whether a guided run is planned to be guided at a step.
pub(crate) fn guided(step: StepOf) -> bool {
    step.index < 3
}

/// The nest that is planned to be replaced.
pub(crate) fn replaced(step: StepOf) -> Option<NestId> {
    reuses(step.index).then_some(NEST)
}

/// Whether cross-attention is replaced here: in the second layer of the block that is only in nest 0.
fn is_kept(block: BlockId, layer: usize) -> bool {
    block.level == 0 && block.index == 1 && layer == 1
}

/// The planned tokens.
pub(crate) fn counts(block: &BlockShape, step: usize) -> Vec<LayerTokens> {
    let layer = |layer| {
        let whole = block.layer(block.grid.tokens());
        match reuses(step) && is_kept(block.id, layer) {
            true => LayerTokens { cross_attention: 0, ..whole },
            false => whole,
        }
    };
    (0..block.depth).map(layer).collect()
}

impl Reusing {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self { fault, nests_only: false, nests: BTreeMap::new(), sublayers: BTreeMap::new() }
    }

    /// The method without replaced sublayers.
    pub(crate) fn of_nests(fault: Option<Fault>) -> Self {
        Self { nests_only: true, ..Self::new(fault) }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The keys under which the rows' outputs are stored.
    fn keys(&self, rows: &[Row]) -> Vec<Row> {
        let key = |(place, row): (usize, &Row)| match self.has(Fault::NestsAreRememberedByPlace) {
            true => Row { image: place as u64, ..*row },
            false => *row,
        };
        rows.iter().enumerate().map(key).collect()
    }

    fn forget(&mut self) {
        self.nests.clear();
        self.sublayers.clear();
    }
}

/// Splits a batch into its rows.
fn each_row(output: &NdTensor, rows: usize) -> Result<Vec<NdTensor>> {
    let [batch, ..] = dims::<3, _>(output, "reusing")?;
    if batch != rows {
        return Err(Error::shape("reusing", format!("[{rows}, tokens, channels]"), output.shape()));
    }
    (0..rows).map(|row| output.narrow(0, row, 1)).collect()
}

/// Joins rows to a batch, if all of them exist.
fn together(rows: Vec<Option<&NdTensor>>) -> Result<Option<NdTensor>> {
    let rows: Option<Vec<&NdTensor>> = rows.into_iter().collect();
    rows.map(|rows| NdTensor::concat(&rows, 0)).transpose()
}

fn shorter(output: NdTensor) -> Result<NdTensor> {
    let tokens = output.shape()[1];
    output.narrow(1, 0, tokens - 1)
}

impl TokenReducer<NdTensor> for Reusing {
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        if !self.has(Fault::NestsAreNeverForgotten) && !self.has(Fault::NestsAreForgottenAtTheEnd) {
            self.forget();
        }
        Ok(())
    }

    fn wants_guidance(&mut self, step: &Step) -> bool {
        let late = usize::from(self.has(Fault::GuidesOneStepMore));
        guided(StepOf { index: step.index - late.min(step.index), total: step.total })
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        let kept = !self.nests_only && is_kept(site.block, site.layer);
        match event {
            Event::Before { sub: Sublayer::CrossAttention, .. } if kept && reuses(site.step.index) => {
                let of = |row: &Row| self.sublayers.get(&(site.block, *row));
                let Some(output) = together(site.rows.iter().map(of).collect())? else {
                    return Ok(Action::Continue);
                };
                Ok(match self.has(Fault::SublayerOutputsAreTooShort) {
                    true => Action::Replace(shorter(output)?),
                    false => Action::Replace(output),
                })
            }
            Event::Before { sub: Sublayer::FeedForward, normed, .. }
                if self.has(Fault::SublayersAreReplacedUnplanned) && site.depth == 1 =>
            {
                Ok(Action::Replace(normed.clone()))
            }
            Event::Attended { sub: Sublayer::CrossAttention, output, .. }
                if self.has(Fault::ReplacesTooLate) =>
            {
                Ok(Action::Replace(output.clone()))
            }
            Event::After { sub: Sublayer::CrossAttention, output, .. } if kept => {
                let rows = each_row(output, site.rows.len())?;
                self.sublayers.extend(site.rows.iter().map(|row| (site.block, *row)).zip(rows));
                Ok(Action::Continue)
            }
            _ => Ok(Action::Continue),
        }
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &NdTensor) -> Result<Option<NdTensor>> {
        if self.has(Fault::NestsReadShapesBlindly) {
            assert_eq!(hidden.shape()[2], 8);
        }
        let often = self.has(Fault::NestsAreReplacedTooOften) && site.step.index > 0;
        if site.nest != NEST || !(reuses(site.step.index) || often) {
            return Ok(None);
        }
        let mut rows: Vec<_> = self.keys(site.rows).iter().map(|row| self.nests.get(row)).collect();
        if self.has(Fault::NestOutputsAreOfOneRow) {
            rows = vec![rows[0]; rows.len()];
        }
        let output = together(rows)?;
        match self.has(Fault::NestOutputsAreTooShort) {
            true => output.map(shorter).transpose(),
            false => Ok(output),
        }
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &NdTensor) -> Result<Option<NdTensor>> {
        if self.has(Fault::NestsReadShapesBlindly) {
            assert_eq!(output.shape()[2], 8);
        }
        if site.nest == NEST {
            let rows = each_row(output, site.rows.len())?;
            self.nests.extend(self.keys(site.rows).into_iter().zip(rows));
        }
        if self.has(Fault::NestsAreForgottenAtTheEnd)
            && site.nest == NestId::EVALUATION
            && site.step.index + 1 == site.step.total
        {
            self.forget();
        }
        Ok(None)
    }
}
