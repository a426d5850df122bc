//! Golden files made by diffusers and by the references next to it. `tests/fixtures/README.md` describes them.

use std::path::PathBuf;

use atedm_core::at_edm::{AtEdmConfig, Parts};
use atedm_core::plugin::{BuildContext, MaskKey, MaskRecorder, MaskSet, TokenReducer, Unpruned};
use atedm_core::{Backend, DType, DeviceOf, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, Lora, OpenOptions};
use atedm_sdxl::pipeline::{Conditioning, InitialLatents, Output, Pipeline, Proceed, Request, StepReport};
use atedm_sdxl::prompt::{PLAIN, TextOptions};
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{LATENTS, PIXEL_STEPS, PRUNED_LATENTS, assert_relative_l2};

/// The folder of golden files.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A golden safetensors file in memory.
#[derive(Debug)]
pub struct Golden(Vec<u8>);

impl Golden {
    /// Reads `fixtures/NAME`.
    ///
    /// # Panics
    /// When there is none.
    pub fn open(name: &str) -> Self {
        let path = fixtures().join(name);
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn raw(&self, name: &str, dtype: safetensors::Dtype) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.dtype(), dtype, "{name}");
        (view.shape().to_vec(), view.data().to_vec())
    }

    /// Whether there is a tensor of this name.
    ///
    /// # Panics
    /// When the file is no safetensors file.
    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).expect("a safetensors file").tensor(name).is_ok()
    }

    /// An f32 tensor.
    pub fn array(&self, name: &str) -> Array {
        let (shape, bytes) = self.raw(name, safetensors::Dtype::F32);
        let word = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Array::new(&shape, bytes.chunks_exact(4).map(word).collect())
    }

    /// A u32 tensor `[rows, n]`.
    pub fn indices(&self, name: &str) -> Vec<Vec<u32>> {
        let (shape, bytes) = self.raw(name, safetensors::Dtype::U32);
        let words: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        words.chunks(shape[1]).map(<[u32]>::to_vec).collect()
    }

    /// A u8 tensor `[pictures, height, width, 3]`, as one vector for each picture.
    pub fn pictures(&self, name: &str) -> Vec<Vec<u8>> {
        let (shape, bytes) = self.raw(name, safetensors::Dtype::U8);
        bytes.chunks(shape[1..].iter().product()).map(<[u8]>::to_vec).collect()
    }
}

/// Parses `key=value,…` as the program does.
///
/// # Panics
/// When a pair has no `=`.
pub fn options(text: &str) -> Map<String, Value> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').expect("key=value");
        (key.to_string(), serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)))
    };
    text.split(',').filter(|text| !text.is_empty()).map(pair).collect()
}

/// Our name for diffusers' name of a block: `down_blocks.1.attentions.0` is `down.1.0`.
fn block_name(theirs: &str) -> String {
    let numbers: Vec<&str> = theirs.split('.').filter(|part| part.parse::<usize>().is_ok()).collect();
    let stage = theirs.split("_block").next().expect("a stage");
    format!("{stage}.{}", numbers.join("."))
}

/// Runs every end-to-end case of `fixtures/CHECKPOINT` in f32. Compares final latents, pictures and kept sets.
///
/// # Panics
/// When one differs.
pub fn assert_parity<B: Backend>(checkpoint: &str, device: &DeviceOf<B>) {
    let opened = Checkpoint::open(fixtures().join(checkpoint), OpenOptions::default()).unwrap();
    let pipeline = Pipeline::<B>::load(&opened, DType::F32, device).unwrap();
    let folder = format!("{checkpoint}-expected");
    let golden = Golden::open(&format!("{folder}/end_to_end.safetensors"));
    let text = std::fs::read_to_string(fixtures().join(&folder).join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.iter().filter(|case| case["prune"].is_string()).count() >= 4);
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let what = format!("{checkpoint}, {name}, {}", B::NAME);
        let (output, masks) = run(&pipeline, &case, &golden);
        let latents = Array::read(&output.latents).unwrap();
        let allowed = if case["prune"].is_string() { PRUNED_LATENTS } else { LATENTS };
        assert_kept(&case, &masks, &golden, &what);
        assert_relative_l2(&latents, &golden.array(&format!("{name}.final_latents")), allowed, &what);
        let images = output.images.expect("decoded");
        for (i, expected) in golden.pictures(&format!("{name}.images")).iter().enumerate() {
            let picture = images.rgb8(i).expect("as many pictures");
            assert_eq!(picture.len(), expected.len(), "{what}");
            let worst = picture.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
            assert!(worst <= PIXEL_STEPS, "{what}: picture {i} is off by {worst}/255");
        }
    }
}

