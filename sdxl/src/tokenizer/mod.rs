//! CLIP's tokenizers, as a diffusers folder holds them: `vocab.json` + `merges.txt`, or `tokenizer.json`.
//!
//! Source of the pipeline: transformers' `CLIPTokenizer` (normalise, split into words and signs, byte-level BPE with `</w>` at
//! the end of a word). `tokenizer_config.json` holds the settings. The module `added` lists the files with special and added
//! tokens.

mod added;
mod clip;
mod files;
#[cfg(test)]
mod tests;
mod words;

pub use clip::{ClipTokenizer, TokenIds};
pub(crate) use files::Files;
pub(crate) use words::WordSplitter;
