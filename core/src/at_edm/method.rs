//! AT-EDM as a [`TokenReducer`]: scorer, selector, recovery and schedule at their places in a block (paper, Fig. 3).
//!
//! ```text
//! layer enters      is it a pruning layer now, and how many tokens stay?     (PrunePlan)
//! attention ran     keep its graph or values, if scorer or recovery asked    (step 1)
//! prune point       score, share between halves, select, plan the recovery   (steps 2, 3, 4)
//! block exits       the pass restores, last pruning layer first              (step 6)
//! ```
//!
//! In a stack another method may give the output of an attention, which then has no map. A layer whose self-attention is
//! given prunes only if a kept set is used again; so does one whose cross-attention is given, if that one votes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::AtEdmConfig;
use super::kept::{KeptSet, KeptSets};
use super::options::{Protect, ScoreSource};
use super::parts::Parts;
use super::plan::{LayerQuery, PrunePlan};
use super::recovery::{RecoveryInput, TokenRecovery};
use super::scoring::{FirstVoteQuery, ScoreInput, ScoreNeeds, TokenScorer};
use super::selection::TokenSelector;
use crate::backend::{AttentionGraph, AttentionOps, GraphRequest, Partition, dims};
use crate::plugin::{
    Action, BlockId, BuildContext, Event, GuidanceMasks, MaskKey, MaskSet, PruneRecord, Run, SharedObserver,
    Site, Spots, Sublayer, TokenReducer, lock,
};
use crate::{DType, Error, Indices, Result, Tensor};

/// Is added to the scores of protected tokens. It is above any score, and finite.
const PROTECTED: f32 = 1e30;

/// The method, built by [`AtEdmConfig::build`](super::AtEdmConfig::build).
pub struct AtEdm<T: AttentionOps> {
    plan: PrunePlan,
    scorer: Box<dyn TokenScorer<T>>,
    selector: Box<dyn TokenSelector<T>>,
    recovery: Box<dyn TokenRecovery<T>>,
    guidance: GuidanceMasks,
    observer: Option<SharedObserver<T>>,
    replay: Option<Arc<MaskSet>>,
    seed: u64,
    protect: Protect,
    /// Where the run paints, if those tokens are protected.
    painted: Option<Spots>,
    /// The attention heads of each block that has run. A vote within the forward pass needs their number.
    heads: BTreeMap<BlockId, usize>,
    kept_sets: KeptSets<T>,
    block: BlockState<T>,
    layer: Option<PruningLayer<T>>,
}

/// The state from a block's entry to its exit.
struct BlockState<T: Tensor> {
    entry_tokens: usize,
    positions: Option<T::Indices>,
    /// Whether a layer of this pass has chosen its tokens anew.
    chosen_anew: bool,
}

impl<T: Tensor> BlockState<T> {
    fn entered(tokens: usize) -> Self {
        Self { entry_tokens: tokens, positions: None, chosen_anew: false }
    }
}

/// The state from a pruning layer's entry to its prune point.
struct PruningLayer<T: Tensor> {
    kept: usize,
    batch: usize,
    /// The dtype of scores.
    dtype: DType,
    device: T::Device,
    /// The kept set of an earlier evaluation, if this layer uses it again.
    reused: Option<KeptSet<T>>,
    /// The attention that ran last.
    attended: Option<Sublayer>,
    /// Whether an attention that tokens are chosen by did not run.
    lacks_map: bool,
    self_graph: Option<AttentionGraph<T>>,
    /// The vote that self-attention computed on its way.
    first_vote: Option<T>,
    cross_graph: Option<AttentionGraph<T>>,
    values: Option<T>,
}

/// What an attention sublayer hands over.
struct Shown<'a, T> {
    graph: Option<AttentionGraph<T>>,
    first_vote: Option<T>,
    values: &'a T,
}

/// A selection with the scores and votes that led to it.
struct Choice<T: Tensor> {
    partition: Partition<T>,
    scores: Option<T>,
    votes: usize,
}

impl<T: AttentionOps> AtEdm<T> {
    /// The method of `config`, which follows the counts of `plan`.
    pub(super) fn new(
        config: &AtEdmConfig,
        plan: PrunePlan,
        context: &BuildContext<T>,
        parts: &Parts<T>,
    ) -> Result<Self> {
        config.placement().expect_solved()?;
        Ok(Self {
            plan,
            scorer: parts.scorer(config)?,
            selector: parts.selector(config)?,
            recovery: parts.recovery(config)?,
            guidance: config.guidance,
            observer: context.observer.clone(),
            replay: context.replay.clone(),
            seed: context.seed,
            protect: config.protect,
            painted: None,
            heads: BTreeMap::new(),
            kept_sets: KeptSets::new(config.rescore_every),
            block: BlockState::entered(0),
            layer: None,
        })
    }

