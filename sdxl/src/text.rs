//! SD-XL's text encoders: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.
//!
//! ```text
//! x      = tokens(ids) + positions
//! x     += out(attention(norm1(x)), causal);  x += fc2(act(fc1(norm2(x))))      for each layer
//! hidden = x before the last layer, without a norm                              hidden_states[-2 - clip_skip]
//! pooled = projection · final_norm(x)[end token]
//! ```

use atedm_core::backend::dims;
use atedm_core::{AttentionOps, Backend, DeviceOf, Error, Indices, Result, Tensor, Weights};

use crate::config::{TextActivation, TextEncoderConfig};
use crate::layers::{Bias, LayerNorm, Linear, plain_attention};

/// The output of a text encoder for a batch of prompts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TextOutput<T> {
    /// The hidden states before the last layer, or before an earlier one, `[b, length, channels]`.
    pub hidden: T,
    /// The pooled projection `[b, projection]`, if the encoder has one.
    pub pooled: Option<T>,
}

/// The input of a text encoder.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TextRows<'a> {
    /// Rows of token ids, all of one length.
    pub ids: &'a [Vec<u32>],
    /// For each row, which tokens are hidden from the others. Empty if no row hides any.
    pub hidden: &'a [Vec<bool>],
    /// The number of layers before the last one that the hidden states leave out too. The pooled state uses all layers.
    pub clip_skip: usize,
}

impl<'a> TextRows<'a> {
    /// Rows without hidden tokens, through all layers but the last.
    pub fn new(ids: &'a [Vec<u32>]) -> Self {
        Self { ids, hidden: &[], clip_skip: 0 }
    }
}

/// A text encoder with its weights.
#[derive(Debug)]
pub struct TextEncoder<B: Backend> {
    config: TextEncoderConfig,
    tokens: B::Tensor,
    positions: B::Tensor,
    layers: Vec<Layer<B::Tensor>>,
    pooling: Option<Pooling<B::Tensor>>,
}

/// The layers from the last one to the pooled output.
#[derive(Debug)]
struct Pooling<T> {
    norm: LayerNorm<T>,
    projection: Linear<T>,
}

/// The mask's value for forbidden logits: the least f32. It is far below any logit, but finite.
const FORBIDDEN: f32 = f32::MIN;

impl<B: Backend> TextEncoder<B> {
    /// Loads the tensors of a text encoder.
    ///
    /// Names may begin with `text_model.` or not, because transformers 5 drops the prefix for encoders without a
    /// projection. Nothing depends on the last layer of an encoder without a projection, so it is not read.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the tensor that is missing or has another shape.
    pub fn load(weights: &Weights<B::Tensor>, config: &TextEncoderConfig) -> Result<Self> {
        const TABLE: &str = "embeddings.token_embedding.weight";
        let nested = weights.scope("text_model");
        let model = if nested.contains(TABLE) || !weights.contains(TABLE) { nested } else { weights.clone() };
        let channels = config.channels;
        let embeddings = model.scope("embeddings");
        let table = |name: &str, rows| embeddings.scope(name).tensor("weight", &[rows, channels]);
        let pooling = config.projection.map(|projection| {
            let norm = LayerNorm::load(&model.scope("final_layer_norm"), channels, config.norm_epsilon)?;
            let projection =
                Linear::load(&weights.scope("text_projection"), channels, projection, Bias::Without)?;
            Ok::<_, Error>(Pooling { norm, projection })
        });
        let needed =
            if config.projection.is_some() { config.layers } else { config.layers.saturating_sub(1) };
        let layer = |i: usize| Layer::load(&model.scope("encoder.layers").scope(i), config);
        Ok(Self {
            tokens: table("token_embedding", config.vocabulary)?,
            positions: table("position_embedding", config.context)?,
            layers: (0..needed).map(layer).collect::<Result<_>>()?,
            pooling: pooling.transpose()?,
            config: config.clone(),
        })
    }

