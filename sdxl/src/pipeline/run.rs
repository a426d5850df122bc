//! One run: the denoising loop.

use atedm_core::plugin::{Grid, Row, Run, Step, TokenReducer};
use atedm_core::{Backend, Error, Result, Tensor};

use super::decode::decode;
use super::guidance::Guidance;
use super::initial::{self, Beginning, Start, start_of};
use super::meter::{Evaluation, Metered};
use super::request::{Decoding, Estimate, Output, PixelSize, Request, StepReport};
use super::size::{Sizes, expect_finite};
use super::steering::steering;
use super::{Pipeline, Proceed};
use crate::unet::UNetInput;

impl<B: Backend> Pipeline<B> {
    /// Makes images (or latents) from a request.
    ///
    /// `reducer` prunes or merges tokens in the U-Net's attention blocks. [`atedm_core::plugin::Unpruned`] leaves them
    /// unchanged. `progress` is called after every step and may cancel the run.
    ///
    /// # Errors
    /// - [`atedm_core::Error::Config`] naming the field of the request that is out of range.
    /// - [`atedm_core::Error::NotFinite`] for given latents with NaN or infinity, and naming the first module and step
    ///   whose output is not finite.
    /// - [`atedm_core::Error::Weights`] for pixels that are not finite.
    /// - [`atedm_core::Error::Cancelled`] if `progress` cancels.
    /// - The errors of the backend and the reducer.
    pub fn generate(
        &self,
        request: &Request<B::Tensor>,
        reducer: &mut dyn TokenReducer<B::Tensor>,
        progress: &mut dyn FnMut(&StepReport<'_, B::Tensor>) -> Proceed,
    ) -> Result<Output<B::Tensor>> {
        B::inference(|| generate(self, request, reducer, progress))
    }
}

fn generate<B: Backend>(
    pipeline: &Pipeline<B>,
    request: &Request<B::Tensor>,
    reducer: &mut dyn TokenReducer<B::Tensor>,
    progress: &mut dyn FnMut(&StepReport<'_, B::Tensor>) -> Proceed,
) -> Result<Output<B::Tensor>> {
    let _span = tracing::info_span!("generate", steps = request.steps, seed = request.seed).entered();
    let (unet, device) = (pipeline.unet.config(), &pipeline.device);
    // All checks of the request run before any model does.
    let guidance = Guidance::new(request.guidance_scale, request.guidance_rescale, unet.guidance_channels)?;
    let named = request.scheduler.as_deref();
    let mut sampler = pipeline.samplers.build(&pipeline.scheduler, named, request.steps)?;
    let texts = pipeline.texts(&request.text)?;
    let sizes = Sizes::new(request, unet.sample_size, pipeline.vae.factor())?;
    if let Decoding::Tiled(Some(tiles)) = &request.decoding {
        tiles.check(pipeline.vae.factor())?;
    }
    let firsts = sampler.first_evaluations();
    let (total, evaluations) = (firsts.len(), sampler.timesteps().len());
    let start = start_of(request, total)?;
    let steering = steering(pipeline, request.control.as_ref(), &sizes)?;
    let first = firsts.get(start).copied().unwrap_or(0);
    let images = request.images()?;
    let PixelSize { height, width } = sizes.latents;
    let noise_dtype = request.noise_dtype.beside(pipeline.dtype);
    let mut noise = request.rng.source(request.seed, images, noise_dtype);
    let shape = [images, unet.out_channels, height, width];
    let beginning = Beginning { sampler: sampler.as_ref(), first, shape };
    let Start { mut latents, repainting } = initial::start(pipeline, request, &beginning, noise.as_mut())?;

    let paired = guidance.is_paired();
    let encoded = pipeline.encoders.with(device, |encoders| {
        encoders.condition(request, texts, paired, pipeline.zero_negative, device)
    })?;
    let [tokens, pooled] = [&encoded.tokens, &encoded.pooled].map(|tensor| tensor.cast(pipeline.dtype));
    let rows = guidance.rows(images);
    let time_ids = vec![sizes.time_ids(&request.micro); rows.len()];
    let guided = Batch { guidance, tokens: tokens?, pooled: pooled?, rows, time_ids };
    let mut unguided = None;
    let embedding = guidance.embedding(images);
    let embedding =
        embedding.map(|(values, shape)| B::Tensor::from_f32(&values, &shape, pipeline.dtype, device));
    let embedding = embedding.transpose()?;

    let alone = unet.alone();
    let mut reducer = Metered::new(reducer);
    let painted = repainting.as_ref().map(|repainting| &repainting.painted);
    reducer.begin_run(&Run { first: start, painted, ..Run::new(total, request.seed, &guided.rows) })?;
    let text = guided.tokens.shape().get(1).copied().unwrap_or(0);
    let mut costs = Vec::with_capacity(evaluations - first);
    for number in first..evaluations {
        let index = sampler.step_of(number);
        let _span = tracing::info_span!("step", index).entered();
        let (timestep, level) = (sampler.timesteps()[number], sampler.sigmas()[number]);
        let step = Step { index, total, evaluation: number - first, sigma: level, timestep };
        let batch = match guided.guidance.is_paired() && !reducer.wants_guidance(&step) {
            true => match &mut unguided {
                Some(half) => &*half,
                none => &*none.insert(guided.negative_half(images)?),
            },
            false => &guided,
        };
        let Batch { guidance, tokens, pooled, rows, time_ids } = batch;
        reducer.begin_step(&step, rows)?;
        let scaled = sampler.scale_input(&latents, number)?;
        let whole = match &repainting {
            Some(repainting) => repainting.input(&scaled)?,
            None => scaled.clone(),
        };
        let whole = guidance.widen(whole.cast(pipeline.dtype)?)?;
        let control = steering.as_ref().and_then(|steering| steering.at(index, start, total));
        let input = UNetInput {
            latents: &whole,
            timesteps: &vec![timestep; rows.len()],
            text: tokens,
            pooled,
            time_ids,
            timestep_cond: embedding.as_ref(),
            step: &step,
            rows,
            control,
        };
        let prediction = evaluate(pipeline, &input, &mut reducer)?;
        reducer.end_step(&prediction)?;
        costs.push(reducer.take(
            if control.is_some() { unet } else { &alone },
            Grid::new(height, width),
            text,
            Evaluation { step: index, rows: rows.len(), run_rows: guided.rows.len() },
        )?);
        let prediction = guidance.combine(prediction.cast(latents.dtype())?, images)?;
        latents = sampler.step(&prediction, number, &latents, noise.as_mut())?;
        if let Some(repainting) = &repainting {
            let next = (number + 1 < evaluations).then_some(number + 1);
            latents = repainting.blended(latents, sampler.as_ref(), next)?;
        }
        expect_finite(
            &latents,
            &format!("step {index} of 0 to {}: what the sampler makes of the U-Net's output", total - 1),
        )?;
        let ends_step = number + 1 == evaluations || sampler.step_of(number + 1) != index;
        let (timestep, sigma) = (sampler.timesteps()[firsts[index]], sampler.sigmas()[firsts[index]]);
        let estimate =
            Estimate { scheduler: &pipeline.scheduler, output: &prediction, input: &scaled, sigma: level };
        let report = StepReport { index, total, timestep, sigma, latents: &latents, estimate };
        if ends_step && progress(&report).is_break() {
            return Err(Error::Cancelled);
        }
    }
    let images = decode(&pipeline.vae, pipeline.vae_dtype, &latents, request.decoding)?;
    Ok(Output { latents, images, cut: encoded.cut, text_length: text, costs })
}

/// The rows of an evaluation, and their inputs.
struct Batch<T> {
    guidance: Guidance,
    rows: Vec<Row>,
    tokens: T,
    pooled: T,
    time_ids: Vec<[f32; 6]>,
}

impl<T: Tensor> Batch<T> {
    /// The negative rows of a guided batch, without guidance.
    fn negative_half(&self, images: usize) -> Result<Self> {
        Ok(Self {
            guidance: Guidance::Single,
            rows: self.rows.iter().take(images).copied().collect(),
            tokens: self.tokens.narrow(0, 0, images)?,
            pooled: self.pooled.narrow(0, 0, images)?,
            time_ids: self.time_ids.iter().take(images).copied().collect(),
        })
    }
}

/// Runs the U-Net. If its output is not finite, a second pass finds the first module with such an output.
fn evaluate<B: Backend>(
    pipeline: &Pipeline<B>,
    input: &UNetInput<'_, B::Tensor>,
    reducer: &mut Metered<'_, B::Tensor>,
) -> Result<B::Tensor> {
    let evaluated = pipeline.unet.forward(input, reducer);
    let finite = evaluated.and_then(|prediction| {
        expect_finite(&prediction, "the output")?;
        Ok(prediction)
    });
    let Err(Error::NotFinite { what }) = finite else { return finite };
    let again = reducer.begin_step(input.step, input.rows);
    let traced = match again.and_then(|()| pipeline.unet.forward_checked(input, reducer)) {
        Err(Error::NotFinite { what }) => what,
        _ => what,
    };
    let (index, last) = (input.step.index, input.step.total - 1);
    let what = format!("step {index} of 0 to {last}: {traced} of the U-Net in {}", pipeline.dtype);
    Err(Error::NotFinite { what })
}
