//! One layer: an image's stream and a text's stream with joint attention.

use candle_core::{D, Result, Tensor, bail};
use candle_nn::{Linear, Module, RmsNorm, VarBuilder, linear, rms_norm};
use candle_transformers::models::mmdit::blocks::{
    DiTBlock, LayerNormNoAffine, ModulateIntermediates, QkvOnlyDiTBlock,
};
use candle_transformers::models::mmdit::projections::{AttnProjections, Mlp, Qkv};

use crate::config::Config;

const EPS: f64 = 1e-6;

/// The norm before every sublayer.
pub fn norm() -> LayerNormNoAffine {
    LayerNormNoAffine::new(EPS)
}

/// The modulation of one sublayer by the time step: shift and scale of its input, and the gate of its output. Each is
/// `[batch, 1, channels]`.
#[derive(Debug, Clone)]
struct Modulation {
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
}

impl Modulation {
    fn input(&self, normed: &Tensor) -> Result<Tensor> {
        normed.broadcast_mul(&(&self.scale + 1.0)?)?.broadcast_add(&self.shift)
    }

    fn output(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.gate)
    }
}

/// The modulation of a layer's image side by the time step.
#[derive(Debug)]
pub struct Modulations {
    attention: Modulation,
    feed_forward: Modulation,
    second: Option<Modulation>,
}

/// The image's side of a layer.
pub struct ImageLayer {
    modulation: Linear,
    attention: AttnProjections,
    /// 3.5 medium: the image also attends to itself alone.
    second: Option<AttnProjections>,
    feed_forward: Mlp,
    heads: usize,
    dim: usize,
}

impl ImageLayer {
    fn load(config: &Config, weights: &VarBuilder<'_>) -> Result<Self> {
        let (channels, heads) = (config.channels(), config.num_attention_heads);
        let attention = |name: &str| AttnProjections::new(channels, heads, weights.pp(name));
        let second = weights.contains_tensor("attn2.qkv.weight");
        let modulations = if second { 9 } else { 6 };
        Ok(Self {
            modulation: linear(channels, modulations * channels, weights.pp("adaLN_modulation.1"))?,
            attention: attention("attn")?,
            second: second.then(|| attention("attn2")).transpose()?,
            feed_forward: Mlp::new(channels, 4 * channels, weights.pp("mlp"))?,
            heads,
            dim: config.attention_head_dim,
        })
    }

    /// From the time `[batch, channels]`.
    pub fn modulations(&self, time: &Tensor) -> Result<Modulations> {
        let count = if self.second.is_some() { 9 } else { 6 };
        let all = self.modulation.forward(&time.silu()?)?.unsqueeze(1)?.chunk(count, D::Minus1)?;
        let of = |i: usize| Modulation {
            shift: all[i].clone(),
            scale: all[i + 1].clone(),
            gate: all[i + 2].clone(),
        };
        Ok(Modulations { attention: of(0), feed_forward: of(3), second: self.second.as_ref().map(|_| of(6)) })
    }

    /// Queries, keys and values `[batch, heads, tokens, dim]` of normed tokens `[batch, tokens, channels]`.
    pub fn project(&self, normed: &Tensor, by: &Modulations) -> Result<[Tensor; 3]> {
        split(self.attention.pre_attention(&by.attention.input(normed)?)?, self.heads)
    }

    /// The output to be added to the stream, from joint attention's result `[batch, tokens, channels]`. If the image
    /// also attends to itself alone in this layer, that attention's output is included. It needs `normed`, the normed
    /// tokens: one tensor for queries and keys, or that of the queries first and that of the keys last.
    pub fn out(&self, attended: &Tensor, normed: &[Tensor], by: &Modulations) -> Result<Tensor> {
        let out = by.attention.output(&self.attention.post_attention(attended)?)?;
        let (Some(second), Some(by)) = (&self.second, &by.second) else { return Ok(out) };
        let mut parts = Vec::with_capacity(normed.len());
        for normed in normed {
            parts.push(split(second.pre_attention(&by.input(normed)?)?, self.heads)?);
        }
        let (Some([q, _, _]), Some([_, k, v])) = (parts.first(), parts.last()) else {
            bail!("attention without tokens");
        };
        out + by.output(&second.post_attention(&attend(q, k, v)?)?)?
    }

    /// The factor on `q·k`.
    pub fn scale(&self) -> f64 {
        scale(self.dim)
    }

    /// The feed-forward's output, to be added to the stream, of normed tokens.
    pub fn feed_forward(&self, normed: &Tensor, by: &Modulations) -> Result<Tensor> {
        by.feed_forward.output(&self.feed_forward.forward(&by.feed_forward.input(normed)?)?)
    }
}

