//! Makes the images of a run on a backend.

use atedm_core::{Backend, DeviceOf};
use atedm_sdxl::pipeline::Pipeline;

use super::encoded::Encoded;
use super::models::{BatchStart, LoadedModels, RunStart};
use super::plugins::Plugins;
use super::run::PlannedRun;
use super::sink::Sink;
use super::task::ImageTask;
use crate::failure::{Failure, Outcome};
use crate::listener::Phase;
use crate::plan::PlannedPoint;
use crate::record::LevelTokens;
use crate::tally::Tally;

impl PlannedRun<'_> {
    /// Makes the images. `plugins` builds the plan's methods and samplers; the plan must have been checked against the same
    /// ones.
    ///
    /// # Errors
    /// [`Failure::Usage`] for another backend than the plan's; failures of the weights, the backend, a method and `sink`.
    pub fn make<B: Backend>(
        self,
        device: &DeviceOf<B>,
        plugins: &Plugins<B::Tensor>,
        sink: &mut dyn Sink,
    ) -> Outcome {
        if self.platform.backend != B::NAME {
            let planned = &self.platform.backend;
            return Err(Failure::usage(format!("backend: the plan is for {planned}, got {}", B::NAME)));
        }
        self.listener.begin(self.total_steps());
        let made = self.make_all::<B>(device, plugins, sink);
        self.listener.end();
        made
    }

    fn make_all<B: Backend>(
        &self,
        device: &DeviceOf<B>,
        plugins: &Plugins<B::Tensor>,
        sink: &mut dyn Sink,
    ) -> Outcome {
        self.listener.phase(Phase::Loading);
        let checkpoint = &self.model.checkpoint;
        let pipeline = Pipeline::<B>::load_with(checkpoint, self.platform.dtype, device, self.encoders)
            .map_err(Failure::run)?
            .with_samplers(plugins.samplers.clone())
            .with_syntaxes(self.model.texts().syntaxes().clone());
        let planned = if self.watch.tokens { self.planned_levels()? } else { Vec::new() };
        let picture = self.init.as_ref().map(|init| init.encoded(&pipeline, checkpoint)).transpose()?;
        let previewer = self.previews.as_ref().map(|previews| previews.previewer(&pipeline)).transpose()?;
        let control = self.control.as_ref().map(|control| control.request(&pipeline)).transpose()?;
        let start = RunStart { picture, control, previewer };
        let mut models = LoadedModels::new(self, pipeline, &plugins.methods, start);
        sink.begin()?;
        self.listener.ready();
        for batch in &self.batches {
            let mut prompts = Encoded::default();
            for &place in &batch.points {
                let Some(point) = self.plan.points.get(place) else { continue };
                let task = ImageTask { point, place, prompts: &batch.prompts };
                let start = BatchStart {
                    embeddings: models.prompts(&mut prompts, batch, point)?,
                    noise: batch.noise.as_ref(),
                    planned: planned.get(place).and_then(Option::as_ref),
                };
                let finished = models.make(task, start, sink)?;
                sink.keep(finished)?;
            }
        }
        Ok(())
    }

    /// The planned token counts of each point whose method is slow to watch; `None` for the other points.
    fn planned_levels(&self) -> Outcome<Vec<Option<Vec<LevelTokens>>>> {
        let of = |point: &PlannedPoint| -> Outcome<Option<Vec<LevelTokens>>> {
            if !point.method.plan().is_slow_to_watch() {
                return Ok(None);
            }
            let work = self.workload(point)?;
            Ok(Tally::planned(&point.method, &work)?.map(|tally| tally.levels()))
        };
        self.plan.points.iter().map(of).collect()
    }
}
