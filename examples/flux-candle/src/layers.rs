//! FLUX's layers: two streams with joint attention, or one stream with attention and feed-forward in parallel.

use candle_core::{D, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, RmsNorm, VarBuilder, linear, rms_norm};

use crate::config::Config;
use crate::rotary::rotate;

const EPS: f64 = 1e-6;

/// The modulation of one sublayer by the time step: shift and scale of its norm, and the gate of its output. Each is
/// `[batch, 1, channels]`.
#[derive(Debug, Clone)]
pub struct Modulation {
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
}

impl Modulation {
    /// `count` of them from the time `[batch, channels]`.
    fn all(projection: &Linear, time: &Tensor, count: usize) -> Result<Vec<Self>> {
        let chunks = projection.forward(&time.silu()?)?.unsqueeze(1)?.chunk(3 * count, D::Minus1)?;
        let of = |three: &[Tensor]| Self {
            shift: three[0].clone(),
            scale: three[1].clone(),
            gate: three[2].clone(),
        };
        Ok(chunks.chunks(3).map(of).collect())
    }

    /// The sublayer's output, to be added to the stream.
    pub fn gate(&self, output: &Tensor) -> Result<Tensor> {
        output.broadcast_mul(&self.gate)
    }
}

/// The sublayer's norm.
impl Module for Modulation {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        modulate(x, &self.shift, &self.scale)
    }
}

/// A norm without weights, scaled and shifted.
pub(crate) fn modulate(x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones(x.dim(D::Minus1)?, x.dtype(), x.device())?;
    let normed = LayerNorm::new(ones.clone(), ones.zeros_like()?, EPS).forward(&x.contiguous()?)?;
    normed.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
}

/// Projections to queries, keys and values, with a norm on queries and keys.
#[derive(Debug)]
struct Projections {
    linears: [Linear; 3],
    norms: [RmsNorm; 2],
    heads: usize,
    dim: usize,
}

impl Projections {
    fn load(config: &Config, linears: [&str; 3], norms: [&str; 2], weights: &VarBuilder<'_>) -> Result<Self> {
        let (channels, dim) = (config.channels(), config.attention_head_dim);
        let [q, k, v] = linears.map(|name| linear(channels, channels, weights.pp(name)));
        let [norm_q, norm_k] = norms.map(|name| rms_norm(dim, EPS, weights.pp(name)));
        Ok(Self { linears: [q?, k?, v?], norms: [norm_q?, norm_k?], heads: config.num_attention_heads, dim })
    }

    fn qkv(&self, x: &Tensor, table: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, tokens, _) = x.dims3()?;
        let split = |linear: &Linear| {
            let shape = (batch, tokens, self.heads, self.dim);
            linear.forward(x)?.reshape(shape)?.transpose(1, 2)?.contiguous()
        };
        let [q, k, v] = &self.linears;
        let [norm_q, norm_k] = &self.norms;
        let turn = |x: &Linear, norm: &RmsNorm| rotate(&norm.forward(&split(x)?)?, table);
        Ok([turn(q, norm_q)?, turn(k, norm_k)?, split(v)?])
    }
}

/// Attention over text and image together. Both give queries, keys and values `[batch, heads, tokens, dim]`; both get
/// `[batch, tokens, channels]`.
pub fn attend(text: &[Tensor; 3], image: [&Tensor; 3]) -> Result<[Tensor; 2]> {
    let both = |i: usize| Tensor::cat(&[&text[i], image[i]], 2);
    let (q, k, v) = (both(0)?, both(1)?, both(2)?);
    let logits = (q.matmul(&k.t()?)? * scale(q.dim(D::Minus1)?))?;
    let out = candle_nn::ops::softmax_last_dim(&logits)?.matmul(&v)?.transpose(1, 2)?.flatten_from(2)?;
    let (of_text, of_image) = (text[0].dim(2)?, image[0].dim(2)?);
    Ok([out.narrow(1, 0, of_text)?.contiguous()?, out.narrow(1, of_text, of_image)?.contiguous()?])
}

/// The factor on `q·k` for heads with this number of channels.
pub(crate) fn scale(dim: usize) -> f64 {
    (dim as f64).powf(-0.5)
}

/// One of the two streams of a double-stream layer.
#[derive(Debug)]
pub struct Stream {
    modulation: Linear,
    projections: Projections,
    out: Linear,
    up: Linear,
    down: Linear,
}

impl Stream {
    /// Queries, keys and values of normed tokens `[batch, tokens, channels]`, each `[batch, heads, tokens, dim]`; queries
    /// and keys are turned by `table`.
    pub fn qkv(&self, normed: &Tensor, table: &Tensor) -> Result<[Tensor; 3]> {
        self.projections.qkv(normed, table)
    }

    /// `[batch, channels]` → the modulations of attention and feed-forward.
    pub fn modulations(&self, time: &Tensor) -> Result<[Modulation; 2]> {
        let all = Modulation::all(&self.modulation, time, 2)?;
        Ok([all[0].clone(), all[1].clone()])
    }

