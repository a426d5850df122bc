//! Turns prompts into the U-Net's conditioning.
//!
//! ```text
//! tokens = [penultimate states of encoder 1 | of encoder 2] along channels,   pooled = projection of encoder 2
//! batch rows: the negative prompts of all images first (with guidance), then the prompts
//! ```

use atedm_core::{Backend, DType, DeviceOf, Error, Result, Tensor};

use super::request::{Conditioning, CutPrompt, Request, TextEmbeddings};
use super::size::expect_finite;
use super::states::{Encoder, Extent};
use crate::checkpoint::{Checkpoint, Part};
use crate::prompt::{Plain, PromptSyntax};
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
    pub(super) first: Encoder<B>,
    pub(super) second: Encoder<B>,
}

/// How texts are read, with the syntax itself.
#[derive(Clone, Copy)]
pub(super) struct Texts<'a> {
    pub(super) syntax: &'a dyn PromptSyntax,
    pub(super) clip_skip: usize,
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
        let [first, second] = checkpoint.text_encoders();
        let [tokenizer, tokenizer_2] = checkpoint.tokenizers()?;
        let load = |part: Part, config, tokenizer: ClipTokenizer| {
            let weights = checkpoint.weights::<B::Tensor>(part, dtype, device)?;
            let mut model = TextEncoder::<B>::load(&weights, config)?;
            for embedding in checkpoint.embeddings() {
                let at = tokenizer.id_of(embedding.word()).unwrap_or(u32::MAX);
                model =
                    model.with_vectors(at as usize, &embedding.vectors::<B::Tensor>(part, dtype, device)?)?;
            }
            Ok::<_, Error>(Encoder { tokenizer, model, name: part.folder() })
        };
        Ok(Self {
            first: load(Part::TextEncoder, first, tokenizer)?,
            second: load(Part::TextEncoder2, second, tokenizer_2)?,
        })
    }

    /// The conditioning of `request`. With `guided` it includes the negative rows. `zero_negative` is the checkpoint's
    /// `force_zeros_for_empty_prompt`.
    pub(super) fn condition(
        &self,
        request: &Request<B::Tensor>,
        texts: Texts<'_>,
        guided: bool,
        zero_negative: bool,
        device: &DeviceOf<B>,
    ) -> Result<Encoded<B::Tensor>> {
        let mut cut = Vec::new();
        let negative_texts = Texts { clip_skip: 0, ..texts };
        let (positive, negative) = match &request.conditioning {
            Conditioning::Prompts { prompts, negative } => {
                let negative = negative.as_ref().map(|texts| one_each(texts, prompts.len())).transpose()?;
                let positive = self.encode(prompts, texts, &mut cut, device)?;
                let negative = match negative.filter(|_| guided) {
                    Some(negative) => Some(self.encode(&negative, negative_texts, &mut cut, device)?),
                    None => None,
                };
                (positive, negative)
            }
            Conditioning::Embeddings { prompt, negative } => {
                check(prompt, "embeddings")?;
                if let Some(negative) = negative {
                    check(negative, "negative embeddings")?;
                    self.check_pair(prompt, negative)?;
                }
                (prompt.clone(), negative.clone())
            }
        };
        if !guided {
            let positive = repeat(&positive, request.images_per_prompt)?;
            return Ok(Encoded { tokens: positive.tokens, pooled: positive.pooled, cut });
        }
        let prompts = positive.tokens.shape().first().copied().unwrap_or(0);
        let negative = match negative {
            Some(negative) => negative,
            None if zero_negative => TextEmbeddings {
                tokens: positive.tokens.affine(0.0, 0.0)?,
                pooled: positive.pooled.affine(0.0, 0.0)?,
            },
            None => self.encode(&vec![String::new(); prompts], negative_texts, &mut cut, device)?,
        };
        let length = positive.length().max(negative.length());
        let [negative, positive] =
            [(negative, negative_texts), (positive, texts)].map(|(embeddings, texts)| {
                repeat(&self.lengthened(embeddings, length, texts, device)?, request.images_per_prompt)
            });
        let (negative, positive) = (negative?, positive?);
        Ok(Encoded {
            tokens: B::Tensor::concat(&[&negative.tokens, &positive.tokens], 0)?,
            pooled: B::Tensor::concat(&[&negative.pooled, &positive.pooled], 0)?,
            cut,
        })
    }

    /// Encodes texts, and notes those that do not fit. All get as many chunks as the longest text.
    pub(super) fn encode(
        &self,
        prompts: &[String],
        texts: Texts<'_>,
        cut: &mut Vec<CutPrompt>,
        device: &DeviceOf<B>,
    ) -> Result<TextEmbeddings<B::Tensor>> {
        let mut read = |number: usize, encoder: &Encoder<B>| {
            let mut readings = Vec::with_capacity(prompts.len());
            let context = encoder.tokenizer.length();
            for prompt in prompts {
                let reading = texts.syntax.read(prompt, &encoder.tokenizer)?;
                reading.check(context)?;
                if reading.cut > 0 {
                    let warning =
                        CutPrompt { prompt: prompt.clone(), encoder: number, cut: reading.cut, context };
                    tracing::warn!("{warning}");
                    if !cut.contains(&warning) {
                        cut.push(warning);
                    }
                }
                readings.push(reading);
            }
            Ok::<_, Error>(readings)
        };
        let (first, second) = (read(1, &self.first)?, read(2, &self.second)?);
        let chunks = first.iter().chain(&second).map(|reading| reading.chunks.len()).max().unwrap_or(1);
        let extent = Extent { chunks, clip_skip: texts.clip_skip };
        let first = self.first.states(&first, extent, device)?;
        let second = self.second.states(&second, extent, device)?;
        let pooled = second.pooled.ok_or_else(|| {
            Error::config(
                "text_encoder_2",
                "expected an encoder with a projection (CLIPTextModelWithProjection)",
            )
        })?;
        Ok(TextEmbeddings { tokens: join_hidden(&first.tokens, &second.tokens)?, pooled })
    }

    /// The same embeddings with empty chunks behind them, up to `length` tokens.
    fn lengthened(
        &self,
        embeddings: TextEmbeddings<B::Tensor>,
        length: usize,
        texts: Texts<'_>,
        device: &DeviceOf<B>,
    ) -> Result<TextEmbeddings<B::Tensor>> {
        let missing = length.saturating_sub(embeddings.length()) / self.first.tokenizer.length();
        if missing == 0 {
            return Ok(embeddings);
        }
        let rows = embeddings.tokens.shape().first().copied().unwrap_or(1);
        let texts = Texts { syntax: &Plain, ..texts };
        let empty = self.encode(&[String::new()], texts, &mut Vec::new(), device)?.tokens;
        let empty = B::Tensor::concat(&vec![&empty; rows], 0)?;
        let parts: Vec<&B::Tensor> =
            std::iter::once(&embeddings.tokens).chain(std::iter::repeat_n(&empty, missing)).collect();
        Ok(TextEmbeddings { tokens: B::Tensor::concat(&parts, 1)?, pooled: embeddings.pooled })
    }

    /// Checks that negative embeddings can stand beside those of prompts. Whole chunks may be missing on one side.
    fn check_pair(
        &self,
        prompt: &TextEmbeddings<B::Tensor>,
        negative: &TextEmbeddings<B::Tensor>,
    ) -> Result<()> {
        let (mut expected, got) = (prompt.tokens.shape(), negative.tokens.shape());
        let apart = prompt.length().abs_diff(negative.length());
        let chunks = apart.is_multiple_of(self.first.tokenizer.length());
        if let (true, Some(length)) = (chunks, expected.get_mut(1)) {
            *length = negative.length();
        }
        match got == expected {
            true => Ok(()),
            false => {
                let reason = format!("expected shape {:?}", prompt.tokens.shape());
                Err(Error::config("negative embeddings", reason))
            }
        }
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