    /// The counts that this method follows.
    pub fn plan(&self) -> &PrunePlan {
        &self.plan
    }

    /// What the scorer needs in `layer`. It needs nothing if kept sets are replayed or an earlier one is used again.
    fn score_needs(&self, layer: &PruningLayer<T>) -> ScoreNeeds {
        let scores = self.replay.is_none() && layer.reused.is_none();
        if scores { self.scorer.needs() } else { ScoreNeeds::default() }
    }

    /// Whether the scorer or the recovery needs the graph of `sub` in `layer`.
    fn needs_graph(&self, sub: Sublayer, layer: &PruningLayer<T>) -> bool {
        let scored = self.score_needs(layer).graph;
        let planned = layer.reused.as_ref().is_some_and(|set| set.plan.is_some());
        match sub {
            Sublayer::CrossAttention => scored == Some(ScoreSource::CrossAttention),
            sub if sub.has_self_graph() => {
                scored == Some(ScoreSource::SelfAttention) || (self.recovery.needs_graph() && !planned)
            }
            _ => false,
        }
    }

    fn enter_layer(&mut self, site: &Site<'_>, hidden: &T) -> Result<()> {
        if site.layer == 0 {
            self.block = BlockState::entered(site.tokens);
        }
        let kept = self.plan.kept(&LayerQuery {
            block: site.block,
            layer: site.layer,
            depth: site.depth,
            step: site.step.index,
            total: site.step.total,
            tokens: site.tokens,
            protected: site.protected.1.saturating_sub(site.protected.0),
        })?;
        let kept = match (kept, &self.painted) {
            (Some(kept), Some(painted)) => {
                let least =
                    self.shield(site, Some(painted))?.into_iter().filter(|&shielded| shielded).count();
                self.plan.raised(kept, least, site.tokens)
            }
            (kept, _) => kept,
        };
        if kept.is_none()
            && let Some(masks) = &self.replay
        {
            let key = MaskKey::of(site);
            if masks.get(&key).is_some() {
                return Err(Error::config(
                    "masks",
                    format!("hold a kept set for {key}, which these options do not prune"),
                ));
            }
        }
        let [batch, _, _] = dims(hidden, "at-edm")?;
        self.layer = match kept {
            Some(kept) => Some(PruningLayer {
                kept,
                batch,
                dtype: hidden.dtype().accumulator(),
                device: hidden.device(),
                reused: self.reusable_set(site, kept)?,
                attended: None,
                lacks_map: false,
                self_graph: None,
                first_vote: None,
                cross_graph: None,
                values: None,
            }),
            None => None,
        };
        Ok(())
    }

    /// The kept set of an earlier evaluation that can be used again.
    fn reusable_set(&self, site: &Site<'_>, kept: usize) -> Result<Option<KeptSet<T>>> {
        let found = self.kept_sets.find(site, kept).filter(|_| !self.block.chosen_anew);
        let (Some(set), Some(masks)) = (&found, &self.replay) else { return Ok(found) };
        // A replay uses a set again only where the recorded run has the same kept set.
        let recorded = masks.get(&MaskKey::of(site)).map(|entry| &entry.kept);
        Ok(if recorded == Some(&set.partition.kept.to_host()?) { found } else { None })
    }

    /// The request for a self-attention graph. It includes a first vote if the scorer's start and the heads are known.
    fn graph_request(
        &self,
        site: &Site<'_>,
        sub: Sublayer,
        layer: &PruningLayer<T>,
    ) -> Result<GraphRequest<T>> {
        let votes = sub.has_self_graph() && self.score_needs(layer).graph == Some(ScoreSource::SelfAttention);
        let scores = match self.heads.get(&site.block) {
            Some(&heads) if votes => self.scorer.first_vote_scores(&FirstVoteQuery {
                site,
                entry_tokens: self.block.entry_tokens,
                positions: self.block.positions.as_ref(),
                shape: [layer.batch, heads, site.tokens],
                dtype: layer.dtype,
                device: layer.device.clone(),
            })?,
            _ => None,
        };
        Ok(scores.map_or(GraphRequest::Lazy, GraphRequest::FirstVote))
    }