/// The request of a case, from these standard normal latents, or from those of its seed.
///
/// # Panics
/// When the case lacks a field.
pub fn request<T: Tensor>(case: &Value, latents: Option<T>) -> Request<T> {
    let number = |name: &str| case[name].as_u64().expect("a count") as usize;
    let prompts: Vec<String> = serde_json::from_value(case["prompts"].clone()).expect("prompts");
    let negative = case["negative_prompt"].as_str().map(|text| vec![text.to_string(); prompts.len()]);
    let text = TextOptions {
        syntax: case["syntax"].as_str().unwrap_or(PLAIN).to_string(),
        clip_skip: case["clip_skip"].as_u64().unwrap_or(0) as usize,
    };
    Request {
        conditioning: Conditioning::Prompts { prompts, negative },
        text,
        steps: number("steps"),
        guidance_scale: case["guidance_scale"].as_f64().expect("a scale"),
        width: Some(number("width")),
        height: Some(number("height")),
        scheduler: case["scheduler"].as_str().map(str::to_string),
        seed: case["seed"].as_u64().unwrap_or(0),
        initial: latents.map_or(InitialLatents::Drawn, InitialLatents::Noise),
        ..Request::new([""])
    }
}

/// The LoRAs of a case of `fixtures/lora`.
///
/// # Panics
/// When the case lacks a field.
pub fn loras(case: &Value) -> Vec<Lora> {
    let lora = |lora: &Value| Lora {
        path: fixtures().join(format!("lora/{}.safetensors", lora[0].as_str().expect("a name"))),
        scale: lora[1].as_f64().expect("a scale"),
        clip_scale: lora[2].as_f64(),
    };
    case["loras"].as_array().expect("LoRAs").iter().map(lora).collect()
}

/// Runs every case of `fixtures/lora` in f32. Compares final latents, unpruned and pruned, with those of diffusers.
///
/// # Panics
/// When one differs.
pub fn assert_loras<B: Backend>(device: &DeviceOf<B>) {
    let golden = Golden::open("lora/expected.safetensors");
    let text = std::fs::read_to_string(fixtures().join("lora/cases.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let mut runs = 0;
    for case in file["cases"].as_array().expect("cases") {
        let options = OpenOptions { loras: loras(case), ..OpenOptions::default() };
        let opened = Checkpoint::open(fixtures().join("tiny-a"), options).unwrap();
        let pipeline = Pipeline::<B>::load(&opened, DType::F32, device).unwrap();
        for (kind, allowed) in [("whole", LATENTS), ("pruned", PRUNED_LATENTS)] {
            let name = format!("{}.{kind}", case["name"].as_str().expect("a name"));
            if !golden.has(&name) {
                continue;
            }
            let run = &file[kind];
            let (output, _) = generate(&pipeline, &request(run, None), run["prune"].as_str());
            let latents = Array::read(&output.latents).unwrap();
            assert_relative_l2(&latents, &golden.array(&name), allowed, &format!("{name}, {}", B::NAME));
            runs += 1;
        }
    }
    assert!(runs >= 12, "{runs} runs");
}

/// Runs a case. Returns its output and what it pruned.
pub(crate) fn run<B: Backend>(
    pipeline: &Pipeline<B>,
    case: &Value,
    golden: &Golden,
) -> (Output<B::Tensor>, MaskSet) {
    let latents = golden.array(&format!("{}.latents", case["name"].as_str().expect("a name")));
    let request = request(case, Some(latents.upload(DType::F32, pipeline.device()).unwrap()));
    generate(pipeline, &request, case["prune"].as_str())
}

/// A run, pruned with these options of AT-EDM if there are any, and its kept sets.
fn generate<B: Backend>(
    pipeline: &Pipeline<B>,
    request: &Request<B::Tensor>,
    prune: Option<&str>,
) -> (Output<B::Tensor>, MaskSet) {
    let recorder = MaskRecorder::shared();
    let mut reducer: Box<dyn TokenReducer<B::Tensor>> = match prune {
        None => Box::new(Unpruned),
        Some(text) => {
            let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
            let config = AtEdmConfig::from_options("at-edm", &options(text)).unwrap();
            Box::new(config.build(&context, &Parts::with_builtins()).unwrap())
        }
    };
    let mut go_on = |_: &StepReport<'_, B::Tensor>| Proceed::Continue(());
    let output = pipeline.generate(request, &mut *reducer, &mut go_on).unwrap();
    let masks = recorder.lock().expect("nobody panicked").take();
    (output, masks)
}

/// The kept sets of every pruning, index by index.
fn assert_kept(case: &Value, masks: &MaskSet, golden: &Golden, what: &str) {
    let prunings = case["prunings"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(masks.len(), prunings.len(), "{what}: prunings");
    for pruning in prunings {
        let at = |field: &str| pruning[field].as_u64().expect("a number") as usize;
        let path = pruning["name"].as_str().expect("a name");
        let block = block_name(pruning["block"].as_str().expect("a block"));
        let key = MaskKey { step: at("step"), evaluation: at("step"), block, layer: at("layer") };
        let entry = masks.get(&key).unwrap_or_else(|| panic!("{what}: nothing pruned at {key}"));
        let case = case["name"].as_str().expect("a name");
        assert_eq!(entry.kept, golden.indices(&format!("{case}.{path}.kept")), "{what}: kept at {key}");
    }
}
