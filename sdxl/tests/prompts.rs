//! How prompts are read: ids and weights against compel and against the web UI's rules, lengths, and textual inversions.
//! Whole runs on every backend are in `tests/tests/parity.rs`.

#![allow(clippy::unwrap_used)]

mod pipeline_support;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use atedm_core::plugin::Unpruned;
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_core::{DType, Result, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, EmbeddingFile, OpenOptions};
use atedm_sdxl::pipeline::{Conditioning, Decoding, Output, Pipeline, Proceed, Request};
use atedm_sdxl::prompt::{Chunk, PromptSyntax, Reading, SyntaxRegistry, TextOptions};
use atedm_sdxl::tokenizer::ClipTokenizer;
use pipeline_support::{fixtures, json};
use safetensors::tensor::Dtype;
use support::write_tensors;

fn open(embeddings: &[&str]) -> Result<Checkpoint> {
    let embeddings = embeddings.iter().map(|file| file.parse().unwrap()).collect();
    Checkpoint::open(fixtures().join("tiny-a"), OpenOptions { embeddings, ..OpenOptions::default() })
}

fn tiny() -> Pipeline<Reference32> {
    Pipeline::load(&open(&[]).unwrap(), DType::F32, &NdDevice).unwrap()
}

fn text(syntax: &str, clip_skip: usize) -> TextOptions {
    TextOptions { syntax: syntax.into(), clip_skip }
}

/// A short guided run.
fn run(prompts: &[&str], negative: Option<&str>, text: TextOptions) -> Request<NdTensor> {
    let mut request = Request::new(prompts.iter().copied());
    (request.steps, request.width, request.height) = (2, Some(32), Some(32));
    request.decoding = Decoding::Skip;
    request.text = text;
    if let Conditioning::Prompts { negative: slot, .. } = &mut request.conditioning {
        *slot = negative.map(|negative| vec![negative.to_string()]);
    }
    request
}

fn generate(pipeline: &Pipeline<Reference32>, request: &Request<NdTensor>) -> Result<Output<NdTensor>> {
    pipeline.generate(request, &mut Unpruned, &mut |_| Proceed::Continue(()))
}

fn latents(pipeline: &Pipeline<Reference32>, request: &Request<NdTensor>) -> Vec<f32> {
    generate(pipeline, request).unwrap().latents.to_f32().unwrap()
}

/// Every chunk's ids and weights are those of compel, and of the web UI's rules in Python.
#[test]
fn readings_are_those_of_the_references() {
    let mut tokenizers: BTreeMap<String, [ClipTokenizer; 2]> = BTreeMap::new();
    for name in ["tiny-a", "tiny-b"] {
        let checkpoint = Checkpoint::open(fixtures().join(name), OpenOptions::default()).unwrap();
        tokenizers.insert(name.into(), checkpoint.tokenizers().unwrap());
    }
    let syntaxes = SyntaxRegistry::with_builtins();
    let cases = json(fixtures().join("prompts/readings.json"));
    let (mut weighted, mut long) = (0, 0);
    for case in cases.as_array().unwrap() {
        let (prompt, syntax) = (case["prompt"].as_str().unwrap(), case["syntax"].as_str().unwrap());
        let what = format!("{syntax} {prompt:?} for {} of {}", case["encoder"], case["model"]);
        let tokenizer =
            &tokenizers[case["model"].as_str().unwrap()][case["encoder"].as_u64().unwrap() as usize];
        let reading = syntaxes.get(syntax).unwrap().read(prompt, tokenizer).unwrap();
        let chunks = case["ids"].as_array().unwrap();
        assert_eq!(reading.chunks.len(), chunks.len(), "{what}");
        for ((chunk, ids), weights) in
            reading.chunks.iter().zip(chunks).zip(case["weights"].as_array().unwrap())
        {
            let mut expected: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            expected.resize(tokenizer.length(), *expected.last().unwrap());
            assert_eq!(chunk.ids, expected, "{what}");
            let mut others: Vec<f32> = vec![1.0; tokenizer.length()];
            let pairs: Vec<(usize, f32)> = serde_json::from_value(weights.clone()).unwrap();
            pairs.iter().for_each(|(at, weight)| others[*at] = *weight);
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
            assert!(
                chunk.weights.iter().zip(&others).all(close),
                "{what}: {:?}, expected {others:?}",
                chunk.weights
            );
            weighted += pairs.len();
        }
        long += usize::from(chunks.len() > 1);
    }
    assert!(weighted > 100 && long > 20, "{weighted} weights, {long} long prompts");
}