    fn attended(&mut self, site: &Site<'_>, sub: Sublayer, shown: Shown<'_, T>) -> Result<()> {
        let Shown { graph, first_vote, values } = shown;
        if let (Some(observer), Some(graph)) = (&self.observer, &graph) {
            let mut observer = lock(observer)?;
            if observer.wants_graph(site, sub) {
                observer.graph(site, sub, graph)?;
            }
        }
        let Some(mut layer) = self.layer.take() else { return Ok(()) };
        layer.attended = Some(sub);
        if sub.has_self_graph() {
            if let Some(graph) = &graph {
                let [_, heads, _, _] = graph.dims()?;
                self.heads.insert(site.block, heads);
            }
            layer.values = self.score_needs(&layer).values.then(|| values.clone());
        }
        if self.needs_graph(sub, &layer) {
            if sub.has_self_graph() {
                layer.self_graph = graph;
                layer.first_vote = first_vote;
            } else {
                layer.cross_graph = graph;
            }
        }
        self.layer = Some(layer);
        Ok(())
    }

    /// Prunes after `sub` if this is the prune point of a pruning layer.
    fn after(&mut self, site: &Site<'_>, sub: Sublayer, hidden: &T) -> Result<Action<T>> {
        let votes_across = self.scorer.needs().graph == Some(ScoreSource::CrossAttention);
        let decides = sub.has_self_graph() || (sub == Sublayer::CrossAttention && votes_across);
        if let Some(layer) = &mut self.layer {
            layer.lacks_map |= decides && layer.attended != Some(sub);
        }
        let prunes = self.plan.prune_point().is_after(sub);
        if !prunes && sub.has_feed_forward() && self.layer.is_some() {
            let reason =
                format!("before_ff needs a cross- or joint attention, which {} does not report", site.block);
            return Err(Error::config("prune_point", reason));
        }
        match self.layer.take() {
            Some(layer) if prunes && layer.lacks_map && layer.reused.is_none() => Ok(Action::Continue),
            Some(layer) if prunes => self.prune(site, hidden, layer),
            layer => {
                self.layer = layer;
                Ok(Action::Continue)
            }
        }
    }

    fn prune(&mut self, site: &Site<'_>, hidden: &T, mut layer: PruningLayer<T>) -> Result<Action<T>> {
        let reused = layer.reused.take();
        let choice = match (&self.replay, &reused) {
            (Some(masks), _) => {
                let partition = masks.partition(site, layer.batch, layer.kept, &layer.device)?;
                Choice { partition, scores: None, votes: 0 }
            }
            (None, Some(set)) => Choice { partition: set.partition.clone(), scores: None, votes: 0 },
            (None, None) => self.choose(site, hidden, &layer)?,
        };
        let positions = self.block.positions.take();
        if let Some(observer) = &self.observer {
            let record = PruneRecord {
                scores: choice.scores.as_ref(),
                kept: &choice.partition.kept,
                positions: positions.as_ref(),
                votes: choice.votes,
                tokens: site.tokens,
            };
            lock(observer)?.pruned(site, &record)?;
        }
        if self.plan.prunes_repeatedly() {
            let kept = &choice.partition.kept;
            self.block.positions = Some(match &positions {
                Some(positions) => positions.gather(kept)?,
                None => kept.clone(),
            });
        }
        self.block.chosen_anew |= reused.is_none();
        let again = reused.as_ref().and_then(|set| set.plan.as_ref()).map(|plan| plan.clone_box());
        let reduction = match again {
            Some(plan) => plan,
            None => self.recovery.plan(RecoveryInput {
                partition: choice.partition.clone(),
                graph: layer.self_graph.as_ref(),
                hidden,
                grid: site.grid,
                entry_tokens: self.block.entry_tokens,
                protected: site.protected,
                positions: positions.as_ref(),
            })?,
        };
        match reused {
            Some(set) => self.kept_sets.count_use(site, set),
            None => {
                let lasting = self.recovery.needs_graph() && self.recovery.reusable();
                self.kept_sets.insert(site, &choice.partition, lasting.then(|| reduction.clone_box()));
            }
        }
        Ok(Action::UntilExit(reduction))
    }

