//! Pruning combined with few-step sampling, image to image, samplers with two evaluations per step, and samplers of other
//! crates. τ is counted in steps of the full schedule.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitCode;

use atedm_core::plugin::{BuildContext, MaskRecorder, Registry};
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_core::{DType, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{Decoding, InitialLatents, Output, Pipeline, Proceed, Request};
use atedm_sdxl::rng::NoiseSource;
use atedm_sdxl::schedulers::{Sampler, SamplerRegistry};
use common::{fail, read_png, succeed, tiny};
use serde_json::{Value, json};

/// Blocks of the tiny U-Net by level, and how many of them the prune-less schedule spares.
const BLOCKS: [(u64, u64, u64); 2] = [(1, 5, 2), (2, 6, 2)];

/// Four steps of LCM: τ spares the edges of the stages in this many of the four.
#[test]
fn few_steps_of_lcm_are_pruned_by_the_schedule() {
    let work = tempfile::tempdir().unwrap();
    let text = "steps = 4\nscheduler = \"lcm\"\nguidance_scale = 1\nwidth = 128\nheight = 128\n\
        [prompts]\nfox = \"a red fox\"\n\
        [[grid]]\nmethod = \"at-edm\"\noptions = { ratio = 0.5 }\neach = { tau = [0, 2, 4, \"75%\"] }\n\
        [[grid]]\nmethod = \"tome-c\"\noptions = { schedule = \"prune-less\", tau = 2 }\n";
    fs::write(work.path().join("lcm.toml"), text).unwrap();
    let model = tiny().to_str().unwrap();
    succeed(work.path(), &["ablate", "lcm.toml", "--model", model, "--output", "run", "--quiet"]);
    let lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |label: &str| records.iter().find(|record| record["label"] == label).unwrap();
    for (label, tau) in [("at-edm tau=0", 0), ("at-edm tau=2", 2), ("at-edm tau=4", 4), ("at-edm tau=75%", 3)]
    {
        let record = of(label);
        assert_eq!(
            (&record["flops"]["evaluations"], &record["settings"]["scheduler"]),
            (&json!(4), &json!("lcm"))
        );
        for (tokens, (level, blocks, spared)) in record["tokens"].as_array().unwrap().iter().zip(BLOCKS) {
            assert_eq!(
                (&tokens["level"], &tokens["decisions"]),
                (&json!(level), &json!(4 * blocks - tau * spared)),
                "{label}"
            );
        }
        let tflop = |record: &Value| record["flops"]["mean_tflop"].as_f64().unwrap();
        assert!(tflop(record) < tflop(of("none")));
        assert!(record["distances"]["latent_l2_relative"].as_f64().unwrap() > 0.0);
    }
    // half of four steps is two: the same run under another label
    fs::write(work.path().join("twice.toml"), text.replace("75%", "50%")).unwrap();
    let said = fail(work.path(), &["ablate", "twice.toml", "--model", model, "--output", "twice"], 2);
    assert!(said.contains("at-edm tau=2") && said.contains("at-edm tau=50%"), "{said}");
    assert_ne!(of("at-edm tau=0")["distances"], of("at-edm tau=2")["distances"]);
    // Token merging works in each layer of a block: 2 at level 1, 3 at level 2.
    for (tokens, (_, blocks, spared)) in of("tome-c")["tokens"].as_array().unwrap().iter().zip(BLOCKS) {
        let layers = tokens["level"].as_u64().unwrap() + 1;
        assert_eq!(tokens["decisions"], json!(layers * (4 * blocks - 2 * spared)));
    }
}

/// The same with flags: of six steps, the last three run on a picture. τ = 4 spares the edges of stages in the first of
/// them.
#[test]
fn the_program_starts_from_a_picture() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let made = |output: &str, more: &[&str]| {
        let args = [
            "generate", "--model", model, "--prompt", "a fox", "--steps", "6", "--quiet", "--output", output,
        ];
        succeed(work.path(), &[&args[..], &["--width", "64", "--height", "64"], more].concat());
        read_png(&work.path().join(output))
    };
    let first = made("first.png", &[]);
    let from_it = ["--init-image", "first.png", "--strength", "0.5"];
    let whole = made("whole.png", &from_it);
    let pruning = ["--prune", "at-edm", "--prune-opt", "ratio=0.5,tau=4", "--masks-out", "m.safetensors"];
    let pruned = made("pruned.png", &[&from_it[..], &pruning].concat());
    assert!(first.pixels != whole.pixels && whole.pixels != pruned.pixels);
    assert!(
        whole.chunks.iter().any(|(_, text)| text.contains("Denoising strength: 0.5, ")),
        "{:?}",
        whole.chunks
    );
    let bytes = fs::read(work.path().join("m.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let steps: BTreeSet<&str> = file.names().iter().map(|name| name.split('.').nth(1).unwrap()).collect();
    assert_eq!(steps, ["3", "4", "5"].into());
    let has = |name: &str| file.tensor(name).is_ok();
    assert!(
        !has("step.3.down.1.0.layer.0.kept")
            && has("step.4.down.1.0.layer.0.kept")
            && has("step.3.mid.0.layer.0.kept")
    );
    let table =
        ["compare", "--model", model, "--prompt", "a fox", "--steps", "6", "--width", "64", "--height", "64"];
    let compared =
        [&table[..], &from_it, &["--methods", "at-edm:ratio=0.5,tau=4", "--output", "s.png", "--cell", "64"]]
            .concat();
    succeed(work.path(), &compared);
    let sheet = read_png(&work.path().join("s.png"));
    for picture in [&whole, &pruned] {
        let row = &picture.pixels[..64 * 3];
        assert!(sheet.pixels.windows(row.len()).step_by(3).any(|window| window == row), "not on the sheet");
    }

    let refused = |more: &[&str], code: i32, named: &str| {
        let args = ["generate", "--model", model, "--prompt", "a fox", "--steps", "6", "--output", "no.png"];
        let message = fail(work.path(), &[&args[..], more].concat(), code);
        assert!(message.contains(named), "{message}");
    };
    let small = ["--width", "64", "--height", "64"];
    for strength in ["0.1", "1.5", "-1"] {
        refused(
            &[&small[..], &["--init-image", "first.png", "--strength", strength]].concat(),
            2,
            "--strength: expected a share of 6 steps",
        );
    }
    refused(&[&small[..], &["--init-image", "m.safetensors"]].concat(), 1, "m.safetensors: expected a PNG");
    refused(&["--strength", "0.5"], 2, "--init-image");
}

/// The results of a run, and the blocks that were pruned at each step.
struct Run {
    output: Output<NdTensor>,
    pruned: BTreeMap<usize, BTreeSet<String>>,
}

fn run(pipeline: &Pipeline<Reference32>, request: &Request<NdTensor>, method: &str, options: Value) -> Run {
    let recorder = MaskRecorder::shared();
    let context = BuildContext::<NdTensor> { observer: Some(recorder.clone()), ..BuildContext::default() };
    let registry = Registry::<NdTensor>::with_builtins();
    let mut reducer = registry.build(method, &options, &context).unwrap();
    let output = pipeline.generate(request, reducer.as_mut(), &mut |_| Proceed::Continue(())).unwrap();
    let mut pruned: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (key, _) in recorder.lock().unwrap().masks().iter() {
        pruned.entry(key.step).or_default().insert(key.block.clone());
    }
    Run { output, pruned }
}

/// A picture is encoded, brought to the noise of step 3 of 6, and denoised from there.
#[test]
fn image_to_image_counts_tau_in_the_full_schedule() {
    let checkpoint = Checkpoint::open(tiny(), OpenOptions::default()).unwrap();
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let picture: Vec<f32> = (0..3 * 64 * 64)
        .map(|i| ((i % 64) as f32 / 32.0 - 1.0) * if i / 4096 == 1 { -1.0 } else { 1.0 })
        .collect();
    let picture = NdTensor::from_f32(&picture, &[1, 3, 64, 64], DType::F32, &NdDevice).unwrap();
    let vae = pipeline.vae();
    let latents = vae.scale(&vae.encode(&picture).unwrap()).unwrap();
    assert_eq!(latents.shape(), [1, 4, 8, 8]);
    for scheduler in ["euler", "lcm"] {
        let mut request = Request::new(["a red fox"]);
        request.steps = 6;
        (request.width, request.height) = (Some(64), Some(64));
        request.scheduler = Some(scheduler.into());
        request.decoding = Decoding::Skip;
        request.initial = InitialLatents::Clean { latents: latents.clone(), start: 3 };
        let whole = run(&pipeline, &request, "none", json!({}));
        let steps: Vec<usize> = whole.output.costs.iter().map(|cost| cost.step).collect();
        assert_eq!(steps, [3, 4, 5]);

        // τ = 4: of the steps that run, only step 3 prunes less; if τ were counted from the start, steps 4 and 5 would
        // too
        let pruned = run(&pipeline, &request, "at-edm", json!({"ratio": 0.5, "tau": 4}));
        let spared = ["down.1.0", "down.2.0", "up.0.2", "up.1.2"];
        let at = |run: &Run, step: usize| spared.map(|block| run.pruned[&step].contains(block));
        assert_eq!(
            [3, 4, 5].map(|step| at(&pruned, step)),
            [[false; 4], [true; 4], [true; 4]],
            "{scheduler}"
        );
        assert!(pruned.pruned[&3].contains("mid.0"));
        let macs = |run: &Run| run.output.costs.iter().map(|cost| cost.macs.total()).collect::<Vec<u64>>();
        let [whole_macs, pruned_macs] = [macs(&whole), macs(&pruned)];
        assert!(
            pruned_macs[0] < whole_macs[0]
                && pruned_macs[1] < pruned_macs[0]
                && pruned_macs[1] == pruned_macs[2]
        );
        // the share of six steps that equals four
        let share = run(&pipeline, &request, "at-edm", json!({"ratio": 0.5, "tau": "67%"}));
        assert_eq!(share.pruned, pruned.pruned);
        assert_eq!(share.output.latents.to_f32().unwrap(), pruned.output.latents.to_f32().unwrap());
        assert_ne!(pruned.output.latents.to_f32().unwrap(), whole.output.latents.to_f32().unwrap());
        let nothing = run(&pipeline, &request, "at-edm", json!({"ratio": 0.0}));
        assert_eq!(nothing.output.latents.to_f32().unwrap(), whole.output.latents.to_f32().unwrap());
    }
}

/// Heun evaluates the U-Net twice a step. τ counts steps, and so do methods of reuse.
#[test]
fn schedules_and_reuse_count_steps_under_heun() {
    let checkpoint = Checkpoint::open(tiny(), OpenOptions::default()).unwrap();
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let mut request = Request::new(["a red fox"]);
    (request.steps, request.scheduler) = (4, Some("heun".into()));
    (request.width, request.height) = (Some(64), Some(64));
    request.decoding = Decoding::Skip;
    let costs = |run: &Run| -> Vec<(usize, u64)> {
        run.output.costs.iter().map(|cost| (cost.step, cost.macs.total())).collect()
    };
    let pruned = run(&pipeline, &request, "at-edm", json!({"ratio": 0.5, "tau": 2}));
    let macs = costs(&pruned);
    let steps: Vec<usize> = macs.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 0, 1, 1, 2, 2, 3]);
    let (early, late) = (macs[0].1, macs[6].1);
    assert!(late < early);
    let expected = [early, early, early, early, late, late, late];
    assert_eq!(macs.iter().map(|(_, macs)| *macs).collect::<Vec<_>>(), expected);

    // every second step runs whole, both of its evaluations
    let registry = atedm_experiment::extension::registry::<NdTensor>(&()).unwrap();
    let options = json!({"cache_interval": 2});
    let mut deepcache = registry.build("deepcache", &options, &BuildContext::default()).unwrap();
    let output = pipeline.generate(&request, deepcache.as_mut(), &mut |_| Proceed::Continue(())).unwrap();
    let macs: Vec<u64> = output.costs.iter().map(|cost| cost.macs.total()).collect();
    let (whole, cached) = (macs[0], macs[2]);
    assert!(cached < whole);
    assert_eq!(macs, [whole, whole, cached, cached, whole, whole, cached]);
}