/// Texts of the signs of both syntaxes are read or refused, and never anything else. Long ones too take no time.
#[test]
fn any_text_is_read_or_refused() {
    let pieces = [
        "(", ")", "[", "]", ":", "1.2", "\\", "\"", "+", "-", ".", ",", "=", " ", "a", "ü", "BREAK", "\n",
        ".attend(",
    ];
    let [tokenizer, _] = open(&[]).unwrap().tokenizers().unwrap();
    let syntaxes = SyntaxRegistry::with_builtins();
    let mut state = 1u64;
    let mut read = 0;
    for length in (0..3000).map(|number| if number % 500 == 499 { 4000 } else { number % 24 }) {
        let text: String = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                pieces[(state >> 33) as usize % pieces.len()]
            })
            .collect();
        for syntax in ["a1111", "compel"] {
            match syntaxes.get(syntax).unwrap().read(&text, &tokenizer) {
                Ok(reading) => {
                    read += 1;
                    assert!(reading.chunks.iter().all(|chunk| chunk.ids.len() == 77), "{syntax} {text:?}");
                }
                Err(error) => {
                    assert!(error.to_string().starts_with("prompt: "), "{syntax} {text:?}: {error}")
                }
            }
        }
    }
    assert!(read > 4000, "{read}");
}

/// A long text counts as chunks of the encoders' length, and the U-Net's costs follow it.
#[test]
fn long_prompts_make_the_text_longer() {
    let pipeline = tiny();
    let long = "a small cat, ".repeat(30);
    let grid = atedm_core::plugin::Grid::new(8, 8);
    for (syntax, chunks) in [("none", 1), ("a1111", 3), ("compel", 3)] {
        let output = generate(&pipeline, &run(&[&long], Some("blurry"), text(syntax, 0))).unwrap();
        assert_eq!((output.text_length, output.cut.is_empty()), (77 * chunks, syntax != "none"), "{syntax}");
        let formula = atedm_sdxl::flops::full(pipeline.unet().config(), grid, 77 * chunks).unwrap().sum();
        assert!(output.costs.iter().all(|cost| cost.macs == formula), "{syntax}");
    }
}

/// Without weights and in one chunk, the syntaxes agree bit for bit.
#[test]
fn plain_prompts_are_the_same_in_every_syntax() {
    let pipeline = tiny();
    let expected = latents(&pipeline, &run(&["a red circle"], Some("blurry"), TextOptions::default()));
    for syntax in ["a1111", "compel"] {
        assert_eq!(latents(&pipeline, &run(&["a red circle"], Some("blurry"), text(syntax, 0))), expected);
    }
    let weighted = latents(&pipeline, &run(&["a (red:1.5) circle"], Some("blurry"), text("a1111", 0)));
    assert!(relative_l2(&weighted, &expected) > 1e-3);
    let skipped = latents(&pipeline, &run(&["a red circle"], Some("blurry"), text("none", 1)));
    assert!(relative_l2(&skipped, &expected) > 1e-3);
}

/// Embeddings of different lengths are filled up like the prompts that they came from.
#[test]
fn embeddings_of_other_lengths_stand_for_prompts() {
    let pipeline = tiny();
    let options = text("a1111", 1);
    let mut request = run(&["a cat BREAK a dog"], Some("blurry"), options.clone());
    let expected = latents(&pipeline, &request);
    let embed = |text: &str, options: &TextOptions| pipeline.encode(&[text.to_string()], options).unwrap().0;
    let (prompt, negative) = (embed("a cat BREAK a dog", &options), embed("blurry", &options.for_negative()));
    assert_eq!((prompt.length(), negative.length()), (154, 77));
    request.conditioning = Conditioning::Embeddings { prompt, negative: Some(negative) };
    assert_eq!(latents(&pipeline, &request), expected);
    let Conditioning::Embeddings { negative: Some(negative), .. } = &mut request.conditioning else {
        panic!()
    };
    negative.tokens = negative.tokens.narrow(1, 0, 50).unwrap();
    let message = generate(&pipeline, &request).unwrap_err().to_string();
    assert_eq!(message, "negative embeddings: expected shape [1, 154, 40]");
}

