//! CLIP's own vocabulary, and SD-XL's tokenizers made from it. Single-file checkpoints have no tokenizers.
//!
//! Source and licence: `data/clip/README.md`.

use atedm_core::Result;
use serde_json::{Value, json};

use super::Vocabulary;
use super::vocabulary::{START, joined, pretty};
use crate::output::NamedFile;

/// The merges in order. Each is the numbers of its two tokens (u16, little-endian).
const MERGES: &[u8] = include_bytes!("../../data/clip/merges.bin");

/// Most tokens of a prompt.
const CONTEXT: usize = 77;

impl Vocabulary {
    /// The vocabulary of OpenAI's CLIP: 49,408 tokens. Both text encoders of SD-XL use it.
    pub fn clip() -> Self {
        let mut tokens = Self::byte_tokens();
        let mut merges = Vec::with_capacity(MERGES.len() / 4);
        for &[a, b, c, d] in MERGES.as_chunks().0 {
            let part = |number| tokens.get(usize::from(u16::from_le_bytes(number))).cloned();
            let merge = (part([a, b]).unwrap_or_default(), part([c, d]).unwrap_or_default());
            tokens.push(joined(&merge));
            merges.push(merge);
        }
        Self::from_merges(merges)
    }
}

/// The files of SD-XL's two tokenizers, which differ in their padding. Names are without a folder.
pub(crate) fn tokenizers() -> Result<[Vec<NamedFile>; 2]> {
    let vocabulary = Vocabulary::clip();
    let files = |pad: &str| -> Result<Vec<NamedFile>> {
        let mut files = vocabulary.files(pad, CONTEXT)?;
        files.retain(|(name, _)| matches!(*name, "vocab.json" | "merges.txt"));
        files.extend(settings(pad));
        Ok(files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect())
    };
    Ok([files(Vocabulary::END)?, files(Vocabulary::SIGN)?])
}

/// The small files that SD-XL has. Start and end are searched for in the lower-case text, the padding token in the text itself.
fn settings(pad: &str) -> [(&'static str, Vec<u8>); 2] {
    let flagged = |content: &str| json!({ "content": content, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false });
    let tokens = |start: Value, end: Value| json!({ "bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad });
    let typed = |content: &str| {
        let mut token = flagged(content);
        token["__type"] = json!("AddedToken");
        token
    };
    let mut config = tokens(typed(START), typed(Vocabulary::END));
    for (name, value) in [
        ("add_prefix_space", json!(false)),
        ("do_lower_case", json!(true)),
        ("errors", json!("replace")),
        ("model_max_length", json!(CONTEXT)),
        ("tokenizer_class", json!("CLIPTokenizer")),
    ] {
        config[name] = value;
    }
    let map = tokens(flagged(START), flagged(Vocabulary::END));
    [("special_tokens_map.json", pretty(&map)), ("tokenizer_config.json", pretty(&config))]
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// `merges.txt` of SD-XL's published tokenizers has this SHA-256.
    #[test]
    fn the_merges_are_those_of_the_published_tokenizers() {
        let [first, second] = tokenizers().unwrap();
        let merges = first.iter().find(|(name, _)| name == "merges.txt").unwrap();
        assert!(second.contains(merges));
        let hash: String = Sha256::digest(&merges.1).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a");
        let clip = Vocabulary::clip();
        assert_eq!((clip.len(), clip.start(), clip.end()), (49_408, 49_406, 49_407));
    }
}