    /// The output projection of attention.
    pub fn out(&self, attended: &Tensor) -> Result<Tensor> {
        self.out.forward(attended)
    }

    /// The feed-forward.
    pub fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.up.forward(x)?.gelu()?)
    }

    /// What follows attention, both residuals included: `[batch, tokens, channels]`.
    pub fn finish(&self, x: &Tensor, attended: &Tensor, by: &[Modulation; 2]) -> Result<Tensor> {
        let x = (x + by[0].gate(&self.out(attended)?)?)?;
        &x + by[1].gate(&self.mlp(&by[1].forward(&x)?)?)?
    }
}

/// A double-stream layer.
#[derive(Debug)]
pub struct Double {
    /// The image's stream.
    pub image: Stream,
    /// The text's stream.
    pub text: Stream,
}

impl Double {
    /// Loads one of diffusers' `transformer_blocks`.
    pub fn load(config: &Config, weights: &VarBuilder<'_>) -> Result<Self> {
        let channels = config.channels();
        let stream = |norm: &str, linears, norms, out: &str, ff: &str| {
            Ok::<_, candle_core::Error>(Stream {
                modulation: linear(channels, 6 * channels, weights.pp(norm))?,
                projections: Projections::load(config, linears, norms, &weights.pp("attn"))?,
                out: linear(channels, channels, weights.pp(out))?,
                up: linear(channels, 4 * channels, weights.pp(ff).pp("net.0.proj"))?,
                down: linear(4 * channels, channels, weights.pp(ff).pp("net.2"))?,
            })
        };
        let image = ["to_q", "to_k", "to_v"];
        let text = ["add_q_proj", "add_k_proj", "add_v_proj"];
        Ok(Self {
            image: stream("norm1.linear", image, ["norm_q", "norm_k"], "attn.to_out.0", "ff")?,
            text: stream(
                "norm1_context.linear",
                text,
                ["norm_added_q", "norm_added_k"],
                "attn.to_add_out",
                "ff_context",
            )?,
        })
    }
}

/// A single-stream layer: attention and feed-forward in parallel, with one output projection.
#[derive(Debug)]
pub struct Single {
    modulation: Linear,
    projections: Projections,
    up: Linear,
    out: Linear,
}

impl Single {
    /// Loads one of diffusers' `single_transformer_blocks`.
    pub fn load(config: &Config, weights: &VarBuilder<'_>) -> Result<Self> {
        let channels = config.channels();
        let (linears, norms) = (["to_q", "to_k", "to_v"], ["norm_q", "norm_k"]);
        Ok(Self {
            modulation: linear(channels, 3 * channels, weights.pp("norm.linear"))?,
            projections: Projections::load(config, linears, norms, &weights.pp("attn"))?,
            up: linear(channels, 4 * channels, weights.pp("proj_mlp"))?,
            out: linear(5 * channels, channels, weights.pp("proj_out"))?,
        })
    }

    /// Queries, keys and values of normed tokens `[batch, tokens, channels]`, each `[batch, heads, tokens, dim]`; queries
    /// and keys are turned by `table`.
    pub fn qkv(&self, normed: &Tensor, table: &Tensor) -> Result<[Tensor; 3]> {
        self.projections.qkv(normed, table)
    }

    /// `[batch, channels]` → the layer's modulation.
    pub fn modulation(&self, time: &Tensor) -> Result<Modulation> {
        Ok(Modulation::all(&self.modulation, time, 1)?.swap_remove(0))
    }

    /// The layer's output from attention's result `attended` and the feed-forward: `[batch, tokens, channels]`.
    pub fn out(&self, attended: &Tensor, normed: &Tensor) -> Result<Tensor> {
        self.out.forward(&Tensor::cat(&[attended, &self.up.forward(normed)?.gelu()?], D::Minus1)?)
    }
}

/// A layer of one of the two kinds.
#[allow(clippy::large_enum_variant, reason = "one a layer")]
#[derive(Debug)]
pub enum Layer {
    /// Two streams.
    Double(Double),
    /// One stream.
    Single(Single),
}

/// Consecutive layers of one kind.
#[derive(Debug)]
pub struct Block {
    /// `double` or `single`.
    pub stage: &'static str,
    /// The block's index among those of its kind.
    pub index: usize,
    /// The number of blocks of its kind.
    pub count: usize,
    /// The block's index in the model.
    pub number: usize,
    /// The layers.
    pub layers: Vec<Layer>,
}

impl Block {
    /// Collects the layers of a run.
    pub fn load(
        number: usize,
        (stage, index, count): (&'static str, usize, usize),
        layers: impl Iterator<Item = Result<Layer>>,
    ) -> Result<Self> {
        Ok(Self { stage, index, count, number, layers: layers.collect::<Result<_>>()? })
    }
}
