//! The U-Net on one backend, the inputs of an evaluation, and one evaluation of it.

use atedm_core::backend::DeviceOf;
use atedm_core::plugin::{Row, Step, TokenReducer};
use atedm_core::{Backend, DType, Result, Tensor, Weights};
use atedm_sdxl::checkpoint::Part;
use atedm_sdxl::rng::{NoiseSource, TorchRng};
use atedm_sdxl::unet::{UNet, UNetInput};
use atedm_sdxl::weights::RandomSource;

use crate::failure::{Failure, Outcome};
use crate::model::Model;
use crate::subject::Subject;

/// Seed of generated weights and inputs.
const SEED: u64 = 1;

/// A U-Net with everything that an evaluation needs.
pub(super) struct Bench<B: Backend> {
    unet: UNet<B>,
    pub(super) device: DeviceOf<B>,
    pub(super) dtype: DType,
    latents: B::Tensor,
    text: B::Tensor,
    pooled: B::Tensor,
    guidance: Option<B::Tensor>,
    time_ids: Vec<[f32; 6]>,
    pub(super) rows: Vec<Row>,
}

impl<B: Backend> Bench<B> {
    /// The model's weights, or generated ones, and `batch` rows of noise for inputs.
    pub(super) fn new(
        subject: &Subject,
        model: Option<&Model>,
        batch: usize,
        device: &DeviceOf<B>,
        dtype: DType,
    ) -> Outcome<Self> {
        let config = &subject.unet;
        let weights = match model {
            Some(model) => {
                model.checkpoint.weights::<B::Tensor>(Part::UNet, dtype, device).map_err(Failure::run)?
            }
            None => Weights::new(RandomSource::new(SEED, dtype, device.clone())),
        };
        let unet = UNet::<B>::load(&weights, config).map_err(Failure::run)?;
        let mut noise = TorchRng::new(SEED);
        let mut draw = |shape: &[usize]| {
            let values = noise.standard_normal(shape)?;
            B::Tensor::from_f32(&values, shape, dtype, device)
        };
        let (height, width) = {
            let latents = subject.workload(1).latents;
            (latents.height, latents.width)
        };
        let (down, across) = (subject.size.height as f32, subject.size.width as f32);
        let guidance = config.guidance_channels.map(|channels| draw(&[batch, channels])).transpose()?;
        Ok(Self {
            latents: draw(&[batch, config.in_channels, height, width])?,
            text: draw(&[batch, subject.text, config.text_channels()])?,
            pooled: draw(&[batch, config.pooled_channels()])?,
            guidance,
            time_ids: vec![[down, across, 0.0, 0.0, down, across]; batch],
            rows: Row::singles(batch),
            unet,
            device: device.clone(),
            dtype,
        })
    }

    /// One evaluation at `step`.
    pub(super) fn evaluate(
        &self,
        reducer: &mut dyn TokenReducer<B::Tensor>,
        step: &Step,
    ) -> Result<B::Tensor> {
        let input = UNetInput {
            latents: &self.latents,
            timesteps: &vec![step.timestep; self.rows.len()],
            text: &self.text,
            pooled: &self.pooled,
            time_ids: &self.time_ids,
            timestep_cond: self.guidance.as_ref(),
            step,
            rows: &self.rows,
        };
        B::inference(|| {
            reducer.begin_step(step, &self.rows)?;
            let prediction = self.unet.forward(&input, reducer)?;
            reducer.end_step(&prediction)?;
            Ok(prediction)
        })
    }
}