    /// The configuration that it was loaded with.
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// Puts `vectors` (`[count, channels]`) into the table of tokens, from id `at` on. Ids behind the table's end make it longer.
    ///
    /// # Errors
    /// [`Error::Config`] with the field `embedding` if `at` lies behind the end; [`Error::Shape`] for other channels.
    pub fn with_vectors(mut self, at: usize, vectors: &B::Tensor) -> Result<Self> {
        let [count, _] = dims(vectors, "embedding")?;
        let rows = self.config.vocabulary;
        let Some(before) = (at <= rows).then_some(at) else {
            let reason = format!("expected an id of at most {rows}, the text encoder's vocabulary, got {at}");
            return Err(Error::config("embedding", reason));
        };
        let end = (at + count).min(rows);
        let parts = [
            (before > 0).then(|| self.tokens.narrow(0, 0, before)).transpose()?,
            Some(vectors.clone()),
            (end < rows).then(|| self.tokens.narrow(0, end, rows - end)).transpose()?,
        ];
        let parts: Vec<&B::Tensor> = parts.iter().flatten().collect();
        self.tokens = B::Tensor::concat(&parts, 0)?;
        self.config.vocabulary = rows.max(at + count);
        Ok(self)
    }

    /// Encodes rows of token ids. All rows must have one length.
    ///
    /// # Errors
    /// The errors of [`TextEncoder::encode_rows`].
    pub fn encode(&self, ids: &[Vec<u32>], device: &DeviceOf<B>) -> Result<TextOutput<B::Tensor>> {
        self.encode_rows(&TextRows::new(ids), device)
    }

    /// Encodes rows of token ids, with hidden tokens or without some of the last layers.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no ids, if rows differ in length, or if they are longer than the context.
    /// [`Error::Config`] if an id is outside the vocabulary, or if fewer layers are left than 1.
    pub fn encode_rows(&self, rows: &TextRows<'_>, device: &DeviceOf<B>) -> Result<TextOutput<B::Tensor>> {
        let TextRows { ids, hidden: unseen, clip_skip } = *rows;
        let _span = tracing::debug_span!("text encoder", prompts = ids.len()).entered();
        let (batch, length) = self.check(ids)?;
        self.config.check_skip(clip_skip)?;
        let channels = self.config.channels;
        let rows = <B::Tensor as Tensor>::Indices::from_host(ids, device)?;
        let embedded = atedm_core::NnOps::embedding(&self.tokens, &rows)?;
        let positions = self.positions.narrow(0, 0, length)?.reshape(&[1, length, channels])?;
        let mut x = embedded.add(&positions)?;
        let mask = causal_mask::<B::Tensor>(length, unseen, &x)?;
        let penultimate = self.config.layers.saturating_sub(1 + clip_skip);
        let mut hidden = None;
        for (i, layer) in self.layers.iter().enumerate() {
            if i == penultimate {
                hidden = Some(x.clone());
                if self.pooling.is_none() {
                    break;
                }
            }
            x = layer.forward(x, &mask)?;
        }
        let Some(Pooling { norm, projection }) = &self.pooling else {
            return Ok(TextOutput { hidden: x, pooled: None });
        };
        let hidden = hidden.ok_or_else(|| Error::config("num_hidden_layers", "expected at least 1"))?;
        let ends: Vec<Vec<u32>> = ids.iter().map(|row| vec![self.end_position(row)]).collect();
        let ends = <B::Tensor as Tensor>::Indices::from_host(&ends, device)?;
        let last = x.gather(1, &ends)?.reshape(&[batch, channels])?;
        let pooled = projection.forward(&norm.forward(&last)?)?;
        Ok(TextOutput { hidden, pooled: Some(pooled) })
    }

    fn check(&self, ids: &[Vec<u32>]) -> Result<(usize, usize)> {
        let length = ids.first().map_or(0, Vec::len);
        if length == 0 || length > self.config.context || ids.iter().any(|row| row.len() != length) {
            let expected = format!("rows of one length, at most {}", self.config.context);
            return Err(Error::shape("text encoder", expected, [ids.len(), length]));
        }
        if let Some(id) = ids.iter().flatten().find(|id| **id as usize >= self.config.vocabulary) {
            let reason = format!("token {id} is outside the vocabulary of {}", self.config.vocabulary);
            return Err(Error::config("tokenizer", reason));
        }
        Ok((ids.len(), length))
    }

