//! CLIP's tokenizers, as a diffusers folder holds them: `vocab.json` + `merges.txt`, or `tokenizer.json`.
//!
//! Source of the pipeline: transformers' `CLIPTokenizer` (normalise, split into words and signs, byte-level BPE with `</w>` at
//! the end of a word). Padding and the longest length come from `tokenizer_config.json` and `special_tokens_map.json`.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, SplitDelimiterBehavior, Tokenizer,
};

/// Words, contractions, single digits and runs of other signs (OpenAI CLIP).
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A prompt as token ids of the text encoder's full length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    /// Start, the prompt's tokens, end, padding: always the tokenizer's length.
    pub ids: Vec<u32>,
    /// Tokens of the prompt that did not fit and were cut off.
    pub cut: usize,
}

/// A CLIP tokenizer with the padding of its folder.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    length: usize,
    start: u32,
    end: u32,
    pad: u32,
}

impl ClipTokenizer {
    /// Opens the tokenizer in `folder`. The length is `model_max_length`, but at most `context` (the text encoder's positions).
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file; [`Error::Config`] naming the file for broken ones and for special tokens that the
    /// vocabulary lacks.
    pub fn open(folder: &Path, context: usize) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let [start, end, pad] = ["bos_token", "eos_token", "pad_token"].map(|name| settings.token(name));
        let whole = folder.join("tokenizer.json");
        let (mut tokenizer, file) = if whole.is_file() {
            (Tokenizer::from_file(&whole).map_err(|e| broken(&whole, &e.to_string()))?, whole)
        } else {
            (from_vocabulary(folder, &settings.token("unk_token"))?, folder.join("vocab.json"))
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| broken(&file, &e.to_string()))?;
        let id = |token: &str, name: &str| {
            let reason = format!("{name} {token:?} is not in the vocabulary");
            tokenizer.token_to_id(token).ok_or_else(|| broken(&file, &reason))
        };
        let (start_id, end_id, pad_id) =
            (id(&start, "bos_token")?, id(&end, "eos_token")?, id(&pad, "pad_token")?);
        // Special tokens stand for themselves wherever a prompt holds them: with SD-XL's second tokenizer that is "!", its padding.
        let special = [start, end, pad].map(|token| AddedToken::from(token, true));
        tokenizer.add_special_tokens(special).map_err(|e| broken(&file, &e.to_string()))?;
        let length = settings.max_length.unwrap_or(context).min(context);
        if length < 2 {
            let reason = format!("expected at least 2, got {length}");
            return Err(Error::config(format!("{}: model_max_length", settings.file.display()), reason));
        }
        Ok(Self { tokenizer, length, start: start_id, end: end_id, pad: pad_id })
    }

    /// The number of ids that [`ClipTokenizer::encode`] gives.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The id of the end token.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The prompt's ids, cut and padded to [`ClipTokenizer::length`].
    pub fn encode(&self, prompt: &str) -> Result<TokenIds> {
        let encoding = self
            .tokenizer
            .encode(prompt, false)
            .map_err(|e| Error::config("prompt", one_line(&e.to_string())))?;
        let words = encoding.get_ids();
        let fit = words.len().min(self.length - 2);
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.start);
        ids.extend_from_slice(&words[..fit]);
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        Ok(TokenIds { ids, cut: words.len() - fit })
    }
}