// ANCHOR: sampler
/// A sampler of another crate: it halves the latents in every step.
struct Halving {
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

impl<T: Tensor> Sampler<T> for Halving {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    fn step(&mut self, _: &T, _: usize, sample: &T, _: &mut dyn NoiseSource) -> atedm_core::Result<T> {
        sample.affine(0.5, 0.0)
    }

    fn add_noise(&self, clean: &T, _: &T, _: usize) -> atedm_core::Result<T> {
        Ok(clean.clone())
    }
}

struct Mine;

impl atedm::Extension for Mine {
    fn samplers<T: Tensor>(&self, samplers: &mut SamplerRegistry<T>) -> atedm_core::Result<()> {
        samplers.register("halving", |_, steps| {
            let timesteps = (0..steps).rev().map(|step| step as f64).collect();
            Ok(Box::new(Halving { timesteps, sigmas: vec![1.0; steps + 1] }))
        })
    }
}
// ANCHOR_END: sampler

/// By flags and in a configuration, and the picture says so.
#[test]
fn samplers_of_others_work_in_the_program() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name).to_str().unwrap().to_string();
    let model = tiny().to_str().unwrap();
    let run = |args: &[&str]| atedm::run_with([&["atedm"], args].concat(), Mine);
    let picture = at("o.png");
    let generate = [
        "generate",
        "--model",
        model,
        "--prompt",
        "a fox",
        "--width",
        "64",
        "--height",
        "64",
        "--steps",
        "3",
        "--quiet",
        "--output",
        &picture,
        "--scheduler",
        "halving",
        "--prune",
        "at-edm",
    ];
    assert_eq!(run(&generate), ExitCode::SUCCESS);
    let chunks = read_png(&work.path().join("o.png")).chunks;
    assert!(chunks.iter().any(|(_, text)| text.contains("Sampler: halving, ")), "{chunks:?}");

    let (config, output) = (at("c.toml"), at("run"));
    let text = "steps = 2\nwidth = 64\nheight = 64\n[prompts]\nfox = \"a fox\"\n[[grid]]\nmethod = \"none\"\n\
        each = { scheduler = [\"halving\", \"heun\"] }\n\
        [[grid]]\nmethod = \"at-edm\"\nscheduler = \"heun\"\noptions = { ratio = 0.5, tau = 1 }\n";
    fs::write(&config, text).unwrap();
    assert_eq!(
        run(&["ablate", &config, "--model", model, "--output", &output, "--quiet"]),
        ExitCode::SUCCESS
    );
    let lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let made: Vec<_> = records
        .iter()
        .map(|record| (&record["settings"]["scheduler"], &record["flops"]["evaluations"]))
        .collect();
    assert_eq!(
        made,
        [(&json!("heun"), &json!(3)), (&json!("halving"), &json!(2)), (&json!("heun"), &json!(3))]
    );
    // what was planned is what ran: two evaluations of the early step, one of the late
    let run: Value = serde_json::from_slice(&fs::read(work.path().join("run/run.json")).unwrap()).unwrap();
    let planned = run["points"][2]["planned_tflop"].as_f64().unwrap();
    let ran = records[2]["flops"]["mean_tflop"].as_f64().unwrap();
    assert!(ran < records[0]["flops"]["mean_tflop"].as_f64().unwrap());
    assert!((planned / ran - 1.0).abs() < 1e-9, "planned {planned}, ran {ran}");

    let said = fail(work.path(), &["ablate", "c.toml", "--model", model, "--plan"], 2);
    assert!(said.contains("c.toml: none scheduler=halving: scheduler: expected one of ddim, "), "{said}");
}
