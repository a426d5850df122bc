//! The U-Net: its weights, the check of its input, and an evaluation.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::plugin::{NestId, NestSite, Stage, TokenReducer, nest};
use atedm_core::{Backend, Error, Result, Tensor, Weights};

use super::beside::Beside;
use super::context::{ForwardContext, Watch};
use super::embedding::Embedding;
use super::input::UNetInput;
use super::nests::{Nests, Streams};
use super::stages::{DownStep, Mid, StagePlace, UpStep};
use crate::config::UNetConfig;
use crate::layers::{Bias, Conv2d, ConvShape, GroupNorm};

/// The U-Net with its weights.
#[derive(Debug)]
pub struct UNet<B: Backend> {
    config: UNetConfig,
    embedding: Embedding<B::Tensor>,
    nests: Nests<B::Tensor>,
    norm_out: GroupNorm<B::Tensor>,
    conv_out: Conv2d<B::Tensor>,
}

impl<B: Backend> UNet<B> {
    /// Loads every tensor of `unet/`.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the tensor that is missing or has another shape.
    pub fn load(weights: &Weights<B::Tensor>, config: &UNetConfig) -> Result<Self> {
        let base = config.base_channels();
        let with_kernel = |inputs, outputs, kernel: usize| ConvShape {
            inputs,
            outputs,
            kernel,
            options: Conv2dOptions::strided(1, (kernel - 1) / 2),
            bias: Bias::With,
        };
        let conv_in = with_kernel(config.in_channels, base, config.conv_in_kernel);
        let conv_out = with_kernel(base, config.out_channels, config.conv_out_kernel);
        let scope = |path: &str, i: usize| weights.scope(path).scope(i);
        let mut down = vec![DownStep::first(Conv2d::load(&weights.scope("conv_in"), conv_in)?)];
        for (i, stage) in config.down.iter().enumerate() {
            let place = StagePlace { stage: Stage::Down, index: i, level: i };
            down.extend(DownStep::load_stage(&scope("down_blocks", i), config, stage, place)?);
        }
        let last = config.down.len().saturating_sub(1);
        let place = StagePlace { stage: Stage::Mid, index: 0, level: last };
        let mid = config.mid.as_ref().map(|mid| Mid::load(&weights.scope("mid_block"), config, mid, place));
        let mut up = Vec::new();
        for (i, stage) in config.up.iter().enumerate() {
            let place = StagePlace { stage: Stage::Up, index: i, level: last - i };
            up.extend(UpStep::load_stage(&scope("up_blocks", i), config, stage, place)?);
        }
        Ok(Self {
            embedding: Embedding::load(weights, config)?,
            nests: Nests::new(down, mid.transpose()?, up)?,
            norm_out: GroupNorm::load(
                &weights.scope("conv_norm_out"),
                base,
                config.norm_groups,
                config.norm_epsilon,
            )?,
            conv_out: Conv2d::load(&weights.scope("conv_out"), conv_out)?,
            config: config.clone(),
        })
    }

    /// The configuration with which it was loaded.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Computes the prediction `[b, out_channels, h, w]`. Every attention block asks `reducer`.
    ///
    /// The sampling loop calls the reducer's `begin_step` and `end_step`. This method calls neither.
    ///
    /// # Errors
    /// [`Error::Shape`] if an input does not fit the configuration; errors of the backend and of the reducer.
    pub fn forward(
        &self,
        input: &UNetInput<'_, B::Tensor>,
        reducer: &mut dyn TokenReducer<B::Tensor>,
    ) -> Result<B::Tensor> {
        self.watched(input, reducer, &mut |_, _| Ok(()))
    }

    /// The same as [`UNet::forward`], but stops at the first module whose output is not finite. It is slow, since it reads
    /// every output on the host.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming that module; the errors of [`UNet::forward`].
    pub fn forward_checked(
        &self,
        input: &UNetInput<'_, B::Tensor>,
        reducer: &mut dyn TokenReducer<B::Tensor>,
    ) -> Result<B::Tensor> {
        self.watched(input, reducer, &mut |module, output: &B::Tensor| match output
            .to_f32()?
            .iter()
            .all(|value| value.is_finite())
        {
            true => Ok(()),
            false => Err(Error::NotFinite { what: module.to_string() }),
        })
    }

