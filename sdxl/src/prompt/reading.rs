//! A prompt as one text encoder reads it.

use atedm_core::{Error, Result};

/// The largest weight, up or down. Far above any useful one, and far below one that overflows half precision.
const MOST: f64 = 100.0;

/// Checks a weight from a prompt.
///
/// # Errors
/// [`Error::Config`] with the field `prompt` for a weight that is not finite or too large.
pub(crate) fn check_weight(weight: f64) -> Result<()> {
    match weight.abs() <= MOST {
        true => Ok(()),
        false => {
            Err(Error::config("prompt", format!("expected weights from -{MOST} to {MOST}, got {weight}")))
        }
    }
}

/// A prompt as one text encoder reads it: data, without any tensor.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// The chunks, at least one. Their states follow each other along the tokens.
    pub chunks: Vec<Chunk>,
    /// How the tokens' weights change the states.
    pub weighting: Weighting,
    /// Versions of the prompt with hidden tokens. Their states are mixed with those of the whole prompt.
    pub hidden: Vec<Hidden>,
    /// The ids that the pooled state is computed from. `None` means those of the first chunk.
    pub pooled: Option<Vec<u32>>,
    /// The number of tokens that were cut off.
    pub cut: usize,
}

/// Token ids of one text encoder's full length.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Start token, words, end token and padding. The number of ids is the tokenizer's length.
    pub ids: Vec<u32>,
    /// The weight of each id; 1 changes nothing.
    pub weights: Vec<f32>,
}

/// How weights change the states `z` of a chunk. A chunk whose weights are all 1 stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Weighting {
    /// `z · w`, then all states times one factor that restores the chunk's mean (the web UI's "original" emphasis).
    #[default]
    KeepMean,
    /// `e + (z − e) · w`, where `e` are the states of an empty prompt (compel).
    FromEmpty,
}

/// A version of the prompt in which other tokens do not see some tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    /// For each chunk and token: whether it is hidden.
    pub tokens: Vec<Vec<bool>>,
    /// The version's share in the mixture, as a multiple of the whole prompt's share.
    pub share: f64,
}

impl Chunk {
    /// A chunk without weights.
    pub fn plain(ids: Vec<u32>) -> Self {
        Self { weights: vec![1.0; ids.len()], ids }
    }

    /// Whether a weight changes anything.
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().any(|weight| *weight != 1.0)
    }
}

impl Reading {
    /// Chunks whose pooled state is that of the first one.
    pub fn new(chunks: Vec<Chunk>) -> Self {
        Self { chunks, weighting: Weighting::default(), hidden: Vec::new(), pooled: None, cut: 0 }
    }

    /// Whether the states differ from those of the chunks.
    pub fn is_weighted(&self) -> bool {
        !self.hidden.is_empty() || self.chunks.iter().any(Chunk::is_weighted)
    }

    /// Checks that every part fits a text encoder of `length` tokens. A syntax may come from another crate.
    ///
    /// # Errors
    /// [`Error::Config`] naming the prompt syntax, or the prompt for a weight that is too large.
    pub(crate) fn check(&self, length: usize) -> Result<()> {
        let fits = |count: usize| count == length;
        let chunks = self.chunks.iter().all(|chunk| fits(chunk.ids.len()) && fits(chunk.weights.len()));
        let hidden = self.hidden.iter().all(|version| {
            version.tokens.len() == self.chunks.len() && version.tokens.iter().all(|row| fits(row.len()))
        });
        if self.chunks.is_empty() || !chunks || !hidden || !self.pooled.iter().all(|ids| fits(ids.len())) {
            let reason = format!("expected readings in chunks of {length} tokens");
            return Err(Error::config("prompt_syntax", reason));
        }
        let mut weights = self.chunks.iter().flat_map(|chunk| &chunk.weights);
        weights.try_for_each(|weight| check_weight(f64::from(*weight)))?;
        match self.hidden.iter().find(|version| !(version.share >= 0.0 && version.share.is_finite())) {
            None => Ok(()),
            Some(version) => {
                let reason = format!("expected shares of 0 or more, got {}", version.share);
                Err(Error::config("prompt_syntax", reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_finite_and_not_too_large() {
        assert!([-100.0, 0.0, 1.5, 100.0].into_iter().all(|weight| check_weight(weight).is_ok()));
        for weight in [f64::NAN, f64::INFINITY, 1e3, -101.0] {
            let message = check_weight(weight).unwrap_err().to_string();
            assert!(message.starts_with("prompt: expected weights from -100 to 100, got "), "{message}");
        }
    }
}
