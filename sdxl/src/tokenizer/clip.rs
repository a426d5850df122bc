//! A CLIP tokenizer: from a prompt to token ids of the text encoder's length.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use atedm_core::{Error, Result, one_line};
use tokenizers::{AddedToken, Encoding, Tokenizer};

use super::added::Added;
use super::files::Files;
use super::words::{Vocabulary, broken};
use crate::config::Fields;

/// A prompt as token ids of the text encoder's full length.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenIds {
    /// The start token, the prompt's tokens, the end token and padding. The number of ids is the tokenizer's length.
    pub ids: Vec<u32>,
    /// The number of the prompt's tokens that did not fit and were cut off.
    pub cut: usize,
}

/// The side of a row of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// A CLIP tokenizer with the padding that its folder asks for.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    file: PathBuf,
    length: usize,
    start: u32,
    end: u32,
    pad: u32,
    padded: Side,
    truncated: Side,
    /// The words that were added, with the ids of their vectors.
    added: Vec<(String, Range<u32>)>,
}

impl ClipTokenizer {
    /// Opens the tokenizer in `folder`. The length is `model_max_length`, but at most `context` (the text encoder's positions).
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file; [`Error::Config`] naming the file and the field for broken ones.
    pub fn open(folder: &Path, context: usize) -> Result<Self> {
        Self::of_files(Files::Folder(folder), context)
    }

    /// [`ClipTokenizer::open`] for files in a folder or in memory.
    pub(crate) fn of_files(files: Files<'_>, context: usize) -> Result<Self> {
        let whole = files.fields_if_there("tokenizer.json")?;
        let settings = files.path("tokenizer_config.json");
        let config = files.fields_if_there("tokenizer_config.json")?;
        let added = Added::read(files, config.as_ref(), whole.as_ref())?;
        let vocabulary = Vocabulary::read(files, whole.as_ref())?;
        let file = vocabulary.file.clone();
        // Python writes a missing token as "None", and so it fails where an unknown one is met.
        let mut tokenizer = vocabulary.tokenizer(added.text("unk_token").unwrap_or("None"))?;
        let names = ["bos_token", "eos_token", "pad_token"];
        let special = names.map(|name| (name, added.text(name).map(str::to_string)));
        let failed = |e: tokenizers::Error| broken(&file, &e.to_string());
        tokenizer.add_tokens(added.tokens()).map_err(failed)?;
        let split_special = config.as_ref().map_or(Ok(false), |c| c.flag("split_special_tokens", false))?;
        tokenizer.set_encode_special_tokens(split_special);
        let id = |(name, token): (&str, Option<String>)| {
            let id = token.filter(|token| !token.is_empty()).and_then(|token| tokenizer.token_to_id(&token));
            id.ok_or_else(|| {
                Error::config(format!("{}: {name}", settings.display()), "expected a token, got none")
            })
        };
        let [start, end, pad] = special.map(id);
        // "no limit" is written as an enormous float
        let limit = config.as_ref().and_then(|c| c.get("model_max_length").or_else(|| c.get("max_len")));
        let limit = limit.and_then(|limit| usize::try_from(limit.as_u64()?).ok());
        let length = limit.unwrap_or(context).min(context);
        if length < 2 {
            let reason = format!("expected at least 2, got {length}");
            return Err(Error::config(format!("{}: model_max_length", settings.display()), reason));
        }
        Ok(Self {
            padded: side(config.as_ref(), "padding_side", whole.as_ref(), "padding")?,
            truncated: side(config.as_ref(), "truncation_side", whole.as_ref(), "truncation")?,
            start: start?,
            end: end?,
            pad: pad?,
            tokenizer,
            file,
            length,
            added: Vec::new(),
        })
    }

    /// The number of ids that [`ClipTokenizer::encode`] gives.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The id of the end token.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The id that fills a row.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Checks that a text encoder with `vocabulary` tokens has the special tokens that every prompt gets.
    ///
    /// # Errors
    /// [`Error::Config`] naming the tokenizer's file and the special token.
    pub(crate) fn check_special(&self, vocabulary: usize) -> Result<()> {
        let special = [("bos_token", self.start), ("eos_token", self.end), ("pad_token", self.pad)];
        match special.into_iter().find(|(_, id)| *id as usize >= vocabulary) {
            None => Ok(()),
            Some((name, id)) => {
                let token = self.tokenizer.id_to_token(id).unwrap_or_default();
                let reason = format!(
                    "{name} {token:?} has the id {id}, which the text encoder's vocabulary of {vocabulary} lacks"
                );
                Err(broken(&self.file, &reason))
            }
        }
    }

    /// The prompt's ids, cut and padded to [`ClipTokenizer::length`].
    ///
    /// # Errors
    /// The errors of [`ClipTokenizer::ids`].
    pub fn encode(&self, prompt: &str) -> Result<TokenIds> {
        let words = self.ids(prompt)?;
        let fit = words.len().min(self.length - 2);
        let kept = match self.truncated {
            Side::Right => &words[..fit],
            Side::Left => &words[words.len() - fit..],
        };
        Ok(TokenIds { ids: self.row(kept).0, cut: words.len() - fit })
    }

