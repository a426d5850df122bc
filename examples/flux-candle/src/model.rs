//! The whole transformer: weights, embeddings, layers, output.

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::{Linear, Module, VarBuilder, linear};

use crate::config::Config;
use crate::layers::{Block, Double, Layer, Single, modulate, scale};
use crate::rotary;

/// The number of sines and cosines of a time step.
const FREQUENCIES: usize = 256;

/// FLUX's transformer.
#[derive(Debug)]
pub struct Flux {
    axes: [usize; 3],
    dim: usize,
    image_in: Linear,
    text_in: Linear,
    time: Mlp,
    guidance: Option<Mlp>,
    pooled: Mlp,
    /// The layers. The first is a block of its own, because first-block caches look at its output.
    pub blocks: Vec<Block>,
    modulation_out: Linear,
    out: Linear,
}

/// The inputs of one evaluation.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Packed latents `[batch, height·width, channels]`, row by row.
    pub latents: Tensor,
    /// Rows and columns of tokens.
    pub grid: (usize, usize),
    /// The text encoder's states `[batch, text tokens, channels]`.
    pub text: Tensor,
    /// The pooled text `[batch, channels]`.
    pub pooled: Tensor,
    /// The time `[batch]`: 1 is noise, 0 the image.
    pub time: Tensor,
    /// The guidance scale `[batch]`, for a model that has it as an input.
    pub guidance: Option<Tensor>,
}

/// What the layers get besides the image.
#[derive(Debug)]
pub struct Context {
    /// The text's tokens `[batch, text tokens, channels]`, which the layers change.
    pub text: Tensor,
    /// Time, guidance and pooled text `[batch, channels]`.
    pub time: Tensor,
    /// The image's rotary table `[height·width, dim]`.
    pub image_table: Tensor,
    /// The text's rotary table `[text tokens, dim]`.
    pub text_table: Tensor,
    /// Rows and columns of the image's tokens.
    pub grid: (usize, usize),
    /// The factor on `q·k`.
    pub scale: f64,
}

impl Flux {
    /// Loads diffusers' weights.
    pub fn load(config: &Config, weights: &VarBuilder<'_>) -> Result<Self> {
        let channels = config.channels();
        let embed = weights.pp("time_text_embed");
        let mlp = |from, name: &str| Mlp::load(from, channels, &embed.pp(name));
        let guidance = config.guidance_embeds.then(|| mlp(FREQUENCIES, "guidance_embedder")).transpose()?;
        let double = |i| Double::load(config, &weights.pp("transformer_blocks").pp(i)).map(Layer::Double);
        let single =
            |i| Single::load(config, &weights.pp("single_transformer_blocks").pp(i)).map(Layer::Single);
        let first = config.num_layers.min(1);
        let out_channels = config.out_channels.unwrap_or(config.in_channels);
        Ok(Self {
            axes: config.axes_dims_rope,
            dim: config.attention_head_dim,
            image_in: linear(config.in_channels, channels, weights.pp("x_embedder"))?,
            text_in: linear(config.joint_attention_dim, channels, weights.pp("context_embedder"))?,
            time: mlp(FREQUENCIES, "timestep_embedder")?,
            guidance,
            pooled: mlp(config.pooled_projection_dim, "text_embedder")?,
            blocks: vec![
                Block::load(0, ("double", 0, 2), (0..first).map(double))?,
                Block::load(1, ("double", 1, 2), (first..config.num_layers).map(double))?,
                Block::load(2, ("single", 0, 1), (0..config.num_single_layers).map(single))?,
            ],
            modulation_out: linear(channels, 2 * channels, weights.pp("norm_out.linear"))?,
            out: linear(channels, out_channels, weights.pp("proj_out"))?,
        })
    }

    /// The image's tokens `[batch, height·width, channels]`, and the layers' other inputs.
    ///
    /// # Errors
    /// If the grid and the latents have different numbers of tokens, or if guidance is missing or not an input.
    pub fn enter(&self, inputs: &Inputs) -> Result<(Tensor, Context)> {
        let Inputs { latents, grid: (height, width), text, pooled, time, guidance } = inputs;
        if height * width != latents.dim(1)? {
            bail!("a grid of {height} x {width} is not that of {} latents", latents.dim(1)?);
        }
        let mut embedded = self.time.forward(&frequencies(time)?.to_dtype(latents.dtype())?)?;
        match (&self.guidance, guidance) {
            (Some(mlp), Some(guidance)) => {
                embedded = (embedded + mlp.forward(&frequencies(guidance)?.to_dtype(latents.dtype())?)?)?;
            }
            (None, None) => {}
            (Some(_), None) => bail!("this model needs a guidance scale"),
            (None, Some(_)) => bail!("this model has no guidance scale"),
        }
        let table = |coordinates: Vec<_>| rotary::table(&self.axes, &coordinates, latents.device());
        let with = Context {
            text: self.text_in.forward(text)?,
            time: (embedded + self.pooled.forward(pooled)?)?,
            image_table: table(rotary::of_image(*height, *width))?,
            text_table: table(rotary::of_text(text.dim(1)?))?,
            grid: inputs.grid,
            scale: scale(self.dim),
        };
        Ok((self.image_in.forward(latents)?, with))
    }

    /// The prediction `[batch, height·width, channels]` from the image's tokens.
    pub fn exit(&self, image: &Tensor, time: &Tensor) -> Result<Tensor> {
        let scale_shift = self.modulation_out.forward(&time.silu()?)?.unsqueeze(1)?.chunk(2, D::Minus1)?;
        self.out.forward(&modulate(image, &scale_shift[1], &scale_shift[0])?)
    }
}

/// Two matrices with SiLU between.
#[derive(Debug)]
struct Mlp(Linear, Linear);

impl Mlp {
    fn load(from: usize, to: usize, weights: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self(linear(from, to, weights.pp("linear_1"))?, linear(to, to, weights.pp("linear_2"))?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.1.forward(&self.0.forward(x)?.silu()?)
    }
}

/// Cosines and sines of 1000 times each number: `[batch]` → `[batch, 256]`, in f32 as diffusers computes them.
fn frequencies(numbers: &Tensor) -> Result<Tensor> {
    let half = FREQUENCIES / 2;
    let frequency = |i: usize| {
        let exponent = -(10_000f64.ln() as f32) * i as f32 / half as f32;
        f64::from(exponent).exp() as f32
    };
    let row = Tensor::from_vec((0..half).map(frequency).collect(), (1, half), numbers.device())?;
    let angles = (numbers.to_dtype(DType::F32)? * 1000.0)?.unsqueeze(1)?.broadcast_mul(&row)?;
    Tensor::cat(&[angles.cos()?, angles.sin()?], 1)
}
