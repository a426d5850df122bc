//! One run: the denoising loop.

use atedm_core::plugin::{Grid, Row, Run, Step, TokenReducer};
use atedm_core::{Backend, Error, Result, Tensor};

use super::decode::decode;
use super::guidance::Guidance;
use super::meter::{Evaluation, Metered};
use super::request::{Decoding, InitialLatents, Output, PixelSize, Request, StepReport};
use super::size::{Sizes, expect_finite, given};
use super::{Pipeline, Proceed};
use crate::rng::{NoiseSource, RngKind};
use crate::schedulers::Sampler;
use crate::unet::UNetInput;
use crate::vae::LatentDistribution;

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
    let first = firsts.get(start).copied().unwrap_or(0);
    let images = request.images()?;
    let PixelSize { height, width } = sizes.latents;
    let noise_dtype = request.noise_dtype.beside(pipeline.dtype);
    let mut noise = request.rng.source(request.seed, images, noise_dtype);
    let shape = [images, unet.in_channels, height, width];
    let mut latents =
        initial(pipeline, request, &Beginning { sampler: sampler.as_ref(), first }, noise.as_mut(), shape)?;

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

    let mut reducer = Metered::new(reducer);
    reducer.begin_run(&Run { first: start, ..Run::new(total, request.seed, &guided.rows) })?;
    let text = guided.tokens.shape().get(1).copied().unwrap_or(0);
    let mut costs = Vec::with_capacity(evaluations - first);
    for number in first..evaluations {
        let index = sampler.step_of(number);
        let _span = tracing::info_span!("step", index).entered();
        let (timestep, sigma) = (sampler.timesteps()[number], sampler.sigmas()[number]);
        let step = Step { index, total, evaluation: number - first, sigma, timestep };
        let batch = match guided.guidance.is_paired() && !reducer.wants_guidance(&step) {
            true => match &mut unguided {
                Some(half) => &*half,
                none => &*none.insert(guided.negative_half(images)?),
            },
            false => &guided,
        };
        let Batch { guidance, tokens, pooled, rows, time_ids } = batch;
        reducer.begin_step(&step, rows)?;
        let scaled = guidance.widen(sampler.scale_input(&latents, number)?.cast(pipeline.dtype)?)?;
        let input = UNetInput {
            latents: &scaled,
            timesteps: &vec![timestep; rows.len()],
            text: tokens,
            pooled,
            time_ids,
            timestep_cond: embedding.as_ref(),
            step: &step,
            rows,
        };
        let prediction = evaluate(pipeline, &input, &mut reducer)?;
        reducer.end_step(&prediction)?;
        costs.push(reducer.take(
            unet,
            Grid::new(height, width),
            text,
            Evaluation { step: index, rows: rows.len(), run_rows: guided.rows.len() },
        )?);
        let prediction = guidance.combine(prediction.cast(latents.dtype())?, images)?;
        latents = sampler.step(&prediction, number, &latents, noise.as_mut())?;
        expect_finite(
            &latents,
            &format!("step {index} of 0 to {}: what the sampler makes of the U-Net's output", total - 1),
        )?;
        let ends_step = number + 1 == evaluations || sampler.step_of(number + 1) != index;
        let (timestep, sigma) = (sampler.timesteps()[firsts[index]], sampler.sigmas()[firsts[index]]);
        let report = StepReport { index, total, timestep, sigma, latents: &latents };
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

/// The first step to run.
fn start_of<T>(request: &Request<T>, total: usize) -> Result<usize> {
    match request.initial {
        InitialLatents::Drawn | InitialLatents::Noise(_) => Ok(0),
        InitialLatents::Clean { start, .. }
        | InitialLatents::Encoded { start, .. }
        | InitialLatents::Noisy { start, .. } => match start < total {
            true => Ok(start),
            false => Err(Error::config("start", format!("expected a step below {total}, got {start}"))),
        },
    }
}

/// Where a run begins.
struct Beginning<'a, T> {
    sampler: &'a dyn Sampler<T>,
    /// The first evaluation to run.
    first: usize,
}

/// The latents before the first evaluation, in the sampler's dtype.
fn initial<B: Backend>(
    pipeline: &Pipeline<B>,
    request: &Request<B::Tensor>,
    Beginning { sampler, first }: &Beginning<'_, B::Tensor>,
    noise: &mut dyn NoiseSource,
    shape: [usize; 4],
) -> Result<B::Tensor> {
    let dtype = pipeline.dtype.accumulator();
    let device = &pipeline.device;
    let clean = match &request.initial {
        InitialLatents::Noisy { latents, .. } => return given::<B>(latents, shape, dtype, device),
        InitialLatents::Noise(latents) => {
            return given::<B>(latents, shape, dtype, device)?.affine(sampler.init_noise_sigma(), 0.0);
        }
        InitialLatents::Drawn => None,
        InitialLatents::Clean { latents, .. } => Some(latents.clone()),
        InitialLatents::Encoded { distribution, .. } => {
            Some(drawn_from(pipeline, request, distribution, noise, shape[0])?)
        }
    };
    let drawn = B::Tensor::from_f32(&noise.standard_normal(&shape)?, &shape, dtype, device)?;
    match clean {
        None => drawn.affine(sampler.init_noise_sigma(), 0.0),
        Some(clean) => sampler.add_noise(&given::<B>(&clean, shape, dtype, device)?, &drawn, *first),
    }
}

/// Scaled latents of `images` images, drawn from an encoder's distribution.
fn drawn_from<B: Backend>(
    pipeline: &Pipeline<B>,
    request: &Request<B::Tensor>,
    distribution: &LatentDistribution<B::Tensor>,
    noise: &mut dyn NoiseSource,
    images: usize,
) -> Result<B::Tensor> {
    let given = distribution.mean.shape().first().copied().unwrap_or(0);
    let spread = |tensor: &B::Tensor, rows: usize| match rows == given {
        true => Ok(tensor.clone()),
        false => B::Tensor::concat(&vec![tensor; rows], 0),
    };
    if given != 1 && given != images {
        let reason = format!("expected the distribution of 1 image, or of {images}, got {given}");
        return Err(Error::config("latents", reason));
    }
    // torch's generator draws once per encoded row, and the images share it; ChaCha draws once per image
    let rows = if request.rng == RngKind::Torch { given } else { images };
    let deviation = distribution.deviation.as_ref().map(|deviation| spread(deviation, rows)).transpose()?;
    let rowwise = LatentDistribution { mean: spread(&distribution.mean, rows)?, deviation };
    let sample = rowwise.sample(|| {
        let (shape, dtype) = (rowwise.mean.shape(), rowwise.mean.dtype());
        let values = noise.standard_normal_in(&shape, request.noise_dtype.beside(dtype))?;
        B::Tensor::from_f32(&values, &shape, dtype, &rowwise.mean.device())
    })?;
    let scaled = pipeline.vae.scale(&sample)?;
    if rows == images { Ok(scaled) } else { B::Tensor::concat(&vec![&scaled; images], 0) }
}
