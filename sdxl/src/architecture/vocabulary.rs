//! A vocabulary in CLIP's format, learnt from captions: byte-level BPE with a mark at the end of a word.
//!
//! One step of learning (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units",
//! 2016, algorithm 1). Word `w` occurs `n_w` times and is a list of parts:
//!
//! ```text
//! (l, r) = argmax over pairs of Σ_w n_w · #{i : part_i = l, part_{i+1} = r}      then every l r becomes lr
//! ```
//!
//! Departures:
//! 1. Parts start as bytes, and the last part of a word is marked (as in CLIP).
//! 2. Of equally frequent pairs, the first in lexical order is merged. So the captions alone decide every number.
//! 3. Learning ends when every word is one token.

use std::collections::{BTreeMap, HashSet};

use atedm_core::{Error, Result};
use serde_json::{Map, Value, json};

use crate::tokenizer::WordSplitter;

/// CLIP's token before a text.
pub(super) const START: &str = "<|startoftext|>";
/// CLIP's mark at the end of a word.
const WORD_END: &str = "</w>";

/// Two parts of a word that merge into one.
type Merge = (String, String);

/// Tokens by number, and the merges in order.
///
/// Tokens are numbered as in CLIP: 256 bytes, 256 bytes that end a word, one token per merge, start, end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<Merge>,
}

impl Vocabulary {
    /// CLIP's token after a text. SD-XL's first tokenizer also pads with it.
    pub const END: &'static str = "<|endoftext|>";
    /// The padding token of SD-XL's second tokenizer: token 0.
    pub const SIGN: &'static str = "!";

    /// A vocabulary in which each of these words (letters `a` to `z`) is one token. Any other text splits into
    /// beginnings of these words and bytes.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut merges = Vec::new();
        for word in words {
            let mut parts = letters(word);
            merges.iter().for_each(|merge| apply(&mut parts, merge));
            while let [first, second, ..] = parts.as_slice() {
                let merge = (first.clone(), second.clone());
                parts.splice(..2, [joined(&merge)]);
                merges.push(merge);
            }
        }
        Self::from_merges(merges)
    }

    /// Learns from captions. It does at most `merges` merges, and fewer if every word is one token before that. The
    /// order of the captions does not matter.
    ///
    /// # Errors
    /// [`Error::Config`] naming a caption that cannot be split into words.
    pub fn learn<'a>(captions: impl IntoIterator<Item = &'a str>, merges: usize) -> Result<Self> {
        let splitter = WordSplitter::new()?;
        let mut counts = BTreeMap::<String, u64>::new();
        for caption in captions {
            for word in splitter.split(caption)? {
                *counts.entry(word).or_default() += 1;
            }
        }
        let mut words: Vec<(Vec<String>, u64)> =
            counts.iter().map(|(word, count)| (letters(word), *count)).collect();
        let mut learnt = Vec::new();
        while learnt.len() < merges {
            let Some(merge) = most_frequent(&words) else { break };
            words.iter_mut().for_each(|(parts, _)| apply(parts, &merge));
            learnt.push(merge);
        }
        Ok(Self::from_merges(learnt))
    }

    /// The tokens that every vocabulary begins with: 256 bytes, and 256 bytes that end a word.
    pub(super) fn byte_tokens() -> Vec<String> {
        let bytes = byte_letters();
        let ends = bytes.iter().map(|letter| format!("{letter}{WORD_END}"));
        bytes.iter().map(char::to_string).chain(ends).collect()
    }

    pub(super) fn from_merges(merges: Vec<Merge>) -> Self {
        let mut tokens = Self::byte_tokens();
        // Two merges may give the same token: "a" + "bc" and "ab" + "c".
        let mut seen: HashSet<String> = tokens.iter().cloned().collect();
        let wholes = merges.iter().map(joined);
        tokens.extend(wholes.filter(|token| seen.insert(token.clone())));
        tokens.extend([START.to_string(), Self::END.to_string()]);
        Self { tokens, merges }
    }

    /// Number of tokens.
    #[allow(clippy::len_without_is_empty, reason = "it always holds the bytes")]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The number of the token that starts a prompt.
    pub fn start(&self) -> u32 {
        self.tokens.len() as u32 - 2
    }

    /// The number of the token that ends a prompt: the highest number.
    pub fn end(&self) -> u32 {
        self.tokens.len() as u32 - 1
    }

    /// The files of a tokenizer's folder. `pad` is the padding token ([`Vocabulary::END`] or [`Vocabulary::SIGN`]),
    /// `context` the longest prompt in tokens.
    ///
    /// # Errors
    /// [`Error::Config`] for a padding token that is not in the vocabulary.
    pub fn files(&self, pad: &str, context: usize) -> Result<Vec<(&'static str, Vec<u8>)>> {
        if !self.tokens.iter().any(|token| token == pad) {
            return Err(Error::config("pad_token", format!("{pad:?} is not in the vocabulary")));
        }
        let vocabulary: Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let mut merges = String::from("#version: 0.2\n");
        for (left, right) in &self.merges {
            merges.push_str(&format!("{left} {right}\n"));
        }
        let special =
            json!({ "bos_token": START, "eos_token": Self::END, "unk_token": Self::END, "pad_token": pad });
        let config = json!({
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": context,
            "do_lower_case": true,
            "add_prefix_space": false,
            "errors": "replace",
            "bos_token": START,
            "eos_token": Self::END,
            "unk_token": Self::END,
            "pad_token": pad
        });
        Ok(vec![
            ("vocab.json", pretty(&Value::Object(vocabulary))),
            ("merges.txt", merges.into_bytes()),
            ("special_tokens_map.json", pretty(&special)),
            ("tokenizer_config.json", pretty(&config)),
        ])
    }
}