    /// Scores and selects (paper, steps 2 and 3).
    fn choose(&mut self, site: &Site<'_>, hidden: &T, layer: &PruningLayer<T>) -> Result<Choice<T>> {
        let graph = match self.scorer.needs().graph {
            Some(ScoreSource::SelfAttention) => layer.self_graph.as_ref(),
            Some(ScoreSource::CrossAttention) => layer.cross_graph.as_ref(),
            None => None,
        };
        let input = ScoreInput {
            site,
            hidden,
            graph,
            first_vote: layer.first_vote.as_ref(),
            values: layer.values.as_ref(),
            entry_tokens: self.block.entry_tokens,
            positions: self.block.positions.as_ref(),
            seed: self.seed,
        };
        let scores = self.scorer.score(&input)?;
        let batch = layer.batch;
        if scores.tokens.shape() != [batch, site.tokens] {
            return Err(Error::shape(
                "scorer",
                format!("scores [{batch}, {}]", site.tokens),
                scores.tokens.shape(),
            ));
        }
        let shared = self.guidance.share(scores.tokens, site.rows)?;
        let armoured = self.protect(site, &shared)?;
        let partition = self.selector.select(site, &armoured, layer.kept)?;
        let (kept, pruned) = (partition.kept.dims(), partition.pruned.dims());
        if kept != (batch, layer.kept) || pruned != (batch, site.tokens - layer.kept) {
            let reason = format!(
                "expected {} of {} tokens in {batch} rows to stay, got {kept:?} kept and {pruned:?} pruned",
                layer.kept, site.tokens
            );
            return Err(Error::Plugin { name: "selector".into(), reason });
        }
        Ok(Choice { partition, scores: Some(shared), votes: scores.votes })
    }

    /// Whether each token at the block's entry must stay: the model protects it, or it is `painted`.
    fn shield(&self, site: &Site<'_>, painted: Option<&Spots>) -> Result<Vec<bool>> {
        let ((start, end), tokens) = (site.protected, self.block.entry_tokens);
        let painted = painted.map(|painted| painted.on(site.grid));
        let text = end.saturating_sub(start);
        if let Some(painted) = &painted
            && painted.len() + text != tokens
        {
            let reason = format!("expected all tokens of {} at its entry, got {tokens}", site.block);
            return Err(Error::config("protect", reason));
        }
        let stays = |token: usize| match token {
            token if (start..end).contains(&token) => true,
            token => {
                let place = if token < start.max(end) { token } else { token - text };
                painted.as_ref().is_some_and(|painted| painted.get(place) == Some(&true))
            }
        };
        Ok((0..tokens).map(stays).collect())
    }

    /// The scores, raised for protected tokens so that they are above all others.
    fn protect(&self, site: &Site<'_>, scores: &T) -> Result<T> {
        if site.protected.0 >= site.protected.1 && self.painted.is_none() {
            return Ok(scores.clone());
        }
        let batch = scores.shape()[0];
        let bonus = |shielded: bool| if shielded { PROTECTED } else { 0.0 };
        let row: Vec<f32> = self.shield(site, self.painted.as_ref())?.into_iter().map(bonus).collect();
        let shape = [batch, self.block.entry_tokens];
        let bonus = T::from_f32(&row.repeat(batch), &shape, scores.dtype(), &scores.device())?;
        let bonus = match &self.block.positions {
            Some(positions) => bonus.gather(1, positions)?,
            None => bonus,
        };
        scores.add(&bonus)
    }
}

impl<T: AttentionOps> TokenReducer<T> for AtEdm<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.plan.begin(run.steps)?;
        self.painted = match self.protect {
            Protect::None => None,
            Protect::Mask => Some(run.painted.cloned().ok_or_else(|| {
                let reason = "expected none, as the run paints the whole picture; mask goes with a mask";
                Error::config("protect", reason)
            })?),
        };
        self.seed = run.seed;
        self.heads.clear();
        self.kept_sets.clear();
        self.layer = None;
        self.selector.begin_run(run)?;
        self.scorer.begin_run(run)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        match &self.layer {
            Some(layer) if self.needs_graph(sub, layer) => return self.graph_request(site, sub, layer),
            _ => {}
        }
        match &self.observer {
            Some(observer) if lock(observer)?.wants_graph(site, sub) => Ok(GraphRequest::Lazy),
            _ => Ok(GraphRequest::None),
        }
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match event {
            Event::LayerEnter { hidden } => {
                self.enter_layer(site, hidden)?;
                Ok(Action::Continue)
            }
            Event::Attended { sub, graph, first_vote, values, .. } => {
                self.attended(site, sub, Shown { graph, first_vote, values })?;
                Ok(Action::Continue)
            }
            Event::After { sub, hidden, .. } => self.after(site, sub, hidden),
            Event::BlockExit { .. } => {
                self.block = BlockState::entered(0);
                self.layer = None;
                Ok(Action::Continue)
            }
            Event::Before { .. } => Ok(Action::Continue),
        }
    }
}