    /// The ids of a text, neither cut nor padded, without start and end.
    ///
    /// An added token may have several vectors. Such a token `<x>` becomes `<x> <x>_1 <x>_2`, as many as were added.
    ///
    /// # Errors
    /// [`Error::Config`] with the field `prompt` for a text that cannot be split.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut encoding = self.split(text)?;
        let written_out = self.written_out(text, encoding.get_tokens());
        if written_out != text {
            encoding = self.split(&written_out)?;
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids with start, end and padding, [`ClipTokenizer::length`] in number. Words that do not fit are left out. Also returns
    /// the place of the first word.
    pub fn row(&self, words: &[u32]) -> (Vec<u32>, usize) {
        let fit = words.len().min(self.length - 2);
        let mut ids = Vec::with_capacity(self.length);
        if self.padded == Side::Left {
            ids.resize(self.length - 2 - fit, self.pad);
        }
        ids.push(self.start);
        let first = ids.len();
        ids.extend_from_slice(&words[..fit]);
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        (ids, first)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The id of a token. A word's last token ends with `</w>`, unless the token was added.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Adds a word with `vectors` vectors of a textual inversion, as the tokens `word`, `word_1`, `word_2`, … Returns the id of
    /// the first one; the others follow it.
    ///
    /// Source: diffusers' `TextualInversionLoaderMixin.load_textual_inversion`.
    ///
    /// # Errors
    /// [`Error::Config`] with the field `embedding` if the tokenizer has one of these tokens, or if they do not fit a prompt.
    pub fn add_word(&mut self, word: &str, vectors: usize) -> Result<u32> {
        let wrong = |reason: String| Error::config(format!("embedding {word:?}"), reason);
        if vectors == 0 || vectors > self.length - 2 {
            return Err(wrong(format!("expected 1 to {} vectors, got {vectors}", self.length - 2)));
        }
        let names = (0..vectors).map(|i| if i == 0 { word.to_string() } else { format!("{word}_{i}") });
        let names: Vec<String> = names.collect();
        // A token after the last one would count as one more vector.
        let next = format!("{word}_{vectors}");
        if let Some(known) = names.iter().chain([&next]).find(|name| self.id_of(name).is_some()) {
            return Err(wrong(format!("expected another word: the tokenizer has a token {known:?}")));
        }
        if let Some((known, _)) =
            self.added.iter().find(|(known, ids)| word == format!("{known}_{}", ids.len()))
        {
            return Err(wrong(format!("expected another word: this one would be a vector of {known:?}")));
        }
        let tokens: Vec<AddedToken> = names.into_iter().map(|name| AddedToken::from(name, false)).collect();
        self.tokenizer.add_tokens(tokens).map_err(|error| wrong(one_line(error)))?;
        let first =
            self.id_of(word).ok_or_else(|| wrong("expected a word that can be a token".to_string()))?;
        self.added.push((word.to_string(), first..first + vectors as u32));
        Ok(first)
    }

    /// How many ids at the start of `ids` belong together: all vectors of an added word, else one.
    pub fn vectors_at(&self, ids: &[u32]) -> usize {
        let word = self.added.iter().map(|(_, word)| word).find(|word| ids.first() == Some(&word.start));
        let whole = word.filter(|word| ids.iter().copied().take(word.len()).eq((*word).clone()));
        whole.map_or(1, |word| word.len()).min(ids.len())
    }

    fn split(&self, text: &str) -> Result<Encoding> {
        let encoded = self.tokenizer.encode(text, false);
        encoded.map_err(|error| Error::config("prompt", one_line(error)))
    }

    /// `prompt` with every vector of its added tokens written out; `tokens` are the tokens of `prompt`.
    ///
    /// Source: diffusers' `TextualInversionLoaderMixin.maybe_convert_prompt`.
    fn written_out(&self, prompt: &str, tokens: &[String]) -> String {
        let added = self.tokenizer.get_added_vocabulary().get_vocab();
        let mut prompt = prompt.to_string();
        let mut seen = BTreeSet::new();
        for token in tokens.iter().filter(|token| added.contains_key(*token) && seen.insert(*token)) {
            let vectors = (1..).map(|i| format!("{token}_{i}")).take_while(|name| added.contains_key(name));
            let all: Vec<String> = std::iter::once(token.clone()).chain(vectors).collect();
            if all.len() > 1 {
                prompt = prompt.replace(token, &all.join(" "));
            }
        }
        prompt
    }
}

/// The side that `tokenizer_config.json` names in `name`. Without it, the direction in `part` of `tokenizer.json`; without
/// both, the right side.
fn side(config: Option<&Fields>, name: &str, whole: Option<&Fields>, part: &str) -> Result<Side> {
    let own = config.and_then(|config| Some((config, name, config.get(name)?)));
    let whole = || whole.and_then(|whole| Some((whole, part, whole.get(part)?.get("direction")?)));
    let Some((fields, name, value)) = own.or_else(whole) else { return Ok(Side::Right) };
    match value.as_str() {
        Some("right" | "Right") => Ok(Side::Right),
        Some("left" | "Left") => Ok(Side::Left),
        _ => Err(fields.wrong(name, "\"left\" or \"right\"", value)),
    }
}
