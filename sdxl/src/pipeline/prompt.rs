//! Turns prompts into the U-Net's conditioning.
//!
//! ```text
//! tokens = [penultimate states of encoder 1 | of encoder 2] along channels,   pooled = projection of encoder 2
//! batch rows: the negative prompts of all images first (with guidance), then the prompts
//! ```

use atedm_core::{Backend, DType, DeviceOf, Error, Result, Tensor};

use super::request::{Conditioning, CutPrompt, Request, TextEmbeddings};
use super::size::expect_finite;
use crate::checkpoint::{Checkpoint, Part};
use crate::text::{TextEncoder, join_hidden};
use crate::tokenizer::ClipTokenizer;

/// How long the text encoders stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TextEncoders {
    /// They stay in memory. This suits many runs.
    #[default]
    Kept,
    /// Each run reads them at its start and frees them before its U-Net runs. This suits one run with less memory.
    PerRun,
}

/// The place of the encoders between runs.
pub(super) enum Residence<B: Backend> {
    Kept(Box<Encoders<B>>),
    PerRun(Box<Checkpoint>, DType),
}

impl<B: Backend> Residence<B> {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        dtype: DType,
        device: &DeviceOf<B>,
        text: TextEncoders,
    ) -> Result<Self> {
        Ok(match text {
            TextEncoders::Kept => Self::Kept(Box::new(Encoders::load(checkpoint, dtype, device)?)),
            TextEncoders::PerRun => Self::PerRun(Box::new(checkpoint.clone()), dtype),
        })
    }

    /// Calls `f` with the encoders in memory.
    pub(super) fn with<R>(
        &self,
        device: &DeviceOf<B>,
        f: impl FnOnce(&Encoders<B>) -> Result<R>,
    ) -> Result<R> {
        match self {
            Self::Kept(encoders) => f(encoders),
            Self::PerRun(checkpoint, dtype) => f(&Encoders::load(checkpoint, *dtype, device)?),
        }
    }
}

/// Both text encoders with their tokenizers.
pub(super) struct Encoders<B: Backend> {
    pub(super) first: (ClipTokenizer, TextEncoder<B>),
    pub(super) second: (ClipTokenizer, TextEncoder<B>),
}

/// The conditioning of a whole batch.
pub(super) struct Encoded<T> {
    /// `[rows, length, channels]`.
    pub(super) tokens: T,
    /// `[rows, channels]`.
    pub(super) pooled: T,
    pub(super) cut: Vec<CutPrompt>,
}

impl<B: Backend> Encoders<B> {
    fn load(checkpoint: &Checkpoint, dtype: DType, device: &DeviceOf<B>) -> Result<Self> {
        let text = |part: Part, config| {
            TextEncoder::<B>::load(&checkpoint.weights::<B::Tensor>(part, dtype, device)?, config)
        };
        let [first, second] = checkpoint.text_encoders();
        let [tokenizer, tokenizer_2] = checkpoint.tokenizers()?;
        Ok(Self {
            first: (tokenizer, text(Part::TextEncoder, first)?),
            second: (tokenizer_2, text(Part::TextEncoder2, second)?),
        })
    }

    /// The conditioning of `request`. With `guided` it includes the negative rows. `zero_negative` is the checkpoint's
    /// `force_zeros_for_empty_prompt`.
    pub(super) fn condition(
        &self,
        request: &Request<B::Tensor>,
        guided: bool,
        zero_negative: bool,
        device: &DeviceOf<B>,
    ) -> Result<Encoded<B::Tensor>> {
        let mut cut = Vec::new();
        let (positive, negative) = match &request.conditioning {
            Conditioning::Prompts { prompts, negative } => {
                let negative = negative.as_ref().map(|texts| one_each(texts, prompts.len())).transpose()?;
                let positive = self.encode(prompts, &mut cut, device)?;
                let negative = match negative.filter(|_| guided) {
                    Some(texts) => Some(self.encode(&texts, &mut cut, device)?),
                    None => None,
                };
                (positive, negative)
            }
            Conditioning::Embeddings { prompt, negative } => {
                check(prompt, "embeddings")?;
                if let Some(negative) = negative {
                    check(negative, "negative embeddings")?;
                    if negative.tokens.shape() != prompt.tokens.shape() {
                        let reason = format!("expected shape {:?}", prompt.tokens.shape());
                        return Err(Error::config("negative embeddings", reason));
                    }
                }
                (prompt.clone(), negative.clone())
            }
        };
        let prompts = positive.tokens.shape().first().copied().unwrap_or(0);
        let positive = repeat(&positive, request.images_per_prompt)?;
        if !guided {
            return Ok(Encoded { tokens: positive.tokens, pooled: positive.pooled, cut });
        }
        let negative = match negative {
            Some(negative) => repeat(&negative, request.images_per_prompt)?,
            None if zero_negative => TextEmbeddings {
                tokens: positive.tokens.affine(0.0, 0.0)?,
                pooled: positive.pooled.affine(0.0, 0.0)?,
            },
            None => repeat(
                &self.encode(&vec![String::new(); prompts], &mut cut, device)?,
                request.images_per_prompt,
            )?,
        };
        Ok(Encoded {
            tokens: B::Tensor::concat(&[&negative.tokens, &positive.tokens], 0)?,
            pooled: B::Tensor::concat(&[&negative.pooled, &positive.pooled], 0)?,
            cut,
        })
    }

