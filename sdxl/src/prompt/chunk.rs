//! Tokens with weights, and how they become a chunk.

use super::reading::Chunk;
use crate::tokenizer::ClipTokenizer;

/// Token ids of words with a weight each. There is no start, no end and no padding yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Words {
    pub(super) ids: Vec<u32>,
    pub(super) weights: Vec<f32>,
}

impl Words {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Adds ids that have one weight.
    pub(super) fn extend(&mut self, ids: &[u32], weight: f64) {
        self.ids.extend_from_slice(ids);
        self.weights.resize(self.ids.len(), weight as f32);
    }

    /// Removes the words from `at` on, and returns them.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        Self { ids: self.ids.split_off(at), weights: self.weights.split_off(at) }
    }

    /// The chunk of these words, and the place of the first word in it. Start, end and padding have the weight 1.
    pub(super) fn chunk(&self, tokenizer: &ClipTokenizer) -> (Chunk, usize) {
        let (ids, first) = tokenizer.row(&self.ids);
        let mut chunk = Chunk::plain(ids);
        let places = chunk.weights.iter_mut().skip(first);
        places.zip(&self.weights).for_each(|(place, weight)| *place = *weight);
        (chunk, first)
    }
}

/// The number of words that a chunk holds: all tokens except start and end.
pub(super) fn room(tokenizer: &ClipTokenizer) -> usize {
    tokenizer.length().saturating_sub(2)
}