/// The text's side of a layer.
#[allow(clippy::large_enum_variant, reason = "one a layer")]
pub enum TextLayer {
    /// Text that goes on to the next layer.
    Through(DiTBlock),
    /// The last layer's text is only attended to. The norms on its queries and keys, if the checkpoint has them.
    Last(QkvOnlyDiTBlock, Option<[RmsNorm; 2]>),
}

impl TextLayer {
    fn load(config: &Config, last: bool, weights: &VarBuilder<'_>) -> Result<Self> {
        let (channels, heads) = (config.channels(), config.num_attention_heads);
        if !last {
            return DiTBlock::new(channels, heads, weights.clone()).map(Self::Through);
        }
        let norm = |name: &str| rms_norm(config.attention_head_dim, EPS, weights.pp("attn").pp(name));
        let norms = weights.contains_tensor("attn.ln_q.weight");
        let norms = norms.then(|| Ok::<_, candle_core::Error>([norm("ln_q")?, norm("ln_k")?])).transpose()?;
        Ok(Self::Last(QkvOnlyDiTBlock::new(channels, heads, weights.clone())?, norms))
    }
}

/// The text's tensors in joint attention.
pub struct TextTurn {
    /// Queries, keys and values `[batch, heads, tokens, dim]`.
    pub qkv: [Tensor; 3],
    modulation: Option<ModulateIntermediates>,
}

/// A layer.
pub struct Layer {
    /// The image's side.
    pub image: ImageLayer,
    text: TextLayer,
}

impl Layer {
    /// Loads `joint_blocks.N`; `last` says whether it is the last.
    pub fn load(config: &Config, last: bool, weights: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            image: ImageLayer::load(config, &weights.pp("x_block"))?,
            text: TextLayer::load(config, last, &weights.pp("context_block"))?,
        })
    }

    /// The text `[batch, tokens, channels]` before joint attention.
    pub fn text_in(&self, text: &Tensor, time: &Tensor) -> Result<TextTurn> {
        let heads = self.image.heads;
        match &self.text {
            TextLayer::Through(block) => {
                let (qkv, modulation) = block.pre_attention(text, time)?;
                Ok(TextTurn { qkv: split(qkv, heads)?, modulation: Some(modulation) })
            }
            TextLayer::Last(block, norms) => {
                let [q, k, v] = split(block.pre_attention(text, time)?, heads)?;
                let qkv = match norms {
                    Some([norm_q, norm_k]) => [norm_q.forward(&q)?, norm_k.forward(&k)?, v],
                    None => [q, k, v],
                };
                Ok(TextTurn { qkv, modulation: None })
            }
        }
    }

    /// The text after the layer; the last layer's comes back as it was.
    pub fn text_out(&self, text: &Tensor, attended: &Tensor, turn: &TextTurn) -> Result<Tensor> {
        match (&self.text, &turn.modulation) {
            (TextLayer::Through(block), Some(modulation)) => block.post_attention(attended, text, modulation),
            _ => Ok(text.clone()),
        }
    }
}

/// Attention over text and image together. Both give queries, keys and values; both get `[batch, tokens, channels]`.
pub fn attend_jointly(text: &[Tensor; 3], image: [&Tensor; 3]) -> Result<[Tensor; 2]> {
    let both = |i: usize| Tensor::cat(&[&text[i], image[i]], 2);
    let out = attend(&both(0)?, &both(1)?, &both(2)?)?;
    let (of_text, of_image) = (text[0].dim(2)?, image[0].dim(2)?);
    Ok([out.narrow(1, 0, of_text)?.contiguous()?, out.narrow(1, of_text, of_image)?.contiguous()?])
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let map = candle_nn::ops::softmax_last_dim(&(q.matmul(&k.t()?)? * scale(q.dim(D::Minus1)?))?)?;
    map.matmul(v)?.transpose(1, 2)?.flatten_from(2)
}

/// The factor on `q·k` for heads with this number of channels.
fn scale(dim: usize) -> f64 {
    (dim as f64).powf(-0.5)
}

/// Queries and keys `[batch, tokens, channels]` and values `[batch, tokens, heads, dim]` → `[batch, heads, tokens, dim]`.
fn split(Qkv { q, k, v }: Qkv, heads: usize) -> Result<[Tensor; 3]> {
    let of = |x: Tensor| {
        let (batch, tokens) = (x.dim(0)?, x.dim(1)?);
        x.reshape((batch, tokens, heads, ()))?.transpose(1, 2)?.contiguous()
    };
    Ok([of(q)?, of(k)?, of(v)?])
}
