//! Texts that are encoded already.

use atedm_core::Backend;
use atedm_sdxl::pipeline::{Pipeline, TextEmbeddings};
use atedm_sdxl::prompt::TextOptions;

use crate::failure::Outcome;

/// Lists of texts that are encoded once, however often they are used.
pub(super) struct Encoded<B: Backend> {
    known: Vec<Known<B::Tensor>>,
}

/// A list of texts, encoded.
struct Known<T> {
    texts: Vec<String>,
    options: TextOptions,
    embeddings: TextEmbeddings<T>,
}

impl<B: Backend> Default for Encoded<B> {
    fn default() -> Self {
        Self { known: Vec::new() }
    }
}

impl<B: Backend> Encoded<B> {
    /// The embeddings of `texts`.
    pub(super) fn get(
        &mut self,
        pipeline: &Pipeline<B>,
        texts: &[String],
        options: &TextOptions,
    ) -> Outcome<TextEmbeddings<B::Tensor>> {
        let same = |known: &&Known<B::Tensor>| known.texts == texts && known.options == *options;
        if let Some(known) = self.known.iter().find(same) {
            return Ok(known.embeddings.clone());
        }
        let embeddings = pipeline.encode(texts, options)?.0;
        let (texts, options) = (texts.to_vec(), options.clone());
        self.known.push(Known { texts, options, embeddings: embeddings.clone() });
        Ok(embeddings)
    }
}
