//! Text to image, step by step as diffusers' `StableDiffusionXLPipeline`, with a token reducer inside the U-Net.
//!
//! ```text
//! prompts → text encoders → rows [negative … | prompt …]
//! noise × σ_init → for each step: scale → U-Net → guidance → sampler step → callback
//! final latents → VAE (in f32 where the checkpoint asks for it) → pixels in 0..1
//! ```
//! The sampler works in f32 (f64 for a pipeline in f64) whatever dtype the U-Net has.

mod decode;
mod guidance;
mod meter;
mod prompt;
mod request;
mod run;
mod size;

use atedm_core::{Backend, DType, DeviceOf, Result};

pub use request::{
    Conditioning, Corner, CutPrompt, Decoding, Images, InitialLatents, MicroConditioning, Output, PixelSize,
    Request, StepCost, StepReport, TextEmbeddings,
};

use crate::checkpoint::{Checkpoint, Part};
use crate::schedulers::SchedulerConfig;
use crate::unet::UNet;
use crate::vae::Vae;
use prompt::Residence;

pub use prompt::TextEncoders;

/// What the callback tells the run to do: [`std::ops::ControlFlow::Break`] cancels it.
pub type Proceed = std::ops::ControlFlow<()>;

/// The models of a checkpoint, ready to run on one device.
pub struct Pipeline<B: Backend> {
    encoders: Residence<B>,
    unet: UNet<B>,
    vae: Vae<B>,
    scheduler: SchedulerConfig,
    zero_negative: bool,
    text_length: usize,
    dtype: DType,
    vae_dtype: DType,
    device: DeviceOf<B>,
}

impl<B: Backend> Pipeline<B> {
    /// Loads every part of a checkpoint in `dtype`; the VAE in f32 where its config asks for it and `dtype` is f16.
    ///
    /// # Errors
    /// What reading the parts fails with: [`atedm_core::Error::Io`], [`atedm_core::Error::Weights`] naming the tensor,
    /// [`atedm_core::Error::Config`] for a tokenizer.
    pub fn load(checkpoint: &Checkpoint, dtype: DType, device: &DeviceOf<B>) -> Result<Self> {
        Self::load_with(checkpoint, dtype, device, TextEncoders::Kept)
    }

    /// [`Pipeline::load`] with a choice of what becomes of the text encoders, a quarter of SD-XL's weights that a run needs
    /// only at its start.
    ///
    /// # Errors
    /// As [`Pipeline::load`]; with [`TextEncoders::PerRun`] what is wrong with an encoder shows at the start of a run.
    pub fn load_with(
        checkpoint: &Checkpoint,
        dtype: DType,
        device: &DeviceOf<B>,
        text: TextEncoders,
    ) -> Result<Self> {
        let _span = tracing::info_span!("load").entered();
        let (unet, vae) = (checkpoint.unet(), checkpoint.vae());
        let vae_dtype = Vae::<B>::dtype_beside(vae, dtype);
        let weights = |part: Part, dtype: DType| checkpoint.weights::<B::Tensor>(part, dtype, device);
        Ok(Self {
            encoders: Residence::new(checkpoint, dtype, device, text)?,
            unet: UNet::load(&weights(Part::UNet, dtype)?, unet)?,
            vae: Vae::load(&weights(Part::Vae, vae_dtype)?, vae)?,
            scheduler: checkpoint.scheduler().clone(),
            zero_negative: checkpoint.force_zeros_for_empty_prompt(),
            text_length: checkpoint.text_encoders()[0].context,
            dtype,
            vae_dtype,
            device: device.clone(),
        })
    }

    /// The U-Net.
    pub fn unet(&self) -> &UNet<B> {
        &self.unet
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae<B> {
        &self.vae
    }

    /// The checkpoint's scheduler config.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Tokens of every encoded prompt.
    pub fn text_length(&self) -> usize {
        self.text_length
    }

    /// The dtype of the U-Net and the text encoders.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device.
    pub fn device(&self) -> &DeviceOf<B> {
        &self.device
    }

    /// Encodes texts to what [`Conditioning::Embeddings`] takes, with those that did not fit.
    pub fn encode(&self, texts: &[String]) -> Result<(TextEmbeddings<B::Tensor>, Vec<CutPrompt>)> {
        let mut cut = Vec::new();
        let embeddings =
            B::inference(|| self.encoders.with(&self.device, |e| e.encode(texts, &mut cut, &self.device)))?;
        Ok((embeddings, cut))
    }
}
