//! How a text is split into words, and the vocabulary that gives them ids.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result, one_line};
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior, Tokenizer,
};

use super::files::Files;
use crate::config::Fields;

/// The error for a broken `file`.
pub(super) fn broken(file: &Path, reason: &str) -> Error {
    Error::config(file.display().to_string(), one_line(reason))
}

/// Words, contractions, single digits and runs of other signs (OpenAI CLIP).
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The tokens and merges of byte-level BPE, and the file that held them.
pub(super) struct Vocabulary {
    pub(super) file: PathBuf,
    tokens: Vocab,
    merges: Merges,
}

impl Vocabulary {
    /// Reads the vocabulary from `whole`, the content of `tokenizer.json`, or else from `vocab.json` and `merges.txt`.
    ///
    /// As in transformers, only tokens and merges come from `tokenizer.json`. How texts are split is always CLIP's way.
    pub(super) fn read(files: Files<'_>, whole: Option<&Fields>) -> Result<Self> {
        match whole {
            Some(whole) => Self::of_whole(whole),
            None => Self::of_two(files),
        }
    }

    fn of_two(files: Files<'_>) -> Result<Self> {
        let [file, merges] = ["vocab.json", "merges.txt"].map(|name| files.path(name));
        let vocabulary = files.fields("vocab.json")?;
        let text = files.text("merges.txt")?;
        let pairs = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version"));
        let pair = |(number, line): (usize, &str)| {
            pair(line).ok_or_else(|| broken(&merges, &format!("line {}: expected two tokens", number + 1)))
        };
        Ok(Self {
            tokens: tokens(&vocabulary, vocabulary.entries())?,
            merges: pairs.map(pair).collect::<Result<_>>()?,
            file,
        })
    }

    fn of_whole(whole: &Fields) -> Result<Self> {
        let model = whole.get("model").ok_or_else(|| whole.error("model", "missing"))?;
        let Some(Value::Object(vocabulary)) = model.get("vocab") else {
            return Err(whole.error("model", "expected BPE, whose vocab is an object from token to id"));
        };
        let vocabulary = vocabulary.iter().map(|(token, id)| (token.as_str(), id));
        let merges = model.get("merges").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let merge = |merge: &Value| {
            let both = match merge {
                Value::String(text) => pair(text),
                Value::Array(both) => match both.as_slice() {
                    [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
                    _ => None,
                },
                _ => None,
            };
            both.ok_or_else(|| whole.wrong("model", "merges of two tokens", merge))
        };
        Ok(Self {
            tokens: tokens(whole, vocabulary)?,
            merges: merges.iter().map(merge).collect::<Result<_>>()?,
            file: whole.file().to_path_buf(),
        })
    }

    /// The tokenizer without added tokens. `unknown` is the token for a text that has no token.
    pub(super) fn tokenizer(self, unknown: &str) -> Result<Tokenizer> {
        let failed = |error: tokenizers::Error| broken(&self.file, &error.to_string());
        let bpe = BPE::builder()
            .vocab_and_merges(self.tokens, self.merges)
            .unk_token(unknown.to_string())
            .end_of_word_suffix("</w>".to_string())
            .build()
            .map_err(failed)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let (normalizers, words) = splitting().map_err(failed)?;
        tokenizer.with_normalizer(Some(normalizers)).map_err(failed)?;
        tokenizer.with_pre_tokenizer(Some(words));
        Ok(tokenizer)
    }
}

/// The ids of `entries` by token.
fn tokens<'a>(fields: &Fields, entries: impl Iterator<Item = (&'a str, &'a Value)>) -> Result<Vocab> {
    let token = |(token, id): (&str, &Value)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((token.to_string(), id)),
        None => Err(fields.wrong(&format!("{token:?}"), "an id", id)),
    };
    entries.map(token).collect()
}

/// Two tokens with one space between them.
fn pair(text: &str) -> Option<(String, String)> {
    let (left, right) = text.split_once(' ')?;
    (!right.contains(' ')).then(|| (left.to_string(), right.to_string()))
}

/// How CLIP splits a text: normalizers first, then the split into words in byte-level BPE's letters.
fn splitting() -> tokenizers::Result<(Normalizers, PreTokenizers)> {
    let whitespace =
        Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into()), " ")?;
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    Ok((
        Normalizers::new(vec![NFC.into(), whitespace.into(), Lowercase.into()]),
        PreTokenizers::new(vec![words.into(), bytes.into()]),
    ))
}

/// Splits texts as a [`super::ClipTokenizer`] does.
pub(crate) struct WordSplitter {
    normalizers: Normalizers,
    words: PreTokenizers,
}

impl WordSplitter {
    pub(crate) fn new() -> Result<Self> {
        let made = splitting();
        let (normalizers, words) = made.map_err(|error| Error::config("words", one_line(error)))?;
        Ok(Self { normalizers, words })
    }

    /// The words of `text`, in byte-level BPE's letters.
    pub(crate) fn split(&self, text: &str) -> Result<Vec<String>> {
        let split = || -> tokenizers::Result<Vec<String>> {
            let mut normalized = NormalizedString::from(text);
            self.normalizers.normalize(&mut normalized)?;
            let mut pieces = PreTokenizedString::from(normalized);
            self.words.pre_tokenize(&mut pieces)?;
            let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            Ok(pieces.into_iter().map(|(piece, ..)| piece.to_string()).collect())
        };
        split().map_err(|error| Error::config(format!("caption {text:?}"), one_line(error)))
    }
}
