//! What counts and costs depend on, and what the steps of a run cost under a plan.

use std::borrow::Cow;

use atedm_core::plugin::{BlockShape, Grid, MethodPlan, ModelShape, NestShape, StepOf};
use atedm_core::reference::NdTensor;
use atedm_core::{Error, Result};
use atedm_sdxl::config::{BlockInfo, NestInfo, UNetConfig};
use atedm_sdxl::flops::{self, EvaluationCost, Rows};
use atedm_sdxl::pipeline::ControlSpan;
use atedm_sdxl::schedulers::{Sampler, SamplerRegistry, SchedulerConfig};

use crate::failure::Outcome;

/// The properties of a run that token counts and costs depend on.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// The U-Net.
    pub unet: &'a UNetConfig,
    /// The latents' grid.
    pub latents: Grid,
    /// Text tokens.
    pub text: usize,
    /// Denoising steps.
    pub steps: usize,
    /// The checkpoint's scheduler.
    pub scheduler: &'a SchedulerConfig,
    /// The known samplers.
    pub samplers: &'a SamplerRegistry<NdTensor>,
    /// The name of the sampler that replaces the checkpoint's.
    pub sampler: Option<&'a str>,
    /// Whether an image has a row for each half of guidance, until the method ends it.
    pub guided: bool,
    /// When the ControlNet runs, if the U-Net has one beside it.
    pub control: ControlSteps,
}

/// The steps at which a ControlNet runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ControlSteps {
    /// The shares of the run's steps between which it runs.
    pub span: ControlSpan,
    /// The first step of the run. It is above 0 for a run that starts from a picture.
    pub first: usize,
}

impl ControlSteps {
    /// Every step of a run that starts from noise.
    pub const ALL: Self = Self { span: ControlSpan::WHOLE, first: 0 };
}

/// A guidance scale that asks for two rows an image, as the program's default does.
pub const GUIDANCE_SCALE: f64 = 7.0;

impl Workload<'_> {
    /// The U-Net at a step: with its ControlNet, or alone where that one does not run.
    pub fn unet_at(&self, index: usize) -> Cow<'_, UNetConfig> {
        let ControlSteps { span, first } = self.control;
        match self.unet.control.is_none() || span.covers(index, first, self.steps) {
            true => Cow::Borrowed(self.unet),
            false => Cow::Owned(self.unet.alone()),
        }
    }

    /// The attention blocks at this size, of U-Net and ControlNet.
    pub fn blocks(&self) -> Vec<BlockInfo> {
        self.unet.blocks(self.latents.height, self.latents.width)
    }

    /// The sampler of the run.
    ///
    /// # Errors
    /// As [`SamplerRegistry::build`].
    pub fn build_sampler(&self) -> Result<Box<dyn Sampler<NdTensor>>> {
        self.samplers.build(self.scheduler, self.sampler, self.steps)
    }

    /// The time step of every step, at its first evaluation; `None` if the sampler cannot make this number of steps.
    pub fn timesteps(&self) -> Option<Vec<f64>> {
        let sampler = self.build_sampler().ok()?;
        let firsts = sampler.first_evaluations();
        Some(firsts.into_iter().filter_map(|first| sampler.timesteps().get(first).copied()).collect())
    }

    /// The step of every evaluation. If the sampler cannot make this number of steps, one evaluation per step is assumed.
    pub fn evaluated_steps(&self) -> Vec<usize> {
        match self.build_sampler() {
            Ok(sampler) => (0..sampler.timesteps().len()).map(|number| sampler.step_of(number)).collect(),
            Err(_) => (0..self.steps).collect(),
        }
    }

    /// The description of the model that methods get.
    pub fn shape(&self) -> ModelShape {
        let blocks = self.blocks().iter().map(shape).collect();
        let nests = self.unet.nests(self.latents.height, self.latents.width).into_iter().map(nest_shape);
        ModelShape {
            nests: nests.collect(),
            timesteps: self.timesteps(),
            ..ModelShape::new(blocks, self.steps)
        }
    }

    /// TFLOPs (2 × MAC, one sample) of one evaluation without pruning: the mean over the run if a ControlNet runs at some steps only.
    pub fn whole_tflop(&self) -> Outcome<f64> {
        let of =
            |unet: &UNetConfig| Ok::<_, Error>(flops::full(unet, self.latents, self.text)?.sum().tflop());
        let whole = of(self.unet)?;
        if self.unet.control.is_none() || self.control.span == ControlSpan::WHOLE {
            return Ok(whole);
        }
        let alone = of(&self.unet.alone())?;
        let ControlSteps { span, first } = self.control;
        let cost = |index: &usize| if span.covers(*index, first, self.steps) { whole } else { alone };
        let run: Vec<f64> =
            self.evaluated_steps().iter().filter(|index| **index >= first).map(cost).collect();
        Ok(run.iter().sum::<f64>() / run.len().max(1) as f64)
    }
}