#[test]
fn wrong_options_are_named() {
    let pipeline = tiny();
    for (prompt, options, message) in [
        ("a", text("webui", 0), "prompt_syntax: expected one of a1111, compel, none, got \"webui\""),
        ("a", text("none", 3), "clip_skip: expected at most 2, as the text encoder has 3 layers, got 3"),
        ("(a:1e)", text("a1111", 0), ""),
        ("(a:1.1.1)", text("a1111", 0), "prompt: expected a number as weight, got \"1.1.1\""),
    ] {
        let result = generate(&pipeline, &run(&[prompt], None, options));
        assert_eq!(result.err().map(|error| error.to_string()).unwrap_or_default(), message, "{prompt}");
    }
}

/// Reads words in reverse, with the first of them weighted.
#[derive(Debug)]
struct Backwards(usize);

impl PromptSyntax for Backwards {
    fn read(&self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Reading> {
        let mut words: Vec<&str> = prompt.split(' ').collect();
        words.reverse();
        let mut chunk = Chunk::plain(tokenizer.encode(&words.join(" "))?.ids);
        chunk.weights[1] = 1.5;
        chunk.weights.truncate(self.0);
        Ok(Reading::new(vec![chunk]))
    }
}

/// A syntax of another crate has the same door.
#[test]
fn a_syntax_of_ones_own_is_used() {
    let mut syntaxes = SyntaxRegistry::with_builtins();
    syntaxes.register("backwards", Backwards(77)).unwrap();
    syntaxes.register("short", Backwards(5)).unwrap();
    assert!(syntaxes.register("a1111", Backwards(77)).is_err());
    let pipeline = tiny().with_syntaxes(syntaxes);
    let expected = latents(&pipeline, &run(&["(circle:1.5) red a"], None, text("a1111", 0)));
    assert_eq!(latents(&pipeline, &run(&["a red circle"], None, text("backwards", 0))), expected);
    let error = generate(&pipeline, &run(&["a"], None, text("short", 0))).unwrap_err().to_string();
    assert_eq!(error, "prompt_syntax: expected readings in chunks of 77 tokens");
}

/// A golden embedding for tiny-a.
fn golden(name: &str) -> String {
    fixtures().join("prompts").join(format!("tiny-a.{name}.safetensors")).display().to_string()
}

#[test]
fn words_have_one_id_for_each_vector() {
    let checkpoint = open(&[&format!("{}:<fox>", golden("fox")), &golden("fox-style")]).unwrap();
    let words: Vec<(&str, usize)> = checkpoint.embeddings().iter().map(|e| (e.word(), e.count())).collect();
    assert_eq!(words, [("<fox>", 3), ("tiny-a.fox-style", 1)]);
    for tokenizer in checkpoint.tokenizers().unwrap() {
        assert_eq!(tokenizer.ids("<fox>TINY-A.fox-style").unwrap(), [610, 611, 612, 613]);
        assert_eq!((tokenizer.vectors_at(&[610, 611, 612, 613]), tokenizer.vectors_at(&[610, 612])), (3, 1));
        // The vectors of a word stay in one chunk.
        let syntaxes = SyntaxRegistry::with_builtins();
        let reading =
            syntaxes.get("a1111").unwrap().read(&format!("{} <fox>", "a ".repeat(73)), &tokenizer).unwrap();
        assert_eq!(reading.chunks[1].ids[1..4], [610, 611, 612]);
    }
    let plain = open(&[]).unwrap().identity().unwrap();
    let identities = [checkpoint.identity().unwrap(), open(&[&golden("fox")]).unwrap().identity().unwrap()];
    assert!(identities.iter().all(|identity| *identity != plain) && identities[0] != identities[1]);
}

/// Writes tensors of these names and shapes.
fn file(folder: &Path, name: &str, tensors: &[(&str, &[usize])], value: f32) -> String {
    let path: PathBuf = folder.join(name);
    let of = |(name, shape): &(&str, &[usize])| {
        ((*name).to_string(), (shape.to_vec(), vec![value; shape.iter().product()]))
    };
    write_tensors(&path, &tensors.iter().map(of).collect(), Dtype::F32);
    path.display().to_string()
}

#[test]
fn other_files_are_no_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, tensors: &[(&str, &[usize])]| file(folder.path(), name, tensors, 0.5);
    let raw = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let whole = std::fs::read(golden("fox")).unwrap();
    let unet = fixtures().join("tiny-a/unet/diffusion_pytorch_model.safetensors").display().to_string();
    let expected = "expected a textual inversion for SD-XL, clip_l [n, 16] and clip_g [n, 24]";
    let is = |what: &str| format!("is {what}: {expected}");
    for (file, message) in [
        (
            made("one", &[("emb_params", &[4, 768])]),
            is("a textual inversion for Stable Diffusion 1 (\"emb_params\" of 768 channels)"),
        ),
        (
            made("two", &[("emb_params", &[4, 1024])]),
            is("a textual inversion for Stable Diffusion 2 (\"emb_params\" of 1024 channels)"),
        ),
        (
            made("half", &[("clip_g", &[4, 24])]),
            is("a textual inversion for one text encoder (clip_g alone)"),
        ),
        (
            made(
                "lora",
                &[("lora_unet_a.lora_down.weight", &[4, 2]), ("lora_unet_a.lora_up.weight", &[2, 4])],
            ),
            is("a LoRA"),
        ),
        (
            made("whole", &[("conditioner.embedders.0.a", &[1]), ("model.diffusion_model.b", &[1])]),
            is("an SD-XL checkpoint"),
        ),
        (unet, is("a lone U-Net")),
        (made("other", &[("a", &[2]), ("b", &[2])]), is("a file with 2 tensors such as \"a\"")),
        (
            made("wide", &[("clip_l", &[4, 768]), ("clip_g", &[4, 1280])]),
            "clip_l: expected shape [n, 16], got [4, 768]".into(),
        ),
        (
            made("odd", &[("clip_l", &[4, 16]), ("clip_g", &[3, 24])]),
            "clip_g: expected 4 vectors, as clip_l has, got 3".into(),
        ),
        (
            file(folder.path(), "nan", &[("clip_l", &[1, 16]), ("clip_g", &[1, 24])], f32::NAN),
            "clip_l: holds values that are not finite".into(),
        ),
        (
            raw("a.pt", b"PK\x03\x04\0\0\0\0\0\0"),
            "is a zip archive, as PyTorch writes them: only safetensors are read".into(),
        ),
        (raw("b.pt", b"\x80\x02}q\0\0\0\0\0"), "is a pickle of PyTorch: only safetensors are read".into()),
        (
            raw("cut", &whole[..whole.len() - 9]),
            "is truncated or lies: the header promises another size than the file has".into(),
        ),
        (folder.path().join("none").display().to_string(), "No such file".into()),
        (
            made("long", &[("clip_l", &[80, 16]), ("clip_g", &[80, 24])]),
            "embedding \"long\": expected 1 to 75 vectors, got 80".into(),
        ),
    ] {
        let error = open(&[&file]).and_then(|checkpoint| checkpoint.tokenizers().map(drop)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(&message) && !error.contains('\n'), "expected {message:?} in: {error}");
    }
}

