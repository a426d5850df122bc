//! Tokens that a folder adds to its vocabulary: the special tokens, and those of a textual inversion.
//!
//! ```text
//! added_tokens_decoder in tokenizer_config.json   it lists them all; special_tokens_map.json and added_tokens.json do not count
//! else   special_tokens_map.json                  wins over tokenizer_config.json, key by key
//!        added_tokens.json, then tokenizer.json   more tokens, in the order of their ids
//! ```
//! Source: transformers' `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` (5.23).

use std::collections::{BTreeMap, BTreeSet};

use atedm_core::Result;
use serde_json::Value;
use tokenizers::AddedToken;

use super::files::Files;
use crate::config::Fields;

/// The names of special tokens, in the order in which new ones get their ids.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The list of further special tokens, by its new and its old name.
const EXTRA: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// CLIP's own special tokens.
const DEFAULTS: [(&str, &str); 4] = [
    ("bos_token", "<|startoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
];

/// A token in the form that a file has it.
#[derive(Debug, Clone, PartialEq)]
enum Listed {
    /// Only the text. It is a special token.
    Text(String),
    /// A text with flags.
    Flagged(Flagged),
}

#[derive(Debug, Clone)]
struct Flagged {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    /// Whether it is searched in the normalized text. By default, this holds for tokens that are not special.
    normalized: Option<bool>,
    special: bool,
}

impl Listed {
    /// Reads `value` of `name`. A token with flags is special only if its flag says so.
    fn read(fields: &Fields, name: &str, value: &Value) -> Result<Self> {
        match value {
            Value::String(text) => Ok(Self::Text(text.clone())),
            value => Flagged::read(fields, name, value).map(Self::Flagged),
        }
    }

    fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Flagged(token) => &token.content,
        }
    }

    fn special(self) -> Self {
        match self {
            Self::Flagged(token) => Self::Flagged(Flagged { special: true, ..token }),
            text => text,
        }
    }

    fn into_token(self) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text, true),
            Self::Flagged(token) => token.into_token(),
        }
    }
}

/// Two are equal if they are added in the same way.
impl PartialEq for Flagged {
    fn eq(&self, other: &Self) -> bool {
        self.clone().into_token() == other.clone().into_token()
    }
}

impl Flagged {
    fn into_token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }

    fn read(fields: &Fields, name: &str, value: &Value) -> Result<Self> {
        let wrong = |value| fields.wrong(name, "a token, or an object with its content and flags", value);
        let content = value.get("content").and_then(Value::as_str).ok_or_else(|| wrong(value))?;
        let flag = |flag: &str| match value.get(flag) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(fields.wrong(&format!("{name}: {flag}"), "true or false", other)),
        };
        Ok(Self {
            content: content.to_string(),
            single_word: flag("single_word")?.unwrap_or(false),
            lstrip: flag("lstrip")?.unwrap_or(false),
            rstrip: flag("rstrip")?.unwrap_or(false),
            normalized: flag("normalized")?,
            special: flag("special")?.unwrap_or(false),
        })
    }
}

/// The special tokens by name, and all tokens to add, in order.
#[derive(Default)]
pub(super) struct Added {
    /// `None` stands for an explicit `null`.
    named: BTreeMap<String, Option<Listed>>,
    extra: Vec<Listed>,
    others: BTreeMap<u64, Flagged>,
    /// All tokens that were ever in `others`. Their flags apply to special tokens of the same text.
    flagged: BTreeMap<String, Flagged>,
}

impl Added {
    /// Reads the files. `config` is `tokenizer_config.json`, `whole` is `tokenizer.json`.
    pub(super) fn read(files: Files<'_>, config: Option<&Fields>, whole: Option<&Fields>) -> Result<Self> {
        let mut added = Self::default();
        if let Some(config) = config {
            added.name_all(config)?;
            added.add_extra(config, &EXTRA)?;
        }
        match config.and_then(|config| Some((config, config.get("added_tokens_decoder")?))) {
            Some((config, decoder)) => added.decode(config, decoder)?,
            None => added.read_older(files, config, whole)?,
        }
        let named = added.named.iter_mut().filter(|(name, _)| NAMES.contains(&name.as_str()));
        for token in named.filter_map(|(_, token)| token.as_mut()) {
            if let Some(flagged) = added.flagged.get(token.content()) {
                *token = Listed::Flagged(flagged.clone());
            }
        }
        for (name, text) in DEFAULTS {
            added.named.entry(name.to_string()).or_insert_with(|| Some(Listed::Text(text.to_string())));
        }
        Ok(added)
    }

    /// Reads the files that applied before `added_tokens_decoder` existed.
    fn read_older(
        &mut self,
        files: Files<'_>,
        config: Option<&Fields>,
        whole: Option<&Fields>,
    ) -> Result<()> {
        let map = files.fields_if_there("special_tokens_map.json")?;
        if let Some(map) = &map {
            self.replace_named(map)?;
            // The old name is ignored if the new one exists, or if `tokenizer_config.json` has a list of its own.
            let has_extra = config.is_some_and(|config| EXTRA.iter().any(|name| config.names(name)))
                || map.names(EXTRA[0]);
            self.add_extra(map, if has_extra { &EXTRA[..1] } else { &EXTRA })?;
        }
        if let Some(file) = files.fields_if_there("added_tokens.json")? {
            let special = self.special_texts(map.as_ref());
            for (content, id) in file.entries() {
                let special = special.contains(content);
                let token = Flagged {
                    content: content.to_string(),
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                    normalized: Some(!special),
                    special,
                };
                let id = id.as_u64().ok_or_else(|| file.wrong(&format!("{content:?}"), "an id", id))?;
                self.insert(id, token);
            }
        }
        let Some(whole) = whole else { return Ok(()) };
        let tokens =
            whole.get("added_tokens").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for token in tokens {
            let id = token.get("id").and_then(Value::as_u64);
            let id = id.ok_or_else(|| whole.wrong("added_tokens", "tokens with an id", token))?;
            self.insert(id, Flagged::read(whole, "added_tokens", token)?);
        }
        Ok(())
    }