/// The tokenizer from `vocab.json` and `merges.txt`.
fn from_vocabulary(folder: &Path, unknown: &str) -> Result<Tokenizer> {
    let [vocabulary, merges] = ["vocab.json", "merges.txt"].map(|name| folder.join(name));
    for file in [&vocabulary, &merges] {
        std::fs::metadata(file).map_err(|source| Error::io(file, source))?;
    }
    let failed = |e: tokenizers::Error| broken(&vocabulary, &e.to_string());
    let (Some(vocabulary_path), Some(merges_path)) = (vocabulary.to_str(), merges.to_str()) else {
        return Err(broken(&vocabulary, "the path is not valid UTF-8"));
    };
    let bpe = BPE::from_file(vocabulary_path, merges_path)
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

/// CLIP's way from a text to words: what is made equal, then how it is split and written in byte-level BPE's letters.
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

/// Splits texts as a [`ClipTokenizer`] from `vocab.json` does.
pub(crate) struct WordSplitter {
    normalizers: Normalizers,
    words: PreTokenizers,
}

impl WordSplitter {
    pub(crate) fn new() -> Result<Self> {
        let made = splitting();
        let (normalizers, words) =
            made.map_err(|error| Error::config("words", one_line(&error.to_string())))?;
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
        split().map_err(|error| Error::config(format!("caption {text:?}"), one_line(&error.to_string())))
    }
}

/// `tokenizer_config.json`, then `special_tokens_map.json`, then CLIP's own defaults.
struct Settings {
    file: PathBuf,
    sources: Vec<Value>,
    max_length: Option<usize>,
}

impl Settings {
    fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("tokenizer_config.json");
        let mut sources = Vec::new();
        for path in [&file, &folder.join("special_tokens_map.json")] {
            match std::fs::read(path) {
                Ok(text) => {
                    let value: Value = serde_json::from_slice(&text)
                        .map_err(|e| broken(path, &format!("broken JSON: {e}")))?;
                    if !value.is_object() {
                        return Err(broken(path, "expected a JSON object"));
                    }
                    sources.push(value);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(path, error)),
            }
        }
        // "no limit" is written as an enormous float
        let max_length = sources.first().and_then(|config| config.get("model_max_length")?.as_u64());
        Ok(Self { file, sources, max_length: max_length.map(|n| usize::try_from(n).unwrap_or(usize::MAX)) })
    }

    /// The special token `name`: a string, or an object with `content`.
    fn token(&self, name: &str) -> String {
        let of = |source: &Value| {
            let value = source.get(name)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
        };
        let default = if name == "bos_token" { "<|startoftext|>" } else { "<|endoftext|>" };
        self.sources.iter().find_map(of).unwrap_or_else(|| default.to_string())
    }
}

fn broken(file: &Path, reason: &str) -> Error {
    Error::config(file.display().to_string(), one_line(reason))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: &str = r#"{"a":0,"b":1,"!":2,"a</w>":3,"b</w>":4,"!</w>":5,"ab</w>":6,
        "<|startoftext|>":7,"<|endoftext|>":8}"#;

    fn folder(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.json"), VOCABULARY).unwrap();
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\na b</w>\n").unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        folder
    }

    #[test]
    fn words_are_merged_padded_and_cut() {
        let folder = folder(r#"{"model_max_length": 6}"#);
        let tokenizer = ClipTokenizer::open(folder.path(), 77).unwrap();
        assert_eq!(tokenizer.encode("  AB\n a!").unwrap(), TokenIds { ids: vec![7, 6, 3, 5, 8, 8], cut: 0 });
        assert_eq!(tokenizer.encode("").unwrap(), TokenIds { ids: vec![7, 8, 8, 8, 8, 8], cut: 0 });
        assert_eq!(tokenizer.encode("a b a b a").unwrap(), TokenIds { ids: vec![7, 3, 4, 3, 4, 8], cut: 1 });
        assert_eq!(ClipTokenizer::open(folder.path(), 4).unwrap().length(), 4);
    }

    #[test]
    fn the_padding_sign_stands_for_itself() {
        let folder = folder(r#"{"model_max_length": 1e30, "pad_token": {"content": "!"}}"#);
        let tokenizer = ClipTokenizer::open(folder.path(), 6).unwrap();
        assert_eq!(tokenizer.encode("a!").unwrap().ids, [7, 3, 2, 8, 2, 2]);
        assert_eq!(tokenizer.end(), 8);
    }

    #[test]
    fn broken_folders_are_named() {
        let folder = folder(r#"{"bos_token": "<s>"}"#);
        let error = ClipTokenizer::open(folder.path(), 6).err().unwrap().to_string();
        assert!(error.contains("vocab.json: bos_token \"<s>\" is not in the vocabulary"), "{error}");
        std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
        let error = ClipTokenizer::open(folder.path(), 6).err().unwrap().to_string();
        assert!(error.contains("tokenizer_config.json: broken JSON"), "{error}");
        std::fs::write(folder.path().join("tokenizer_config.json"), "[]").unwrap();
        let error = ClipTokenizer::open(folder.path(), 6).err().unwrap().to_string();
        assert!(error.contains("tokenizer_config.json: expected a JSON object"), "{error}");
        std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
        std::fs::write(folder.path().join("vocab.json"), "[1]").unwrap();
        assert!(ClipTokenizer::open(folder.path(), 6).err().unwrap().to_string().contains("vocab.json"));
        std::fs::remove_file(folder.path().join("vocab.json")).unwrap();
        assert!(matches!(ClipTokenizer::open(folder.path(), 6), Err(Error::Io { .. })));
    }
}