    fn watched(
        &self,
        input: &UNetInput<'_, B::Tensor>,
        reducer: &mut dyn TokenReducer<B::Tensor>,
        watch: &mut Watch<'_, B::Tensor>,
    ) -> Result<B::Tensor> {
        let [_, _, height, width] = self.check(input)?;
        let _span = tracing::debug_span!("unet", step = input.step.index).entered();
        watch(format_args!("the input"), input.latents)?;
        let site = NestSite { nest: NestId::EVALUATION, step: *input.step, rows: input.rows };
        let prediction = nest(reducer, &site, input.latents.clone(), |reducer, latents| {
            self.evaluate(input, latents, reducer, watch)
        })?;
        let [_, _, h, w] = dims(&prediction, "U-Net")?;
        if (h, w) != (height, width) {
            return Err(Error::shape("U-Net", format!("a prediction of {height} x {width}"), [h, w]));
        }
        Ok(prediction)
    }

    /// The evaluation itself.
    fn evaluate(
        &self,
        input: &UNetInput<'_, B::Tensor>,
        latents: B::Tensor,
        reducer: &mut dyn TokenReducer<B::Tensor>,
        watch: &mut Watch<'_, B::Tensor>,
    ) -> Result<B::Tensor> {
        let emb = self.embedding.forward(&self.config, &input.conditions())?;
        watch(format_args!("time_embedding and add_embedding"), &emb)?;
        let (text, step, rows) = (input.text, input.step, input.rows);
        let (beside, stream) = match &input.control {
            Some(control) => {
                let (beside, stream) = Beside::begin(*control, input, &latents)?;
                (Some(beside), Some(stream))
            }
            None => (None, None),
        };
        let mut context = ForwardContext { emb: &emb, text, step, rows, reducer, watch };
        let hidden =
            self.nests.forward(Streams { hidden: latents, beside: stream }, beside.as_ref(), &mut context)?;
        let hidden = self.norm_out.forward_silu(&hidden)?;
        let prediction = self.conv_out.forward(&hidden)?;
        watch(format_args!("conv_norm_out and conv_out"), &prediction)?;
        Ok(prediction)
    }

    fn check(&self, input: &UNetInput<'_, B::Tensor>) -> Result<[usize; 4]> {
        let config = &self.config;
        let shape: [usize; 4] = dims(input.latents, "U-Net latents")?;
        let [batch, channels, height, width] = shape;
        if channels != config.in_channels || batch == 0 || height == 0 || width == 0 {
            let expected = format!("[batch, {}, height, width]", config.in_channels);
            return Err(Error::shape("U-Net latents", expected, shape));
        }
        let text = input.text.shape();
        if text.len() != 3 || text[0] != batch || text[1] == 0 || text[2] != config.text_channels() {
            let expected = format!("[{batch}, length, {}]", config.text_channels());
            return Err(Error::shape("U-Net text", expected, text));
        }
        let pooled = input.pooled.shape();
        if pooled != [batch, config.pooled_channels()] {
            let expected = format!("[{batch}, {}]", config.pooled_channels());
            return Err(Error::shape("U-Net pooled text", expected, pooled));
        }
        if input.time_ids.len() != batch {
            return Err(Error::shape("U-Net time ids", format!("[{batch}, 6]"), [input.time_ids.len(), 6]));
        }
        if input.timesteps.len() != batch {
            return Err(Error::shape("U-Net timesteps", format!("[{batch}]"), [input.timesteps.len()]));
        }
        if input.rows.len() != batch {
            return Err(Error::shape("U-Net rows", format!("[{batch}]"), [input.rows.len()]));
        }
        if let Some(control) = &input.control {
            control.check(config, [height, width])?;
        }
        Ok(shape)
    }
}