    fn insert(&mut self, id: u64, token: Flagged) {
        self.flagged.insert(token.content.clone(), token.clone());
        self.others.insert(id, token);
    }

    /// The texts that make a token of `added_tokens.json` special: tokens without flags, and those that `map` names.
    /// Tokens with flags in `tokenizer_config.json` do not count, because transformers has not read them at this point.
    fn special_texts(&self, map: Option<&Fields>) -> BTreeSet<String> {
        let counts = |name: &str, token: &Listed| {
            matches!(token, Listed::Text(_)) || map.is_some_and(|map| map.names(name))
        };
        let named = NAMES.iter().filter_map(|name| Some((*name, self.named.get(*name)?.as_ref()?)));
        let named = named.filter(|(name, token)| counts(name, token)).map(|(_, token)| token);
        let extra = self.extra.iter().filter(|token| matches!(token, Listed::Text(_)));
        named.chain(extra).map(|token| token.content().to_string()).collect()
    }

    /// Takes every `…_token` that `tokenizer_config.json` names.
    fn name_all(&mut self, config: &Fields) -> Result<()> {
        for (name, token) in named_tokens(config) {
            self.named.insert(name.to_string(), token?);
        }
        Ok(())
    }

    /// Takes every `…_token` that `special_tokens_map.json` names. It overrides earlier ones, except plain tokens with
    /// names of their own.
    fn replace_named(&mut self, map: &Fields) -> Result<()> {
        for (name, token) in named_tokens(map) {
            let kept = !NAMES.contains(&name) && matches!(self.named.get(name), Some(Some(Listed::Text(_))));
            if !kept {
                self.named.insert(name.to_string(), token?.map(Listed::special));
            }
        }
        Ok(())
    }

    /// Takes the first nonempty list of `names`. It may also be an object of tokens by name.
    fn add_extra(&mut self, fields: &Fields, names: &[&'static str]) -> Result<()> {
        let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        let list = |name: &&'static str| Some((*name, fields.get(name).filter(|value| !empty(value))?));
        let Some((name, value)) = names.iter().find_map(list) else { return Ok(()) };
        match value {
            Value::Array(tokens) => {
                for token in tokens {
                    let token = Listed::read(fields, name, token)?;
                    if !self.extra.contains(&token) {
                        self.extra.push(token);
                    }
                }
            }
            Value::Object(tokens) => {
                for (key, token) in tokens {
                    self.named.insert(key.clone(), Some(Listed::read(fields, name, token)?));
                }
            }
            other => return Err(fields.wrong(name, "a list of tokens", other)),
        }
        Ok(())
    }

    /// Takes the tokens of `added_tokens_decoder`.
    fn decode(&mut self, fields: &Fields, decoder: &Value) -> Result<()> {
        const NAME: &str = "added_tokens_decoder";
        let Value::Object(tokens) = decoder else {
            return Err(fields.wrong(NAME, "an object from id to token", decoder));
        };
        for (id, token) in tokens {
            let number = id.parse().map_err(|_| fields.error(NAME, format!("expected an id, got {id:?}")))?;
            self.insert(number, Flagged::read(fields, &format!("{NAME}: {id}"), token)?);
        }
        Ok(())
    }

    /// The text of the special token `name`, unless it is `null`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.named.get(name)?.as_ref().map(Listed::content)
    }

    /// All tokens, in the order in which they are added.
    pub(super) fn tokens(self) -> Vec<AddedToken> {
        let mut named = self.named;
        let mut special: Vec<Listed> = NAMES.iter().filter_map(|name| named.remove(*name)?).collect();
        special.extend(named.into_values().flatten());
        let names: BTreeSet<String> = special.iter().map(|token| token.content().to_string()).collect();
        let listed: BTreeSet<String> = self.others.values().map(|token| token.content.clone()).collect();
        let mut tokens: Vec<Listed> = self.others.into_values().map(Listed::Flagged).collect();
        for token in special.into_iter().chain(self.extra) {
            if !listed.contains(token.content()) && !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let marked = |token: Listed| if names.contains(token.content()) { token.special() } else { token };
        tokens.into_iter().map(|token| marked(token).into_token()).collect()
    }
}

/// The tokens of a file by name; `None` for an explicit `null`. Keys such as `add_bos_token` are not tokens.
fn named_tokens(fields: &Fields) -> impl Iterator<Item = (&str, Result<Option<Listed>>)> {
    let names = fields.entries().filter(|(name, _)| name.ends_with("_token"));
    let tokens = names.filter(|(name, value)| NAMES.contains(name) || value.is_string() || value.is_object());
    tokens.map(|(name, value)| {
        let token = (!value.is_null()).then(|| Listed::read(fields, name, value)).transpose();
        (name, token)
    })
}
