//! A method that is easy to get wrong. It shrinks the stream by the tokens' values and reduces keys around
//! self-attention. For each row it remembers whether it last kept large or small values.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use atedm_conformance::host::Array;
use atedm_core::backend::dims;
use atedm_core::plugin::LayerTokens;
use atedm_core::plugin::{Action, BlockId, BlockShape, Event, Row, Run, Scope, Site, Sublayer, TokenReducer};
use atedm_core::reference::NdTensor;
use atedm_core::{Error, Result};

use crate::faults::Fault;
use crate::picked::Picked;

/// Half of the tokens, rounded up.
fn half(tokens: usize) -> usize {
    tokens.div_ceil(2)
}

#[derive(Debug)]
pub(crate) struct Toy {
    /// Whether it removes nothing.
    pub(crate) idle: bool,
    pub(crate) fault: Option<Fault>,
    /// Whether a row keeps large values next time.
    large: BTreeMap<(BlockId, Row), bool>,
    /// Layers of the block that the pass has entered.
    layers: usize,
    plans: BTreeMap<BlockId, Picked>,
}

impl Toy {
    pub(crate) fn new(idle: bool, fault: Option<Fault>) -> Self {
        Self { idle, fault, large: BTreeMap::new(), layers: 0, plans: BTreeMap::new() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// The `count` tokens that each row keeps, including those of `protected`.
    fn pick(&mut self, site: &Site<'_>, hidden: &NdTensor, count: usize) -> Result<Picked> {
        let [batch, tokens, _] = dims(hidden, "toy")?;
        if batch != site.rows.len() || tokens != site.tokens {
            return Err(Error::shape(
                "toy",
                format!("[{}, {}, channels]", site.rows.len(), site.tokens),
                [batch, tokens],
            ));
        }
        static CHANCE: AtomicU64 = AtomicU64::new(0);
        let chance = CHANCE.fetch_add(1, Ordering::Relaxed);
        let host = Array::read(hidden)?;
        let value = |b: usize, token: usize| host.at(&[b, token, 0]);
        let mut kept = Vec::new();
        for (b, row) in site.rows.iter().enumerate() {
            let key = match self.has(Fault::RemembersByPlace) {
                true => Row { image: b as u64, ..*row },
                false => *row,
            };
            let large =
                *self.large.entry((site.block, key)).and_modify(|large| *large = !*large).or_insert(true);
            let sign = if large { 1.0 } else { -1.0 };
            let score = |token: usize| match self.fault {
                _ if (site.protected.0..site.protected.1).contains(&token)
                    && !self.has(Fault::ProtectedAreRemoved) =>
                {
                    f64::INFINITY
                }
                Some(Fault::DecidesByTheFirstRow) => sign * value(0, token),
                Some(Fault::DecidesByTheMeanOfTheBatch) => {
                    sign * (0..batch).map(|b| value(b, token)).sum::<f64>()
                }
                Some(Fault::DecidesByChance) => (chance.wrapping_mul(token as u64 + 7) % 13) as f64,
                _ => sign * value(b, token),
            };
            let mut order: Vec<u32> = (0..tokens as u32).collect();
            order.sort_by(|&i, &j| score(j as usize).total_cmp(&score(i as usize)));
            order.truncate(count);
            order.sort_unstable();
            kept.push(order);
        }
        Picked::new(kept, tokens, site.protected, self.fault)
    }

    /// The number of kept tokens if half of the unprotected ones are kept.
    fn count(&self, site: &Site<'_>) -> usize {
        let protected = site.protected.1 - site.protected.0;
        half(site.tokens - protected) + protected
    }

    fn after_layer(&mut self, site: &Site<'_>, hidden: &NdTensor) -> Result<Action<NdTensor>> {
        let first = if self.has(Fault::ForgetsOnlyAtTheExit) { self.layers == 1 } else { site.layer == 0 };
        if !first || site.is_last_layer() {
            return Ok(Action::Continue);
        }
        if let (true, Some(plan)) = (self.has(Fault::PlansServeOtherGrids), self.plans.get(&site.block)) {
            return Ok(Action::UntilExit(Box::new(plan.clone())));
        }
        let plan = self.pick(site, hidden, self.count(site))?;
        self.plans.insert(site.block, plan.clone());
        Ok(Action::UntilExit(Box::new(plan)))
    }
}

impl TokenReducer<NdTensor> for Toy {
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        if !self.has(Fault::NeverForgets) {
            self.large.clear();
        }
        if !self.has(Fault::ForgetsOnlyAtTheExit) {
            self.layers = 0;
        }
        Ok(())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        use atedm_core::Tensor;
        if self.has(Fault::FailsOnOddGrids) && site.grid.tokens() % 2 == 1 {
            return Err(Error::config("grid", "expected an even number of tokens"));
        }
        match event {
            Event::LayerEnter { hidden } => {
                self.layers += 1;
                if self.has(Fault::ReadsShapesBlindly) {
                    assert_eq!(hidden.shape()[2], 8);
                }
                Ok(Action::Continue)
            }
            Event::Before { sub: Sublayer::SelfAttention, normed, .. } if self.idle => {
                let count = match self.fault {
                    Some(Fault::IdleRemovesOne) if site.tokens > 1 => site.tokens - 1,
                    Some(Fault::IdleRounds) => site.tokens,
                    _ => return Ok(Action::Continue),
                };
                let by = Box::new(self.pick(site, normed, count)?);
                Ok(Action::Around { scope: Scope::KeysValues, by })
            }
            Event::Before { sub: Sublayer::SelfAttention, normed, .. } if site.depth == 1 => {
                let by = Box::new(self.pick(site, normed, self.count(site))?);
                Ok(Action::Around { scope: Scope::KeysValues, by })
            }
            Event::Attended { sub: Sublayer::SelfAttention, values, .. }
                if self.has(Fault::AnswersTooEarly) =>
            {
                let [batch, ..] = dims::<4, _>(values, "toy")?;
                let kept = vec![(0..half(site.tokens) as u32).collect(); batch];
                Ok(Action::UntilExit(Box::new(Picked::new(kept, site.tokens, (0, 0), None)?)))
            }
            Event::Before { sub: Sublayer::JointAttention, .. } if self.has(Fault::RefusesInTwoLines) => {
                Err(Error::config("toy", "does not take\njoint attention"))
            }
            Event::After { sub, hidden, .. } if sub.has_feed_forward() && !self.idle => {
                self.after_layer(site, hidden)
            }
            Event::BlockExit { .. } => {
                self.layers = 0;
                Ok(Action::Continue)
            }
            _ => Ok(Action::Continue),
        }
    }
}

/// The planned counts of the method.
pub(crate) fn counts(block: &BlockShape, fault: Option<Fault>) -> Vec<LayerTokens> {
    let more = usize::from(fault == Some(Fault::CountsAreOneMore));
    let (all, kept) = (block.grid.tokens(), half(block.grid.tokens()) + more);
    if block.depth == 1 {
        return vec![LayerTokens { self_keys: kept, ..block.layer(all) }];
    }
    let of = |tokens: usize| match fault {
        Some(Fault::CountsAreOfAUNet) => LayerTokens::whole(tokens),
        _ => block.layer(tokens),
    };
    (0..block.depth).map(|layer| of(if layer == 0 { all } else { kept })).collect()
}