/// Indented JSON with a newline at the end.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Byte-level BPE's letter for each of the 256 bytes, in GPT-2's order. Printable bytes come first, as themselves. The
/// other bytes follow, moved above U+00FF.
fn byte_letters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..256u32).filter(|&byte| !printable(byte)).zip(256u32..).map(|(_, code)| code);
    (0..256u32).filter(|&byte| printable(byte)).chain(others).filter_map(char::from_u32).collect()
}

/// The letters of a word, with the mark on the last one.
fn letters(word: &str) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = parts.last_mut() {
        last.push_str(WORD_END);
    }
    parts
}

pub(super) fn joined((left, right): &Merge) -> String {
    format!("{left}{right}")
}

/// Joins the pair at every occurrence, from left to right.
fn apply(parts: &mut Vec<String>, merge: &Merge) {
    let mut index = 0;
    while index + 1 < parts.len() {
        if parts[index] == merge.0 && parts[index + 1] == merge.1 {
            parts.splice(index..index + 2, [joined(merge)]);
        }
        index += 1;
    }
}

/// The most frequent pair. Of equally frequent pairs, the first in lexical order.
fn most_frequent(words: &[(Vec<String>, u64)]) -> Option<Merge> {
    let mut counts = BTreeMap::<(&str, &str), u64>::new();
    for (parts, count) in words {
        for pair in parts.windows(2) {
            *counts.entry((&pair[0], &pair[1])).or_default() += count;
        }
    }
    // `max_by_key` returns the last of equal items
    let best = counts.into_iter().rev().max_by_key(|(_, count)| *count);
    best.map(|((left, right), _)| (left.to_string(), right.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::ClipTokenizer;

    const CAPTIONS: [&str; 3] = [
        "a large red circle on the left on a striped pink background",
        "a small blue square right of a large red ring",
        "A Small  red star, above a blue circle's center",
    ];

    fn tokenizer(vocabulary: &Vocabulary, pad: &str) -> ClipTokenizer {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in vocabulary.files(pad, 32).unwrap() {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        ClipTokenizer::open(folder.path(), 77).unwrap()
    }

    /// The tokens of a prompt, without start, end and padding.
    fn tokens<'a>(vocabulary: &'a Vocabulary, prompt: &str) -> Vec<&'a str> {
        let tokenizer = tokenizer(vocabulary, Vocabulary::END);
        let encoded = tokenizer.encode(prompt).unwrap();
        assert_eq!((encoded.ids[0], encoded.cut), (vocabulary.start(), 0));
        assert_eq!((encoded.ids.len(), encoded.ids[31]), (32, vocabulary.end()));
        let words = encoded.ids[1..].iter().take_while(|id| **id != vocabulary.end());
        words.map(|id| vocabulary.tokens[*id as usize].as_str()).collect()
    }

    #[test]
    fn every_word_of_the_captions_is_one_token() {
        let vocabulary = Vocabulary::learn(CAPTIONS, 10_000).unwrap();
        let distinct: HashSet<&String> = vocabulary.tokens.iter().collect();
        assert_eq!(distinct.len(), vocabulary.len());
        assert_eq!(tokens(&vocabulary, CAPTIONS[0]).len(), 12);
        assert_eq!(
            tokens(&vocabulary, CAPTIONS[2]).join(" "),
            "a</w> small</w> red</w> star</w> ,</w> above</w> a</w> blue</w> circle</w> 's</w> center</w>"
        );
        // fewer merges than letters, and far fewer than allowed
        let letters: usize = CAPTIONS.iter().map(|caption| caption.len()).sum();
        assert!(vocabulary.merges.len() < letters, "{}", vocabulary.merges.len());
    }

    #[test]
    fn frequent_pairs_come_first_and_ties_are_lexical() {
        let vocabulary = Vocabulary::learn(["ab ab ab xy xy xy cd"], 2).unwrap();
        let pair = |left: &str, right: &str| (left.to_string(), right.to_string());
        assert_eq!(vocabulary.merges, [pair("a", "b</w>"), pair("x", "y</w>")]);
        assert_eq!(vocabulary.len(), 512 + 2 + 2);
        assert_eq!(tokens(&vocabulary, "xy cd"), ["xy</w>", "c", "d</w>"]);
        let reversed: Vec<&str> = CAPTIONS.into_iter().rev().collect();
        assert_eq!(Vocabulary::learn(CAPTIONS, 99).unwrap(), Vocabulary::learn(reversed, 99).unwrap());
    }

    #[test]
    fn unknown_words_fall_apart_into_bytes() {
        let vocabulary = Vocabulary::learn(["red red"], 99).unwrap();
        assert_eq!(tokens(&vocabulary, "red Fuß"), ["red</w>", "f", "u", "Ã", "Ł</w>"]);
        let none = Vocabulary::learn(["", " "], 99).unwrap();
        assert_eq!(none.len(), 514);
    }

    #[test]
    fn words_of_a_list_are_whole_from_their_beginnings() {
        let vocabulary = Vocabulary::of_words(["cat", "car"]);
        assert_eq!(tokens(&vocabulary, "cat cab"), ["cat</w>", "ca", "b</w>"]);
        assert_eq!(vocabulary.merges.len(), 3);
    }

    #[test]
    fn both_paddings_are_tokens() {
        let vocabulary = Vocabulary::of_words([]);
        assert_eq!(tokenizer(&vocabulary, Vocabulary::SIGN).encode("").unwrap().ids[2..], [0; 30]);
        let error = vocabulary.files("[PAD]", 32).unwrap_err().to_string();
        assert_eq!(error, "pad_token: \"[PAD]\" is not in the vocabulary");
    }
}