#[test]
fn words_are_new() {
    let fox = golden("fox");
    let words = |words: &[&str]| {
        let files: Vec<String> = words.iter().map(|word| format!("{fox}:{word}")).collect();
        open(&files.iter().map(String::as_str).collect::<Vec<_>>())?.tokenizers().map(drop)
    };
    assert!(words(&["one", "another"]).is_ok());
    for (named, message) in [
        (&["fox", "fox"][..], "embedding \"fox\": expected another word: the tokenizer has a token \"fox\""),
        (&["a"], "the tokenizer has a token \"a\""),
        (
            &["fox", "fox_3"],
            "embedding \"fox_3\": expected another word: this one would be a vector of \"fox\"",
        ),
        (&["fox_3", "fox"], "embedding \"fox\": expected another word: the tokenizer has a token \"fox_3\""),
        (&[" fox"], "expected a word to stand for it, got \" fox\""),
    ] {
        let error = words(named).unwrap_err().to_string();
        assert!(error.contains(message), "{named:?}: {error}");
    }
}

/// A word without its embedding is read as letters.
#[test]
fn vectors_take_the_place_of_tokens() {
    let embedding: EmbeddingFile = format!("{}:fox", golden("fox")).parse().unwrap();
    let options = OpenOptions { embeddings: vec![embedding], ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(fixtures().join("tiny-a"), options).unwrap();
    let with: Pipeline<Reference32> = Pipeline::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let encode = |pipeline: &Pipeline<Reference32>, prompt: &str| {
        let embeddings = pipeline.encode(&[prompt.to_string()], &TextOptions::default()).unwrap().0;
        embeddings.tokens.to_f32().unwrap()
    };
    let without = tiny();
    assert_eq!(encode(&with, "a cat"), encode(&without, "a cat"));
    assert!(relative_l2(&encode(&with, "a fox"), &encode(&without, "a fox")) > 1e-2);
}
