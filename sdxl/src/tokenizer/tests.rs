use atedm_core::Error;
use serde_json::{Value, json};

use super::{ClipTokenizer, TokenIds};

const VOCABULARY: &str = r#"{"a":0,"b":1,"!":2,"a</w>":3,"b</w>":4,"!</w>":5,"ab</w>":6,
    "<|startoftext|>":7,"<|endoftext|>":8}"#;
const MERGES: &str = "#version: 0.2\na b</w>\n";

fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "vocab.json", VOCABULARY);
    write(&folder, "merges.txt", MERGES);
    write(&folder, "tokenizer_config.json", config);
    folder
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
    std::fs::write(folder.path().join(name), text).unwrap();
}

fn ids(folder: &tempfile::TempDir, prompt: &str) -> Vec<u32> {
    ClipTokenizer::open(folder.path(), 8).unwrap().encode(prompt).unwrap().ids
}

fn error(folder: &tempfile::TempDir) -> String {
    ClipTokenizer::open(folder.path(), 6).err().unwrap().to_string()
}

/// A token with flags as `added_tokens_decoder` has it.
fn token(content: &str, flags: Value) -> Value {
    let mut token = json!({"content": content, "lstrip": false, "normalized": true, "rstrip": false,
        "single_word": false, "special": false});
    for (name, value) in flags.as_object().unwrap() {
        token[name] = value.clone();
    }
    token
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
fn either_side_may_be_padded_and_cut() {
    let folder = folder(r#"{"max_len": 5, "padding_side": "left", "truncation_side": "left"}"#);
    assert_eq!(ids(&folder, "a"), [8, 8, 7, 3, 8]);
    assert_eq!(ids(&folder, "a a b a"), [7, 3, 4, 3, 8]);
    write(&folder, "tokenizer_config.json", r#"{"padding_side": "top"}"#);
    assert!(error(&folder).contains("tokenizer_config.json: padding_side: expected \"left\" or \"right\""));
}

#[test]
fn the_padding_sign_stands_for_itself() {
    let folder = folder(r#"{"model_max_length": 1e30, "pad_token": {"content": "!"}}"#);
    let tokenizer = ClipTokenizer::open(folder.path(), 6).unwrap();
    assert_eq!(tokenizer.encode("a!").unwrap().ids, [7, 3, 2, 8, 2, 2]);
    assert_eq!(tokenizer.end(), 8);
}

/// As in SD-XL's files, the end token has flags and is searched in the lower-case text, until it is also the padding.
#[test]
fn special_tokens_in_capitals() {
    let end = token("<|endoftext|>", json!({"__type": "AddedToken"}));
    let folder = folder(&json!({"eos_token": end, "unk_token": end, "pad_token": "!"}).to_string());
    assert_eq!(ids(&folder, "a<|EndOfText|>b"), [7, 3, 8, 4, 8, 2, 2, 2]);
    write(&folder, "tokenizer_config.json", &json!({"eos_token": end, "unk_token": end}).to_string());
    // split into letters that the vocabulary lacks
    assert_ne!(ids(&folder, "a<|EndOfText|>b")[2..4], [8, 4]);
    assert_eq!(ids(&folder, "a<|endoftext|>b"), [7, 3, 8, 4, 8, 8, 8, 8]);
}

#[test]
fn the_map_of_special_tokens_wins_unless_added_tokens_are_listed() {
    let folder = folder(r#"{"pad_token": "<|endoftext|>"}"#);
    write(&folder, "special_tokens_map.json", r#"{"pad_token": "!", "bos_token": {"content": "b"}}"#);
    assert_eq!(ids(&folder, "a"), [1, 3, 8, 2, 2, 2, 2, 2]);
    write(&folder, "tokenizer_config.json", r#"{"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}"#);
    assert_eq!(ids(&folder, "a"), [7, 3, 8, 8, 8, 8, 8, 8]);
    // a null in the map is no token, so "!" is an ordinary word
    write(&folder, "tokenizer_config.json", r#"{"mask_token": "!"}"#);
    assert_eq!(ids(&folder, "a!"), [1, 3, 2, 8, 2, 2, 2, 2]);
    write(&folder, "special_tokens_map.json", r#"{"mask_token": null}"#);
    assert_eq!(ids(&folder, "a!"), [7, 3, 5, 8, 8, 8, 8, 8]);
}

#[test]
fn added_tokens_of_all_files() {
    let listed = json!({"9": token("<s0>", json!({})), "10": token("<s1>", json!({}))});
    let from_config = json!({"added_tokens_decoder": listed}).to_string();
    let files = [
        ("tokenizer_config.json", from_config.as_str()),
        ("added_tokens.json", r#"{"<s1>": 10, "<s0>": 9}"#),
        ("tokenizer_config.json", r#"{"additional_special_tokens": ["<s0>", "<s1>"]}"#),
        ("tokenizer_config.json", r#"{"extra_special_tokens": ["<s0>", "<s1>"]}"#),
        ("special_tokens_map.json", r#"{"additional_special_tokens": ["<s0>", "<s1>"]}"#),
        ("special_tokens_map.json", r#"{"image_token": "<s0>", "video_token": {"content": "<s1>"}}"#),
    ];
    for (name, text) in files {
        let folder = folder("{}");
        write(&folder, name, text);
        assert_eq!(ids(&folder, "a<s1>b <s0>"), [7, 3, 10, 4, 9, 8, 8, 8], "{name} {text}");
    }
    // ids follow the order, not the numbers; tokens of the vocabulary keep their ids
    let folder = folder("{}");
    write(&folder, "added_tokens.json", r#"{"<s0>": 30, "<s1>": 20, "a": 10}"#);
    assert_eq!(ids(&folder, "<s0><s1>a"), [7, 10, 9, 0, 8, 8, 8, 8]);
}

#[test]
fn flags_of_added_tokens() {
    let cases = [
        (json!({}), "A <S0> b<s0>", vec![7, 3, 9, 4, 9, 8, 8, 8]),
        (json!({"special": true, "normalized": false}), "a <s0> b", vec![7, 3, 9, 4, 8, 8, 8, 8]),
        (json!({"single_word": true}), "a <s0>!", vec![7, 3, 9, 5, 8, 8, 8, 8]),
    ];
    for (flags, prompt, expected) in cases {
        let folder = folder(&json!({"added_tokens_decoder": {"9": token("<s0>", flags)}}).to_string());
        assert_eq!(ids(&folder, prompt), expected, "{prompt}");
    }
    // "ab" as an added token: it also matches inside words, except if the flag asks for whole words
    let added = |flags: Value| json!({"added_tokens_decoder": {"9": token("ba", flags)}}).to_string();
    let within = folder(&added(json!({})));
    assert_eq!(ids(&within, "abab"), [7, 3, 9, 4, 8, 8, 8, 8]);
    let single = folder(&added(json!({"single_word": true})));
    assert!(!ids(&single, "abab").contains(&9));
    assert_eq!(ids(&single, "a BA b"), [7, 3, 9, 4, 8, 8, 8, 8]);
    let raw = folder(&added(json!({"normalized": false})));
    assert!(!ids(&raw, "a BA b").contains(&9));
}

#[test]
fn tokens_of_several_vectors_are_written_out() {
    let folder = folder("{}");
    write(&folder, "added_tokens.json", r#"{"<c>": 9, "<c>_1": 10, "<c>_2": 11, "<d>_1": 12}"#);
    assert_eq!(ids(&folder, "a <c> b"), [7, 3, 9, 10, 11, 4, 8, 8]);
    assert_eq!(ids(&folder, "<c>_1"), [7, 10, 8, 8, 8, 8, 8, 8]);
}

/// Tokens and merges come from `tokenizer.json` if it exists. The splitting into words is CLIP's.
#[test]
fn a_tokenizer_in_one_file() {
    let folder = folder("{}");
    let vocabulary: Value = serde_json::from_str(VOCABULARY).unwrap();
    let added = json!([{"id": 9, "content": "<s0>", "special": false, "normalized": true}]);
    for merges in [json!(["a b</w>"]), json!([["a", "b</w>"]])] {
        let whole = json!({"version": "1.0", "added_tokens": added, "normalizer": {"type": "Strip"},
            "padding": {"direction": "Left"}, "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}});
        write(&folder, "tokenizer.json", &whole.to_string());
        assert_eq!(ids(&folder, "AB <S0>"), [8, 8, 8, 8, 7, 6, 9, 8]);
    }
    // tokens listed in other files do not count here
    write(&folder, "tokenizer_config.json", r#"{"added_tokens_decoder": {}}"#);
    assert!(!ids(&folder, "<s0>").contains(&9));
    write(&folder, "tokenizer.json", r#"{"model": {"vocab": [["a", 0]]}}"#);
    assert!(error(&folder).contains("tokenizer.json: model: expected BPE"));
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let folder = folder("\u{feff}{\"pad_token\": \"!\"}");
    write(&folder, "vocab.json", &format!("\u{feff}{VOCABULARY}"));
    for merges in [MERGES, "a b</w>\r\n"] {
        write(&folder, "merges.txt", &format!("\u{feff}{merges}"));
        assert_eq!(ids(&folder, "ab"), [7, 6, 8, 2, 2, 2, 2, 2]);
    }
    write(&folder, "special_tokens_map.json", "\u{feff}{\"pad_token\": \"b\"}");
    write(&folder, "added_tokens.json", "\u{feff}{\"<s0>\": 9}");
    assert_eq!(ids(&folder, "<s0>"), [7, 9, 8, 1, 1, 1, 1, 1]);
}

#[test]
fn special_tokens_that_the_text_encoder_lacks() {
    let folder = folder(r#"{"bos_token": "<s>"}"#);
    let tokenizer = ClipTokenizer::open(folder.path(), 6).unwrap();
    assert_eq!(tokenizer.encode("a").unwrap().ids, [9, 3, 8, 8, 8, 8]);
    assert!(tokenizer.check_special(10).is_ok());
    let error = tokenizer.check_special(9).unwrap_err().to_string();
    assert!(error.contains("vocab.json: bos_token \"<s>\" has the id 9"), "{error}");
}

#[test]
fn broken_folders_are_named() {
    for (config, expected) in [
        ("{", "tokenizer_config.json: broken JSON"),
        ("[]", "tokenizer_config.json: expected a JSON object"),
        (r#"{"pad_token": null}"#, "tokenizer_config.json: pad_token: expected a token, got none"),
        (r#"{"pad_token": 3}"#, "tokenizer_config.json: pad_token: expected a token, or an object"),
        (
            r#"{"added_tokens_decoder": []}"#,
            "tokenizer_config.json: added_tokens_decoder: expected an object",
        ),
        (r#"{"added_tokens_decoder": {"x": {}}}"#, "added_tokens_decoder: expected an id, got \"x\""),
        (
            r#"{"added_tokens_decoder": {"9": {"content": "c", "lstrip": 1}}}"#,
            "9: lstrip: expected true or false",
        ),
    ] {
        let got = error(&folder(config));
        assert!(got.contains(expected) && !got.contains('\n'), "{config}: {got}");
    }
    let folder = folder("{}");
    for merges in ["a\n", "a b c\n", "a c\n"] {
        write(&folder, "merges.txt", merges);
        let got = error(&folder);
        assert!(got.contains("merges.txt: line 1") || got.contains("vocab.json"), "{got}");
    }
    write(&folder, "vocab.json", "[1]");
    assert!(error(&folder).contains("vocab.json"));
    std::fs::remove_file(folder.path().join("vocab.json")).unwrap();
    assert!(matches!(ClipTokenizer::open(folder.path(), 6), Err(Error::Io { .. })));
}