    /// The position of the pooled state: the first end token. With the legacy end token 2, it is the first of the
    /// highest ids.
    fn end_position(&self, ids: &[u32]) -> u32 {
        let end = match self.config.end_token {
            2 => ids.iter().copied().max().unwrap_or(0),
            end => end,
        };
        // If there is no end token, transformers' argmax over "is the end token" gives 0.
        ids.iter().position(|id| *id == end).unwrap_or(0) as u32
    }
}

/// The mask `[1, 1, length, length]`: 0 where a token may attend, far below any logit elsewhere. With `hidden` tokens, which
/// no other token may attend to, it has one such map for each row.
fn causal_mask<T: Tensor>(length: usize, hidden: &[Vec<bool>], like: &T) -> Result<T> {
    let may = |i: usize| i % length <= i / length;
    let map = |hidden: &[bool]| -> Vec<f32> {
        let seen = |i: usize| !hidden.get(i % length).is_some_and(|hidden| *hidden);
        (0..length * length).map(|i| if may(i) && seen(i) { 0.0 } else { FORBIDDEN }).collect()
    };
    let values: Vec<f32> = match hidden {
        [] => map(&[]),
        rows => rows.iter().flat_map(|row| map(row)).collect(),
    };
    let shape = [hidden.len().max(1), 1, length, length];
    T::from_f32(&values, &shape, like.dtype().accumulator(), &like.device())
}

#[derive(Debug)]
struct Layer<T> {
    heads: usize,
    activation: TextActivation,
    norm1: LayerNorm<T>,
    q: Linear<T>,
    k: Linear<T>,
    v: Linear<T>,
    out: Linear<T>,
    norm2: LayerNorm<T>,
    fc1: Linear<T>,
    fc2: Linear<T>,
}

impl<T: AttentionOps> Layer<T> {
    fn load(weights: &Weights<T>, config: &TextEncoderConfig) -> Result<Self> {
        let (channels, inner) = (config.channels, config.feed_forward);
        let norm = |name: &str| LayerNorm::load(&weights.scope(name), channels, config.norm_epsilon);
        let attention = weights.scope("self_attn");
        let project = |name: &str| Linear::load(&attention.scope(name), channels, channels, Bias::With);
        let mlp = weights.scope("mlp");
        Ok(Self {
            heads: config.heads,
            activation: config.activation,
            norm1: norm("layer_norm1")?,
            q: project("q_proj")?,
            k: project("k_proj")?,
            v: project("v_proj")?,
            out: project("out_proj")?,
            norm2: norm("layer_norm2")?,
            fc1: Linear::load(&mlp.scope("fc1"), channels, inner, Bias::With)?,
            fc2: Linear::load(&mlp.scope("fc2"), inner, channels, Bias::With)?,
        })
    }

    fn forward(&self, x: T, mask: &T) -> Result<T> {
        let normed = self.norm1.forward(&x)?;
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| linear.forward(&normed));
        let attended = plain_attention(&q?, &k?, &v?, self.heads, Some(mask))?;
        let x = x.add(&self.out.forward(&attended)?)?;
        let inner = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let inner = match self.activation {
            TextActivation::QuickGelu => inner.quick_gelu()?,
            TextActivation::Gelu => inner.gelu()?,
        };
        x.add(&self.fc2.forward(&inner)?)
    }
}

/// Joins the encoders' hidden states along channels: `[b, length, c1 + c2]`. This is the U-Net's text input.
///
/// # Errors
/// [`Error::Shape`] if their batches or lengths differ.
pub fn join_hidden<T: Tensor>(first: &T, second: &T) -> Result<T> {
    let [b1, n1, _] = dims(first, "text hidden states")?;
    let [b2, n2, c2] = dims(second, "text hidden states")?;
    if (b1, n1) != (b2, n2) {
        return Err(Error::shape("text hidden states", format!("[{b1}, {n1}, channels]"), [b2, n2, c2]));
    }
    T::concat(&[first, second], 2)
}
