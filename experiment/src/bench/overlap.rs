//! How many of the tokens that a method keeps would be kept by converged scores too, along a real trajectory.

use std::sync::{Arc, Mutex};

use atedm_core::at_edm::scoring::{PageRank, PageRankOptions};
use atedm_core::at_edm::{AtEdmConfig, AtEdmPlan, Heads, LayerQuery, PrunePlan, ScoreSource};
use atedm_core::plugin::{BuildContext, PruneObserver, PruneRecord, SharedObserver, Site, Sublayer};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Error, Indices, Result};
use atedm_sdxl::pipeline::{Decoding, Pipeline, Proceed, Request, TextEncoders};

use crate::Extension;
use crate::extension::registry;
use crate::failure::{Failure, Outcome};
use crate::method::Workload;
use crate::model::Model;
use crate::subject::{Costed, Subject};

/// Votes that count as converged.
const CONVERGED: usize = 50;
/// What the trajectory is of.
const PROMPT: &str = "a red circle on a blue background";

/// Compares each kept set with that of [`CONVERGED`] votes from equal scores on the same map.
struct Comparison<T: AttentionOps> {
    config: AtEdmConfig,
    counts: PrunePlan,
    rank: PageRank,
    /// The converged scores `[b, tokens]` of the layer that is about to prune.
    converged: Option<T>,
    shares: Vec<f64>,
}

impl<T: AttentionOps> Comparison<T> {
    fn new(plan: &AtEdmPlan) -> Result<Self> {
        let config = plan.config().clone();
        let rank = PageRank::new(PageRankOptions {
            source: config.score,
            max_iterations: CONVERGED,
            epsilon: 0.0,
            norm: config.norm,
            heads: config.heads,
            damping: config.damping,
            cross_vote: config.cross_vote,
        })?;
        Ok(Self { counts: plan.counts().clone(), config, rank, converged: None, shares: Vec::new() })
    }

    fn combined(&self, scores: &T) -> Result<T> {
        let [batch, _, tokens] = atedm_core::backend::dims(scores, "overlap")?;
        let combined = match self.config.heads {
            // the root would change no order
            Heads::Rms => scores.mul(scores)?.mean(1)?,
            Heads::Mean => scores.mean(1)?,
            Heads::Max => scores.max(1)?,
        };
        combined.reshape(&[batch, tokens])
    }
}

impl<T: AttentionOps> PruneObserver<T> for Comparison<T> {
    fn wants_graph(&self, site: &Site<'_>, sub: Sublayer) -> bool {
        let voting = match self.config.score {
            ScoreSource::SelfAttention => Sublayer::SelfAttention,
            ScoreSource::CrossAttention => Sublayer::CrossAttention,
        };
        let query = LayerQuery {
            block: site.block,
            layer: site.layer,
            depth: site.depth,
            step: site.step.index,
            total: site.step.total,
            tokens: site.tokens,
            protected: site.protected.1.saturating_sub(site.protected.0),
        };
        sub == voting && matches!(self.counts.kept(&query), Ok(Some(_)))
    }

    fn graph(&mut self, site: &Site<'_>, sub: Sublayer, graph: &AttentionGraph<T>) -> Result<()> {
        if <Self as PruneObserver<T>>::wants_graph(self, site, sub) {
            let (scores, _) = self.rank.per_head(graph, None)?;
            self.converged = Some(self.config.guidance.share(self.combined(&scores)?, site.rows)?);
        }
        Ok(())
    }

    fn pruned(&mut self, _site: &Site<'_>, record: &PruneRecord<'_, T>) -> Result<()> {
        let Some(converged) = self.converged.take() else { return Ok(()) };
        let (_, kept) = record.kept.dims();
        let ideal = converged.split_top_k(kept)?.kept.to_host()?;
        for (ours, ideal) in record.kept.to_host()?.iter().zip(&ideal) {
            // both ascend
            let common = ours.iter().filter(|token| ideal.binary_search(token).is_ok()).count();
            self.shares.push(common as f64 / kept.max(1) as f64);
        }
        Ok(())
    }
}

/// The plan of a method that keeps what G-WPR's votes say: there is nothing to compare for others.
fn voting(costed: &Costed) -> Option<&AtEdmPlan> {
    costed.method.plan().downcast_ref()
}

/// For each method the mean over steps, blocks and rows of one run; `None` for methods that do not vote.
pub(super) fn overlaps<B: Backend>(
    model: &Model,
    subject: &Subject,
    methods: &[&Costed],
    steps: usize,
    device: &DeviceOf<B>,
    dtype: DType,
    extension: &impl Extension,
) -> Outcome<Vec<Option<f64>>> {
    let work = subject.workload(steps);
    if methods.iter().all(|costed| voting(costed).is_none()) {
        return Ok(vec![None; methods.len()]);
    }
    let pipeline = Pipeline::<B>::load_with(&model.checkpoint, dtype, device, TextEncoders::PerRun)
        .map_err(Failure::run)?;
    let of = |costed: &&Costed| overlap(&pipeline, costed, subject, &work, extension);
    methods.iter().map(of).collect()
}

fn overlap<B: Backend>(
    pipeline: &Pipeline<B>,
    costed: &Costed,
    subject: &Subject,
    work: &Workload<'_>,
    extension: &impl Extension,
) -> Outcome<Option<f64>> {
    let Some(plan) = voting(costed) else { return Ok(None) };
    let comparison = Arc::new(Mutex::new(Comparison::<B::Tensor>::new(plan)?));
    let observer: SharedObserver<B::Tensor> = comparison.clone();
    let context = BuildContext { observer: Some(observer), ..BuildContext::default() };
    let mut reducer = costed.method.build(&registry::<B::Tensor>(extension)?, &context)?;
    let mut request = Request::new([PROMPT]);
    (request.width, request.height) = (Some(subject.size.width), Some(subject.size.height));
    request.steps = work.steps;
    request.decoding = Decoding::Skip;
    pipeline.generate(&request, reducer.as_mut(), &mut |_| Proceed::Continue(())).map_err(Failure::run)?;
    let reason = "panicked on an earlier call".into();
    let comparison = comparison.lock().map_err(|_| Error::Plugin { name: "observer".into(), reason })?;
    let shares = &comparison.shares;
    Ok((!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64))
}
