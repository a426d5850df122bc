//! A method that is watched step by step. Tests of state between steps use it.

use std::sync::Arc;

use atedm_core::GraphRequest;
use atedm_core::Result;
use atedm_core::at_edm::{AtEdmConfig, Parts};
use atedm_core::plugin::{
    BuildContext, MaskEntry, MaskRecorder, MaskSet, Row, Site, Step, Sublayer, TokenReducer,
};
use atedm_core::reference::NdTensor;

use crate::method::{Inputs, config};
use crate::support::{Matrix, batch, matrices, single, step};
use crate::toy::{Asked, Toy};

/// The result of one step of a run.
pub(crate) struct Seen {
    pub(crate) output: Vec<Matrix>,
    pub(crate) masks: MaskSet,
    /// What the method requested of the first layer's self-attention.
    pub(crate) asked: Asked,
}

impl Seen {
    pub(crate) fn entry(&self) -> &MaskEntry {
        self.masks.iter().next().unwrap().1
    }
}

/// A method that is watched and called step by step.
pub(crate) struct Watched {
    pub(crate) method: Box<dyn TokenReducer<NdTensor>>,
    pub(crate) recorder: Arc<std::sync::Mutex<MaskRecorder>>,
}

impl Watched {
    pub(crate) fn new(config: &AtEdmConfig) -> Self {
        Self::with(config, &Parts::with_builtins(), None)
    }

    pub(crate) fn with(config: &AtEdmConfig, parts: &Parts<NdTensor>, replay: Option<MaskSet>) -> Self {
        let recorder = MaskRecorder::shared();
        let observer = Some(recorder.clone() as _);
        let context = BuildContext { observer, replay: replay.map(Arc::new), ..BuildContext::default() };
        Self { method: Box::new(config.build(&context, parts).unwrap()), recorder }
    }

    /// The same method without votes in the forward pass.
    pub(crate) fn lazily(config: &AtEdmConfig) -> Self {
        let Self { method, recorder } = Self::new(config);
        Self { method: Box::new(Lazily(method)), recorder }
    }

    pub(crate) fn step(&mut self, toy: &Toy, step: &Step, rows: &[Row], inputs: &Inputs) -> Seen {
        let (hidden, text) = (batch(&inputs.hidden), batch(&inputs.text));
        let (output, asked) = toy.run(self.method.as_mut(), step, rows, hidden, &text).unwrap();
        let masks = self.recorder.lock().unwrap().take();
        Seen { output: matrices(&output), masks, asked: asked[0] }
    }

    pub(crate) fn steps(&mut self, toy: &Toy, inputs: &[&Inputs]) -> Vec<Seen> {
        let rows = single(inputs[0].hidden.len() as u64);
        let total = inputs.len();
        (0..total).map(|i| self.step(toy, &step(i, total), &rows, inputs[i])).collect()
    }
}

/// Passes everything on, but requests graphs without a vote.
pub(crate) struct Lazily(Box<dyn TokenReducer<NdTensor>>);

impl TokenReducer<NdTensor> for Lazily {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<NdTensor>> {
        Some(self.0.as_mut())
    }
    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<NdTensor>> {
        Ok(match self.0.wants(site, sub)? {
            GraphRequest::FirstVote(_) => GraphRequest::Lazy,
            other => other,
        })
    }
}

pub(crate) fn warm() -> AtEdmConfig {
    AtEdmConfig { warm_start: true, max_iterations: 1, epsilon: 0.0, ..config() }
}

pub(crate) fn image(image: u64) -> Row {
    single(image + 1)[image as usize]
}
