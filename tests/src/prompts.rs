//! Golden runs of weighted and long prompts, of left out layers and of textual inversions. `tests/python/prompts.py` makes them.

use std::collections::HashMap;

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{LATENTS, PRUNED_LATENTS, assert_relative_l2};
use atedm_core::{Backend, DType, DeviceOf};
use atedm_sdxl::checkpoint::{Checkpoint, EmbeddingFile, OpenOptions};
use atedm_sdxl::pipeline::Pipeline;
use serde_json::Value;

use crate::golden::{Golden, fixtures, request, run};

/// Runs the cases of `fixtures/prompts` whose names contain `filter`, in f32. Compares the embeddings of the prompts, and final
/// latents.
///
/// # Panics
/// When one differs, or when there is no such case.
pub fn assert_prompts<B: Backend>(device: &DeviceOf<B>, filter: &str) {
    let golden = Golden::open("prompts/runs.safetensors");
    let text = std::fs::read_to_string(fixtures().join("prompts/runs.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut pipelines: HashMap<String, Pipeline<B>> = HashMap::new();
    let named = |case: &&Value| case["name"].as_str().expect("a name").contains(filter);
    let chosen: Vec<&Value> = cases.iter().filter(named).collect();
    assert!(!chosen.is_empty(), "no case is called {filter}");
    for case in chosen {
        let name = case["name"].as_str().expect("a name");
        let what = format!("{name}, {}", B::NAME);
        let key = format!("{} {}", case["model"], case["words"]);
        let pipeline = pipelines.entry(key).or_insert_with(|| load(case, device));
        assert_embeddings(pipeline, case, &golden, &what);
        let (output, masks) = run(pipeline, case, &golden);
        let pruned = case["prune"].is_string();
        assert!(pruned != masks.is_empty(), "{what}: {} prunings", masks.len());
        let allowed = if pruned { PRUNED_LATENTS } else { LATENTS };
        let latents = Array::read(&output.latents).unwrap();
        assert_relative_l2(&latents, &golden.array(&format!("{name}.final_latents")), allowed, &what);
    }
}

fn load<B: Backend>(case: &Value, device: &DeviceOf<B>) -> Pipeline<B> {
    let words = case["words"].as_array().map_or(&[][..], Vec::as_slice);
    let embeddings = words.iter().map(|embedding| EmbeddingFile {
        path: fixtures().join("prompts").join(embedding["file"].as_str().expect("a file")),
        word: embedding["word"].as_str().map(str::to_string),
    });
    let options = OpenOptions { embeddings: embeddings.collect(), ..OpenOptions::default() };
    let model = case["model"].as_str().expect("a model");
    let checkpoint = Checkpoint::open(fixtures().join(model), options).unwrap();
    Pipeline::load(&checkpoint, DType::F32, device).unwrap()
}

/// The prompts' embeddings, for the cases whose file has them.
fn assert_embeddings<B: Backend>(pipeline: &Pipeline<B>, case: &Value, golden: &Golden, what: &str) {
    let name = case["name"].as_str().expect("a name");
    if !golden.has(&format!("{name}.tokens")) {
        return;
    }
    let prompts: Vec<String> = serde_json::from_value(case["prompts"].clone()).expect("prompts");
    let (got, cut) = pipeline.encode(&prompts, &request::<B::Tensor>(case, None).text).unwrap();
    assert!(cut.is_empty(), "{what}: {cut:?}");
    for (part, got) in [("tokens", got.tokens), ("pooled", got.pooled)] {
        let expected = golden.array(&format!("{name}.{part}"));
        assert_relative_l2(&Array::read(&got).unwrap(), &expected, LATENTS, &format!("{what}: {part}"));
    }
}