/// A block with only those facts that token counts depend on.
pub fn shape(block: &BlockInfo) -> BlockShape {
    BlockShape::new(block.id, block.depth, block.grid).with_channels(block.channels)
}

fn nest_shape(nest: NestInfo) -> NestShape {
    let values = (nest.channels as u64).saturating_mul(nest.grid.tokens() as u64);
    NestShape { blocks: nest.blocks, values }
}

/// The rows of a step's evaluation: half of the run's where a method has ended guidance.
pub(crate) fn rows(plan: &dyn MethodPlan, work: &Workload<'_>, step: StepOf) -> Rows {
    if work.guided && !plan.wants_guidance(step) { Rows::Half } else { Rows::All }
}

/// The cost of the evaluation at each step under a plan; `None` if only a run can tell.
pub(crate) fn step_costs(plan: &dyn MethodPlan, work: &Workload<'_>) -> Result<Option<Vec<EvaluationCost>>> {
    let mut steps = Vec::with_capacity(work.steps);
    let blocks = work.blocks();
    for index in 0..work.steps {
        let step = StepOf { index, total: work.steps };
        let replaced = plan.replaced(step);
        let mut layers = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let Some(tokens) = plan.tokens(&shape(block), step)? else { return Ok(None) };
            layers.push((block.id, tokens));
        }
        let row = flops::pruned(&work.unet_at(index), work.latents, work.text, replaced, |block| {
            let tokens = layers.iter().find(|(id, _)| *id == block.id).map(|(_, tokens)| tokens.clone());
            Ok(tokens.unwrap_or_default())
        })?;
        steps.push(EvaluationCost { row, rows: rows(plan, work, step) });
    }
    Ok(Some(steps))
}

/// TFLOPs (2 × MAC) of evaluations, for each of the run's rows.
pub(crate) fn tflops(costs: Vec<EvaluationCost>) -> Vec<f64> {
    costs.iter().map(EvaluationCost::tflop).collect()
}

/// The mean over the evaluations of a run. `steps` has the value at each step, `evaluated` the step of each evaluation.
pub(crate) fn mean_of(steps: &[f64], evaluated: &[usize]) -> f64 {
    let sum: f64 = evaluated.iter().filter_map(|step| steps.get(*step)).sum();
    sum / evaluated.len().max(1) as f64
}

/// The error for a budget of a method whose cost does not depend on a ratio.
pub(crate) fn no_ratio() -> Error {
    let reason =
        "no ratio decides what this method costs, or only a run shows it: give it options of its own";
    Error::config("budget_tflops", reason)
}

/// `plan` with the ratio that meets a budget, or an error that names what can be reached.
pub(crate) fn solve(budget: f64, plan: &dyn MethodPlan, work: &Workload<'_>) -> Result<Box<dyn MethodPlan>> {
    let evaluated = work.evaluated_steps();
    with(flops::solve_ratio(budget, |ratio| mean_at(ratio, plan, work, &evaluated))?, plan)
}

/// Whether a ratio of `plan` meets a budget.
pub(crate) fn can_meet(budget: f64, plan: &dyn MethodPlan, work: &Workload<'_>) -> Result<bool> {
    let evaluated = work.evaluated_steps();
    let [least, most] = flops::reach(|ratio| mean_at(ratio, plan, work, &evaluated))?;
    Ok((least..=most).contains(&budget))
}

fn with(ratio: f64, plan: &dyn MethodPlan) -> Result<Box<dyn MethodPlan>> {
    plan.with_ratio(ratio).unwrap_or_else(|| Err(no_ratio()))
}

/// The mean TFLOPs of an evaluation with a ratio.
fn mean_at(ratio: f64, plan: &dyn MethodPlan, work: &Workload<'_>, evaluated: &[usize]) -> Result<f64> {
    let steps = tflops(step_costs(with(ratio, plan)?.as_ref(), work)?.ok_or_else(no_ratio)?);
    Ok(mean_of(&steps, evaluated))
}
