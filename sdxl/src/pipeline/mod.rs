//! Text to image. The steps are those of diffusers' `StableDiffusionXLPipeline`, with a token reducer inside the U-Net.
//!
//! ```text
//! prompts → text encoders → rows [negative … | prompt …]
//! noise × σ_init → for each evaluation: scale → U-Net → guidance → sampler → callback after the step's last
//! final latents → VAE (in f32 where the checkpoint asks for it) → pixels in 0..1
//! ```
//! The sampler works in f32, whatever the U-Net's dtype. In a pipeline in f64 it works in f64.

mod control;
mod decode;
mod guidance;
mod initial;
mod meter;
mod prompt;
mod repaint;
mod request;
mod run;
mod size;
mod states;
mod steering;

use atedm_core::{Backend, DType, DeviceOf, Result};

pub use control::{Control, ControlSpan};
pub use request::{
    Conditioning, Corner, CutPrompt, Decoding, Images, InitialLatents, MicroConditioning, Output, PixelSize,
    Repaint, Request, StepCost, StepReport, TextEmbeddings,
};

use crate::checkpoint::{Checkpoint, Part};
use crate::config::TextEncoderConfig;
use crate::prompt::{SyntaxRegistry, TextOptions};
use crate::schedulers::{SamplerRegistry, SchedulerConfig};
use crate::unet::{ControlNet, UNet};
use crate::vae::Vae;
use prompt::{Residence, Texts};

pub(crate) use decode::decode;
pub use prompt::TextEncoders;

/// The callback's answer to the run: [`std::ops::ControlFlow::Break`] cancels it.
pub type Proceed = std::ops::ControlFlow<()>;

/// The models of a checkpoint, ready to run on one device.
pub struct Pipeline<B: Backend> {
    encoders: Residence<B>,
    unet: UNet<B>,
    control: Option<ControlNet<B::Tensor>>,
    vae: Vae<B>,
    scheduler: SchedulerConfig,
    samplers: SamplerRegistry<B::Tensor>,
    syntaxes: SyntaxRegistry,
    zero_negative: bool,
    text_encoders: [TextEncoderConfig; 2],
    text_length: usize,
    dtype: DType,
    vae_dtype: DType,
    device: DeviceOf<B>,
}

impl<B: Backend> Pipeline<B> {
    /// Loads every part of a checkpoint in `dtype`. The VAE loads in f32 if its config asks for it and `dtype` is f16.
    ///
    /// # Errors
    /// The errors of reading the parts: [`atedm_core::Error::Io`], [`atedm_core::Error::Weights`] naming the tensor,
    /// [`atedm_core::Error::Config`] for a tokenizer.
    pub fn load(checkpoint: &Checkpoint, dtype: DType, device: &DeviceOf<B>) -> Result<Self> {
        Self::load_with(checkpoint, dtype, device, TextEncoders::Kept)
    }

    /// Like [`Pipeline::load`], with a choice how long the text encoders stay in memory. They are a quarter of SD-XL's
    /// weights, and a run needs them only at its start.
    ///
    /// # Errors
    /// The errors of [`Pipeline::load`]. With [`TextEncoders::PerRun`], an error in an encoder appears only at the start of
    /// a run.
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
        let control = checkpoint.control_weights::<B::Tensor>(dtype, device)?;
        let control =
            control.zip(unet.control.as_ref()).map(|(weights, config)| ControlNet::load(&weights, config));
        Ok(Self {
            encoders: Residence::new(checkpoint, dtype, device, text)?,
            unet: UNet::load(&weights(Part::UNet, dtype)?, unet)?,
            control: control.transpose()?,
            vae: Vae::load(&weights(Part::Vae, vae_dtype)?, vae)?,
            scheduler: checkpoint.scheduler().clone(),
            samplers: SamplerRegistry::with_builtins(),
            syntaxes: SyntaxRegistry::with_builtins(),
            text_encoders: checkpoint.text_encoders().map(Clone::clone),
            zero_negative: checkpoint.force_zeros_for_empty_prompt(),
            text_length: checkpoint.text_encoders()[0].context,
            dtype,
            vae_dtype,
            device: device.clone(),
        })
    }

    /// The same with the samplers of this registry, instead of this crate's alone.
    #[must_use]
    pub fn with_samplers(self, samplers: SamplerRegistry<B::Tensor>) -> Self {
        Self { samplers, ..self }
    }

    /// The same with the prompt syntaxes of this registry, instead of this crate's alone.
    #[must_use]
    pub fn with_syntaxes(self, syntaxes: SyntaxRegistry) -> Self {
        Self { syntaxes, ..self }
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

    /// Number of tokens of a prompt in one chunk.
    pub fn text_length(&self) -> usize {
        self.text_length
    }

    /// The dtype of the U-Net and the text encoders.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dtype of the autoencoder.
    pub fn vae_dtype(&self) -> DType {
        self.vae_dtype
    }

    /// The device.
    pub fn device(&self) -> &DeviceOf<B> {
        &self.device
    }

    /// Encodes texts for [`Conditioning::Embeddings`]. Also returns the texts that did not fit.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] naming the prompt, `prompt_syntax` or `clip_skip`;
    /// [`atedm_core::Error::NotFinite`] naming the encoder.
    pub fn encode(
        &self,
        texts: &[String],
        options: &TextOptions,
    ) -> Result<(TextEmbeddings<B::Tensor>, Vec<CutPrompt>)> {
        let how = self.texts(options)?;
        let mut cut = Vec::new();
        let embeddings = B::inference(|| {
            self.encoders.with(&self.device, |e| e.encode(texts, how, &mut cut, &self.device))
        })?;
        Ok((embeddings, cut))
    }

    /// The options with their syntax, checked.
    fn texts(&self, options: &TextOptions) -> Result<Texts<'_>> {
        let TextOptions { syntax, clip_skip } = options;
        self.text_encoders.iter().try_for_each(|encoder| encoder.check_skip(*clip_skip))?;
        Ok(Texts { syntax: self.syntaxes.get(syntax)?, clip_skip: *clip_skip })
    }
}