    /// Encodes texts, and notes those that do not fit.
    pub(super) fn encode(
        &self,
        texts: &[String],
        cut: &mut Vec<CutPrompt>,
        device: &DeviceOf<B>,
    ) -> Result<TextEmbeddings<B::Tensor>> {
        let mut encode = |number: usize, (tokenizer, encoder): &(ClipTokenizer, TextEncoder<B>)| {
            let mut rows = Vec::with_capacity(texts.len());
            for text in texts {
                let tokens = tokenizer.encode(text)?;
                if tokens.cut > 0 {
                    let context = tokenizer.length();
                    let warning =
                        CutPrompt { prompt: text.clone(), encoder: number, cut: tokens.cut, context };
                    tracing::warn!("{warning}");
                    if !cut.contains(&warning) {
                        cut.push(warning);
                    }
                }
                rows.push(tokens.ids);
            }
            encoder.encode(&rows, device)
        };
        let first = encode(1, &self.first)?;
        expect_finite(&first.hidden, "the output of text_encoder")?;
        let second = encode(2, &self.second)?;
        expect_finite(&second.hidden, "the output of text_encoder_2")?;
        let pooled = second.pooled.ok_or_else(|| {
            Error::config(
                "text_encoder_2",
                "expected an encoder with a projection (CLIPTextModelWithProjection)",
            )
        })?;
        expect_finite(&pooled, "the pooled output of text_encoder_2")?;
        Ok(TextEmbeddings { tokens: join_hidden(&first.hidden, &second.hidden)?, pooled })
    }
}

/// One text for each of `count` prompts. `texts` holds one text for all prompts, or one for each.
fn one_each(texts: &[String], count: usize) -> Result<Vec<String>> {
    match texts {
        [one] => Ok(vec![one.clone(); count]),
        texts if texts.len() == count => Ok(texts.to_vec()),
        texts => {
            let reason = format!("expected one, or one for each of {count} prompts, got {}", texts.len());
            Err(Error::config("negative-prompt", reason))
        }
    }
}

/// Checks the axes of given embeddings. The U-Net checks their channels.
fn check<T: Tensor>(embeddings: &TextEmbeddings<T>, field: &str) -> Result<()> {
    let (tokens, pooled) = (embeddings.tokens.shape(), embeddings.pooled.shape());
    if tokens.len() == 3 && pooled.len() == 2 && tokens[0] == pooled[0] && tokens[0] > 0 {
        return [&embeddings.tokens, &embeddings.pooled]
            .into_iter()
            .try_for_each(|tensor| expect_finite(tensor, field));
    }
    let reason = format!(
        "expected [prompts, length, channels] and [prompts, channels], got {tokens:?} and {pooled:?}"
    );
    Err(Error::config(field, reason))
}

/// Repeats each row `times` times, one copy after the other.
fn repeat<T: Tensor>(embeddings: &TextEmbeddings<T>, times: usize) -> Result<TextEmbeddings<T>> {
    let rows = |tensor: &T| {
        let mut shape = tensor.shape();
        let copies = T::concat(&vec![tensor; times], 1)?;
        if let Some(batch) = shape.first_mut() {
            *batch *= times;
        }
        copies.reshape(&shape)
    };
    if times == 1 {
        return Ok(embeddings.clone());
    }
    Ok(TextEmbeddings { tokens: rows(&embeddings.tokens)?, pooled: rows(&embeddings.pooled)? })
}
