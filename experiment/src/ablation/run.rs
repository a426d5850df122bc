//! Makes the images of a configuration that its folder lacks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;
use atedm_sdxl::pipeline::TextEncoders;

use super::archive::{Archive, Before, Elsewhere, Opened, done_elsewhere};
use super::stock::Stock;
use super::written::Written;
use crate::engine::{Batch, PlannedRun, Sink};
use crate::failure::Outcome;
use crate::folder::{Beginning, RunFolder};
use crate::listener::Listener;
use crate::members::inside;
use crate::model::Model;
use crate::observe::Watch;
use crate::plan::Plan;
use crate::platform::Platform;
use crate::record::PromptLine;
use crate::shard::Shard;

/// The images of a configuration in a folder.
pub struct Ablation<'a> {
    /// The configuration.
    pub written: Written<'a>,
    /// The checkpoint.
    pub model: &'a Model,
    /// What computes.
    pub platform: &'a Platform,
    /// The run's folder.
    pub output: &'a Path,
    /// The part of the prompts that this process works on.
    pub shard: Shard,
    /// Whether to go on with a run that is in the folder.
    pub resume: bool,
    /// Folders of other runs, whose images are copied where every setting is equal.
    pub take_from: &'a [PathBuf],
    /// Gets warnings, progress and finished images.
    pub listener: &'a dyn Listener,
}

/// The result of an ablation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ablated {
    /// The folder of the images: the shard's, if there are several.
    pub folder: PathBuf,
    /// Images that were made.
    pub made: usize,
    /// Images that were copied from other runs.
    pub taken: usize,
    /// Images that are there.
    pub total: usize,
}

impl<'a> Ablation<'a> {
    /// Plans the run and makes the images that are missing. `make` runs the plan on a backend ([`PlannedRun::make`]). It is
    /// not called if no image is missing. `before` is called after all checks and before the first file is written.
    ///
    /// # Errors
    /// A failure that names what is wrong with the configuration or the folder; the failures of `before` and `make`.
    pub fn run<T: AttentionOps>(
        self,
        registry: &Registry<T>,
        before: Before<'a>,
        make: impl FnOnce(PlannedRun<'_>, &mut dyn Sink) -> Outcome,
    ) -> Outcome<Ablated> {
        let plan = self.written.plan_for(self.model, self.platform, registry, self.listener)?;
        let path = match self.shard.is_whole() {
            true => self.output.to_path_buf(),
            false => inside(self.output, &format!("shard-{}-of-{}", self.shard.index, self.shard.count))?,
        };
        let info = plan.info((!self.shard.is_whole()).then_some([self.shard.index, self.shard.count]));
        let beginning = Beginning { config: self.written.text, info, prompts: &plan.prompts };
        let folder = RunFolder::open(&path, beginning, self.resume)?;
        let elsewhere = match self.resume {
            true => done_elsewhere(self.output, &folder, &plan.prompts)?,
            false => Elsewhere::new(),
        };
        let mut opened = Opened { folder, elsewhere, before: Some(before) };
        let Left { batches, total, images } = self.left(&plan, &opened);
        let folder = opened.folder.path().to_path_buf();
        if images == 0 {
            opened.begin()?;
            return Ok(Ablated { folder, made: 0, taken: 0, total });
        }
        let mut run = PlannedRun {
            plan: &plan,
            model: self.model,
            platform: self.platform,
            batches,
            init: self.written.init_image(self.model, self.listener)?,
            control: self.written.control_image(self.model, self.listener)?,
            previews: None,
            replay: None,
            watch: Watch::TOKENS,
            encoders: TextEncoders::Kept,
            listener: self.listener,
        };
        run.check()?;
        let mut taken = 0;
        if !self.take_from.is_empty() {
            let stock = Stock::read(self.take_from, &plan)?;
            opened.begin()?;
            taken = stock.fill(&mut opened.folder, &plan, &mut run.batches)?;
        }
        let made = images - taken;
        if made == 0 {
            return Ok(Ablated { folder, made, taken, total });
        }
        let mut archive = Archive::new(opened, self.platform.provenance(), self.listener);
        archive.expect(total - made, total);
        make(run, &mut archive)?;
        Ok(Ablated { folder, made, taken, total })
    }

    /// The images of this shard that are missing.
    fn left(&self, plan: &Plan, opened: &Opened<'_>) -> Left {
        let done: BTreeSet<&String> = opened.folder.done().keys().chain(opened.elsewhere.keys()).collect();
        let prompts: Vec<&PromptLine> =
            plan.prompts.iter().filter(|prompt| self.shard.takes(&prompt.id)).collect();
        let pending = |prompt: &PromptLine| -> Vec<usize> {
            let ids = plan.points.iter().map(|point| format!("{}/{}", point.info.id, prompt.id));
            ids.enumerate().filter(|(_, id)| !done.contains(id)).map(|(place, _)| place).collect()
        };
        let batch = |&prompt: &&PromptLine| Batch {
            prompts: vec![prompt.clone()],
            points: pending(prompt),
            noise: None,
        };
        let batches: Vec<Batch> =
            prompts.iter().map(batch).filter(|batch| !batch.points.is_empty()).collect();
        let images = batches.iter().map(|batch| batch.points.len()).sum();
        Left { batches, images, total: prompts.len() * plan.points.len() }
    }
}

/// The images that are to be made.
struct Left {
    batches: Vec<Batch>,
    /// Images in them.
    images: usize,
    /// Images that will be there in the end.
    total: usize,
}
