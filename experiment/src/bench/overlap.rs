//! How many of the tokens that a method keeps would be kept by converged scores too, along a real trajectory.

use std::sync::{Arc, Mutex};

use atedm_core::plugin::{
    Action, BuildContext, Event, NestSite, PruneObserver, PruneRecord, Registry, Row, Run, SharedObserver,
    Site, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Error, GraphRequest, Indices, Result};
use atedm_sdxl::pipeline::{Decoding, Pipeline, Proceed, Request, TextEncoders};

use crate::Extension;
use crate::extension::registry;
use crate::failure::{Failure, Outcome};
use crate::method::{Method, Workload};
use crate::model::Model;
use crate::subject::{Costed, Subject};

/// What the trajectory is of.
const PROMPT: &str = "a red circle on a blue background";

/// The kept sets of every decision, one a batch row, in the order of the decisions.
#[derive(Debug, Default)]
struct KeptSets(Vec<Vec<Vec<u32>>>);

impl<T: AttentionOps> PruneObserver<T> for KeptSets {
    fn pruned(&mut self, _site: &Site<'_>, record: &PruneRecord<'_, T>) -> Result<()> {
        self.0.push(record.kept.to_host()?);
        Ok(())
    }
}

/// A method with what it keeps.
struct Recorded<T: AttentionOps> {
    reducer: Box<dyn TokenReducer<T>>,
    kept: Arc<Mutex<KeptSets>>,
    /// Whether it asked for the graph of the attention that runs now.
    asked: bool,
}

impl<T: AttentionOps> Recorded<T> {
    fn new(method: &Method, registry: &Registry<T>) -> Result<Self> {
        let kept = Arc::new(Mutex::new(KeptSets::default()));
        let observer: SharedObserver<T> = kept.clone();
        let context = BuildContext { observer: Some(observer), ..BuildContext::default() };
        Ok(Self { reducer: method.build(registry, &context)?, kept, asked: false })
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        let request = self.reducer.wants(site, sub)?;
        self.asked = !matches!(request, GraphRequest::None);
        Ok(request)
    }

    fn taken(&self) -> Result<KeptSets> {
        let reason = "panicked on an earlier call".into();
        let mut kept = self.kept.lock().map_err(|_| Error::Plugin { name: "observer".into(), reason })?;
        Ok(std::mem::take(&mut kept))
    }
}

/// The method decides; the converged one is told the same and not obeyed.
struct Compared<T: AttentionOps> {
    method: Recorded<T>,
    converged: Recorded<T>,
}

impl<T: AttentionOps> TokenReducer<T> for Compared<T> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.method.reducer.as_mut())
    }

    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.converged.reducer.begin_run(run)?;
        self.method.reducer.begin_run(run)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.converged.reducer.begin_step(step, rows)?;
        self.method.reducer.begin_step(step, rows)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        self.converged.wants(site, sub)?;
        let request = self.method.wants(site, sub)?;
        let only_converged = self.converged.asked && !self.method.asked;
        Ok(if only_converged { GraphRequest::Lazy } else { request })
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let told: Option<Event<'_, T>> = match &event {
            Event::LayerEnter { hidden } => Some(Event::LayerEnter { hidden }),
            Event::Before { sub, hidden, normed, reductions } => {
                Some(Event::Before { sub: *sub, hidden, normed, reductions: *reductions })
            }
            Event::Attended { sub, graph, values, output, .. } => {
                let graph = graph.clone().filter(|_| self.converged.asked);
                Some(Event::Attended { sub: *sub, graph, first_vote: None, values, output })
            }
            Event::After { sub, hidden, output, reductions } => {
                Some(Event::After { sub: *sub, hidden, output, reductions: *reductions })
            }
            Event::BlockExit { hidden } => Some(Event::BlockExit { hidden }),
            _ => None,
        };
        if let Some(told) = told {
            self.converged.reducer.on_event(site, told)?;
        }
        let event = match event {
            Event::Attended { sub, first_vote, values, output, .. } if !self.method.asked => {
                Event::Attended { sub, graph: None, first_vote, values, output }
            }
            other => other,
        };
        self.method.reducer.on_event(site, event)
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        self.converged.reducer.enter_nest(site, hidden)?;
        self.method.reducer.enter_nest(site, hidden)
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        self.converged.reducer.leave_nest(site, output)?;
        self.method.reducer.leave_nest(site, output)
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.converged.reducer.end_step(prediction)?;
        self.method.reducer.end_step(prediction)
    }
}

impl<T: AttentionOps> Compared<T> {
    /// The mean share of what the method kept that converged scores keep too; `None` where nothing was kept.
    fn share(&self) -> Result<Option<f64>> {
        let (ours, ideal) = (self.method.taken()?.0, self.converged.taken()?.0);
        let rows = ours.iter().flatten().zip(ideal.iter().flatten());
        let shares: Vec<f64> = rows.map(|(ours, ideal)| shared(ours, ideal)).collect();
        Ok((!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64))
    }
}

/// The share of `kept` that is in `ideal`; both ascend.
fn shared(kept: &[u32], ideal: &[u32]) -> f64 {
    let common = kept.iter().filter(|token| ideal.binary_search(token).is_ok()).count();
    common as f64 / kept.len().max(1) as f64
}

/// For each method the mean over steps, blocks and rows of one run; `None` for methods that do not iterate scores.
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
    let converged: Vec<Option<Method>> = methods.iter().map(|costed| costed.method.converged()).collect();
    if converged.iter().all(Option::is_none) {
        return Ok(vec![None; methods.len()]);
    }
    let pipeline = Pipeline::<B>::load_with(&model.checkpoint, dtype, device, TextEncoders::PerRun)
        .map_err(Failure::run)?;
    let registry = registry::<B::Tensor>(extension)?;
    let of = |(costed, converged): (&&Costed, &Option<Method>)| match converged {
        Some(converged) => {
            let method = Recorded::new(&costed.method, &registry)?;
            let compared = Compared { method, converged: Recorded::new(converged, &registry)? };
            overlap(&pipeline, compared, subject, &work)
        }
        None => Ok(None),
    };
    methods.iter().zip(&converged).map(of).collect()
}

fn overlap<B: Backend>(
    pipeline: &Pipeline<B>,
    mut compared: Compared<B::Tensor>,
    subject: &Subject,
    work: &Workload<'_>,
) -> Outcome<Option<f64>> {
    let mut request = Request::new([PROMPT]);
    (request.width, request.height) = (Some(subject.size.width), Some(subject.size.height));
    request.steps = work.steps;
    request.decoding = Decoding::Skip;
    pipeline.generate(&request, &mut compared, &mut |_| Proceed::Continue(())).map_err(Failure::run)?;
    Ok(compared.share()?)
}

#[cfg(test)]
mod tests {
    use super::shared;

    #[test]
    fn the_share_is_of_what_is_kept() {
        assert_eq!(shared(&[0, 2, 5, 7], &[2, 3, 7, 9]), 0.5);
        assert_eq!(shared(&[], &[]), 0.0);
    }
}
