//! A small CLIP tokenizer: byte-level BPE whose merges make some words of captions whole.

use serde_json::{Map, Value, json};

use super::json as pretty;
use crate::failure::Outcome;

/// CLIP's token before a text.
const START: &str = "<|startoftext|>";
/// CLIP's token after a text, also its padding.
pub(super) const END: &str = "<|endoftext|>";
/// CLIP's mark at the end of a word.
const WORD_END: &str = "</w>";

/// Words that are one token each; any other text falls apart into letters.
const WORDS: [&str; 48] = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "at",
    "and",
    "with",
    "photo",
    "picture",
    "painting",
    "drawing",
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "black",
    "white",
    "small",
    "large",
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "diamond",
    "left",
    "right",
    "top",
    "bottom",
    "center",
    "background",
    "fox",
    "cat",
    "dog",
    "bird",
    "house",
    "tree",
    "snow",
    "sea",
    "sky",
    "mountain",
    "forest",
    "city",
    "astronaut",
];

/// Tokens by number, and the merges in order.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

impl Vocabulary {
    pub(super) fn new() -> Self {
        let letters = byte_letters();
        let ends = letters.iter().map(|letter| format!("{letter}{WORD_END}"));
        let mut tokens: Vec<String> = letters.iter().map(char::to_string).chain(ends).collect();
        let mut merges = Vec::new();
        for word in WORDS {
            let mut parts = split(word, &merges);
            while parts.len() > 1 {
                let pair = (parts.remove(0), parts.remove(0));
                let whole = format!("{}{}", pair.0, pair.1);
                parts.insert(0, whole.clone());
                merges.push(pair);
                tokens.push(whole);
            }
        }
        tokens.extend([START.to_string(), END.to_string()]);
        Self { tokens, merges }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokenizer's files, with this padding token and context length.
    pub(super) fn files(&self, pad: &str, context: usize) -> Outcome<Vec<(&'static str, Vec<u8>)>> {
        let vocabulary: Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let mut merges = String::from("#version: 0.2\n");
        for (left, right) in &self.merges {
            merges.push_str(&format!("{left} {right}\n"));
        }
        let special = json!({ "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad });
        let config = json!({
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": context,
            "do_lower_case": true,
            "add_prefix_space": false,
            "errors": "replace",
            "bos_token": START,
            "eos_token": END,
            "unk_token": END,
            "pad_token": pad
        });
        Ok(vec![
            ("vocab.json", pretty(&Value::Object(vocabulary))?),
            ("merges.txt", merges.into_bytes()),
            ("special_tokens_map.json", pretty(&special)?),
            ("tokenizer_config.json", pretty(&config)?),
        ])
    }
}

/// Byte-level BPE's letter for each of the 256 bytes, in GPT-2's order: printable bytes first, as themselves; then the
/// others, moved above U+00FF.
fn byte_letters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..256u32).filter(|&byte| !printable(byte)).zip(256u32..).map(|(_, code)| code);
    (0..256u32).filter(|&byte| printable(byte)).chain(others).filter_map(char::from_u32).collect()
}

/// A word's parts after all merges so far: the earliest merge first, everywhere it fits.
fn split(word: &str, merges: &[(String, String)]) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = parts.last_mut() {
        last.push_str(WORD_END);
    }
    for (left, right) in merges {
        let mut index = 0;
        while index + 1 < parts.len() {
            if parts[index] == *left && parts[index + 1] == *right {
                let tail = parts.remove(index + 1);
                parts[index].push_str(&tail);
            }
            index += 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_token_has_one_number_and_every_word_is_one_token() {
        let vocabulary = Vocabulary::new();
        let distinct: HashSet<&String> = vocabulary.tokens.iter().collect();
        assert_eq!(distinct.len(), vocabulary.len());
        assert_eq!(vocabulary.tokens[0], "!");
        assert_eq!(vocabulary.len(), 512 + vocabulary.merges.len() + 2);
        for word in WORDS {
            assert_eq!(split(word, &vocabulary.merges), [format!("{word}{WORD_END}")]);
        }
        assert!(split("zebra", &vocabulary.merges).len() > 1);
    }
}
