//! The interface for programs: a grid in Rust, the program's own plugins, results as typed rows.

use std::fmt;
use std::sync::Arc;

use atedm_core::at_edm::{Parts, ScoreInput, Scores, TokenScorer};
use atedm_core::plugin::Registry;
use atedm_core::{AttentionOps, Backend, DeviceOf, Result};
use atedm_sdxl::pipeline::TextEncoders;
use atedm_sdxl::schedulers::SamplerRegistry;
use serde::Deserialize;
use serde_json::Value;

use crate::ablation::Written;
use crate::config::{Config, Origin};
use crate::engine::{Batch, FinishedBatch, PlannedRun, Plugins};
use crate::extension::{Extension, registry_with};
use crate::failure::Outcome;
use crate::files::Picture;
use crate::listener::Listener;
use crate::model::Model;
use crate::observe::Watch;
use crate::pictures::{References, missing};
use crate::platform::Platform;
use crate::record::{Distances, Flops, LevelTokens, PromptLine, Settings, Times};

/// An experiment on one backend: a model, and the caller's own plugins in addition to the built-in ones.
pub struct Experiment<B: Backend> {
    model: Model,
    device: DeviceOf<B>,
    platform: Platform,
    parts: Parts<B::Tensor>,
    methods: Vec<RegisterMethods<B::Tensor>>,
    samplers: SamplerRegistry<B::Tensor>,
}

/// Adds methods and schedules to a registry that has the built-in ones.
type RegisterMethods<T> = Box<dyn FnOnce(&mut Registry<T>) -> Result<()>>;

/// One image of an experiment.
#[derive(Debug, Clone)]
pub struct Row {
    /// The point's readable name: `at-edm ratio=0.3`; `none` is the unpruned model.
    pub label: String,
    /// The keys that the grid entry varies, with this point's values.
    pub varied: Value,
    /// All settings that decide the image, except prompt and seed.
    pub settings: Settings,
    /// The prompt with its seed.
    pub prompt: PromptLine,
    /// The cost of the U-Net.
    pub flops: Flops,
    /// The tokens that the method left, one line per resolution level.
    pub tokens: Vec<LevelTokens>,
    /// The time that the image took.
    pub times: Times,
    /// The distances to the unpruned image of the same prompt, seed and sampling; `None` for that image itself.
    pub distances: Option<Distances>,
    /// The picture.
    pub picture: Picture,
}

impl<B: Backend> Experiment<B> {
    /// An experiment on `device`. `platform` describes the device.
    pub fn new(model: Model, device: DeviceOf<B>, platform: Platform) -> Self {
        let (parts, samplers) = (Parts::with_builtins(), SamplerRegistry::with_builtins());
        Self { model, device, platform, parts, methods: Vec::new(), samplers }
    }

    /// Adds a scorer under a name that AT-EDM's option `scorer` can then take. `score` gets the tokens that enter a
    /// pruning layer (`input.hidden`: `[batch, tokens, channels]`). It returns `[batch, tokens]`, with larger values
    /// for tokens to keep. A scorer that needs attention maps or a memory is a [`TokenScorer`]; add it to
    /// [`Experiment::parts`].
    ///
    /// # Errors
    /// [`Failure::Usage`](crate::Failure::Usage) if the name is taken.
    pub fn scorer(
        mut self,
        name: &str,
        score: impl Fn(&ScoreInput<'_, B::Tensor>) -> Result<B::Tensor> + Send + Sync + 'static,
    ) -> Outcome<Self> {
        let score = Arc::new(score);
        self.parts.register_scorer(name, move |spec| {
            let NoOptions {} = spec.parse()?;
            Ok(Box::new(ClosureScorer(score.clone())))
        })?;
        Ok(self)
    }

    /// AT-EDM's parts. Add scorers, selectors and recoveries to them.
    pub fn parts(&mut self) -> &mut Parts<B::Tensor> {
        &mut self.parts
    }

    /// Adds an extension's methods, schedules, samplers, prompt syntaxes, and parts of AT-EDM. The configuration can then
    /// name them.
    ///
    /// # Errors
    /// [`Failure::Usage`](crate::Failure::Usage) if a name is taken. A taken name of a method is reported by
    /// [`Experiment::rows`].
    pub fn with(mut self, extension: impl Extension + 'static) -> Outcome<Self> {
        extension.parts(&mut self.parts)?;
        extension.samplers(&mut self.samplers)?;
        self.model = self.model.extended(&extension)?;
        self.methods.push(Box::new(move |registry| extension.register(registry)));
        Ok(self)
    }

    /// Makes the images of a configuration. If distances are wanted, it makes the unpruned images too. There is one row
    /// per image, ordered by prompt, with unpruned images first.
    ///
    /// # Errors
    /// The errors of the configuration, the model, the backend and the methods.
    pub fn rows(self, config: &Config, listener: &dyn Listener) -> Outcome<Vec<Row>> {
        let Self { model, device, platform, parts, methods: registering, samplers } = self;
        let mut methods: Registry<B::Tensor> = registry_with(&(), parts)?;
        registering.into_iter().try_for_each(|register| register(&mut methods))?;
        let plugins = Plugins { methods, samplers };
        let written = Written { config, text: "", origin: Origin::Code };
        let plan = written.plan_for(&model, &platform, &plugins.methods, listener)?;
        let points: Vec<usize> = (0..plan.points.len()).collect();
        let batch = |prompt: &PromptLine| Batch {
            prompts: vec![prompt.clone()],
            points: points.clone(),
            noise: None,
        };
        let run = PlannedRun {
            plan: &plan,
            model: &model,
            platform: &platform,
            batches: plan.prompts.iter().map(batch).collect(),
            init: written.init_image(&model, listener)?,
            control: written.control_image(&model, listener)?,
            previews: None,
            replay: None,
            watch: Watch::TOKENS,
            encoders: TextEncoders::Kept,
            listener,
        };
        run.check()?;
        let mut rows = Vec::with_capacity(plan.points.len() * plan.prompts.len());
        let mut references = References::default();
        let mut sink = |finished: FinishedBatch<'_>| {
            let image = finished.into_image()?;
            let distances = references.distances(&image, |id| Err(missing(id)))?;
            references.keep(&image);
            let info = &image.point.info;
            rows.push(Row {
                label: info.label.clone(),
                varied: info.varied.clone(),
                settings: info.settings.clone(),
                prompt: image.prompt.clone(),
                flops: image.flops,
                tokens: image.tokens,
                times: image.times,
                distances,
                picture: image.picture,
            });
            Ok(())
        };
        run.make::<B>(&device, &plugins, &mut sink)?;
        Ok(rows)
    }
}

/// A closure takes no options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NoOptions {}

/// A closure as a scorer.
struct ClosureScorer<F>(Arc<F>);

impl<F> fmt::Debug for ClosureScorer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClosureScorer")
    }
}

impl<T, F> TokenScorer<T> for ClosureScorer<F>
where
    T: AttentionOps,
    F: Fn(&ScoreInput<'_, T>) -> Result<T> + Send + Sync,
{
    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        Ok(Scores { tokens: (self.0)(input)?, votes: 0 })
    }
}
