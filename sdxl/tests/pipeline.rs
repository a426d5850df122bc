//! Compares text to image with diffusers on the same checkpoints, and checks what the pipeline refuses.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pipeline_support;

use std::path::Path;

use atedm_conformance::tolerance::relative_l2;
use atedm_core::plugin::{
    Action, Branch, BuildContext, Event, Registry, Row, Run, Site, Step, TokenReducer, Unpruned,
};
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_core::{DType, Error, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{
    Conditioning, Decoding, InitialLatents, Output, Pipeline, Proceed, Request, StepReport,
};
use atedm_sdxl::prompt::TextOptions;
use atedm_sdxl::rng::{RngKind, TorchRng};
use pipeline_support::{BYTES, Golden, LATENTS, PRUNED_LATENTS, fixtures, json, tensor};
use serde_json::{Map, Value};

type Images = Pipeline<Reference32>;

fn load(folder: impl AsRef<Path>) -> Images {
    let checkpoint = Checkpoint::open(folder, OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, DType::F32, &NdDevice).unwrap()
}

fn tiny() -> Images {
    load(fixtures().join("tiny-a"))
}

fn go_on(_: &StepReport<'_, NdTensor>) -> Proceed {
    Proceed::Continue(())
}

fn generate(pipeline: &Images, request: &Request<NdTensor>) -> atedm_core::Result<Output<NdTensor>> {
    pipeline.generate(request, &mut Unpruned, &mut go_on)
}

/// A short run on the tiny checkpoint.
fn short(prompt: &str) -> Request<NdTensor> {
    let mut request = Request::new([prompt]);
    (request.steps, request.width, request.height) = (2, Some(32), Some(32));
    request.decoding = Decoding::Skip;
    request
}

fn with_negative(request: &mut Request<NdTensor>, text: &str) {
    if let Conditioning::Prompts { negative, .. } = &mut request.conditioning {
        *negative = Some(vec![text.to_string()]);
    }
}

/// `key=value,…` as options of a method.
fn options(text: &str) -> Value {
    let mut table = Map::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap();
        let value = match key {
            "prune_layers" => value.split('+').map(|layer| layer.parse::<u64>().unwrap()).collect(),
            _ => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
        };
        table.insert(key.to_string(), value);
    }
    Value::Object(table)
}

fn request_of(case: &Value) -> Request<NdTensor> {
    let number = |name: &str| case[name].as_u64().map(|n| n as usize);
    let prompts: Vec<String> = serde_json::from_value(case["prompts"].clone()).unwrap();
    let mut request = Request::new(prompts);
    request.steps = number("steps").unwrap();
    request.guidance_scale = case["guidance_scale"].as_f64().unwrap();
    (request.width, request.height) = (number("width"), number("height"));
    request.scheduler = case["scheduler"].as_str().map(str::to_string);
    if let Some(text) = case["negative_prompt"].as_str() {
        with_negative(&mut request, text);
    }
    request
}

/// Runs every case of a checkpoint's golden file. Returns the largest distances without and with pruning.
fn compare_with_diffusers(name: &str) -> (f64, f64) {
    let trained = tempfile::tempdir().unwrap();
    let pipeline = load(match name {
        "atedm-shapes" => {
            atedm_shapes::write(trained.path()).unwrap();
            trained.path().to_path_buf()
        }
        _ => fixtures().join(name),
    });
    let folder = fixtures().join(format!("{name}-expected"));
    let golden = Golden::open(folder.join("end_to_end.safetensors"));
    let registry = Registry::<NdTensor>::with_builtins();
    let (mut plain, mut pruned) = (0f64, 0f64);
    for case in json(folder.join("cases.json")).as_array().unwrap() {
        let label = case["name"].as_str().unwrap();
        let mut request = request_of(case);
        request.initial = InitialLatents::Noise(golden.tensor(&format!("{label}.latents")));
        let method = case["prune"].as_str();
        let mut reducer: Box<dyn TokenReducer<NdTensor>> = match method {
            Some(text) => registry.build("at-edm", &options(text), &BuildContext::default()).unwrap(),
            None => Box::new(Unpruned),
        };
        let output = pipeline.generate(&request, reducer.as_mut(), &mut go_on).unwrap();
        let expected = golden.f32(&format!("{label}.final_latents"));
        let distance = relative_l2(&output.latents.to_f32().unwrap(), &expected);
        let (worst, limit) =
            if method.is_some() { (&mut pruned, PRUNED_LATENTS) } else { (&mut plain, LATENTS) };
        println!("{name} {label}: relative L2 {distance:.2e}");
        assert!(distance <= limit, "{name} {label}: {distance:e} above {limit:e}");
        *worst = worst.max(distance);

        let images = output.images.unwrap();
        let shape = golden.shape(&format!("{label}.images"));
        assert_eq!([images.count, images.height, images.width, 3], *shape, "{name} {label}");
        let bytes: Vec<u8> = (0..images.count).flat_map(|i| images.rgb8(i).unwrap()).collect();
        let differences =
            bytes.iter().zip(golden.bytes(&format!("{label}.images"))).map(|(a, b)| a.abs_diff(b));
        let most = differences.max().unwrap();
        assert!(most <= BYTES, "{name} {label}: an image byte is off by {most}");
    }
    (plain, pruned)
}

#[test]
fn tiny_a_is_diffusers() {
    let worst = compare_with_diffusers("tiny-a");
    println!("tiny-a: worst relative L2 {:.2e} plain, {:.2e} pruned", worst.0, worst.1);
}

#[test]
fn tiny_b_is_diffusers() {
    let worst = compare_with_diffusers("tiny-b");
    println!("tiny-b: worst relative L2 {:.2e} plain, {:.2e} pruned", worst.0, worst.1);
}

/// The trained model.
#[test]
fn atedm_shapes_is_diffusers() {
    let worst = compare_with_diffusers("atedm-shapes");
    println!("atedm-shapes: worst relative L2 {:.2e} plain, {:.2e} pruned", worst.0, worst.1);
}

/// A seed gives the same latents as the same noise passed in.
#[test]
fn seeds_and_given_noise_agree() {
    let pipeline = tiny();
    let mut request = short("a red circle");
    request.seed = 5;
    let drawn = generate(&pipeline, &request).unwrap().latents.to_f32().unwrap();
    let noise = TorchRng::new(5).randn(4 * 8 * 8);
    request.initial = InitialLatents::Noise(tensor(&noise, &[1, 4, 8, 8]));
    request.seed = 6;
    assert_eq!(generate(&pipeline, &request).unwrap().latents.to_f32().unwrap(), drawn);
}

/// With `chacha`, an image in a batch equals the image alone, up to rounding. With `torch` it differs, as in diffusers.
#[test]
fn chacha_images_stand_alone() {
    let pipeline = tiny();
    let first_of = |rng: RngKind, images: usize| {
        let mut request = short("a red circle");
        (request.rng, request.images_per_prompt) = (rng, images);
        let latents = generate(&pipeline, &request).unwrap().latents;
        let shape = latents.shape();
        assert_eq!(shape, [images, 4, 8, 8]);
        latents.narrow(0, images - 1, 1).unwrap().to_f32().unwrap()
    };
    let mut request = short("a red circle");
    request.rng = RngKind::ChaCha;
    request.conditioning =
        Conditioning::Prompts { prompts: vec!["a red circle".into(), "a cat".into()], negative: None };
    let batch = generate(&pipeline, &request).unwrap().latents.narrow(0, 0, 1).unwrap();
    let alone = first_of(RngKind::ChaCha, 1);
    assert!(relative_l2(&batch.to_f32().unwrap(), &alone) < 1e-5);
    assert!(relative_l2(&first_of(RngKind::ChaCha, 2), &alone) > 1e-2);
}

/// Embeddings give the same result as the prompts that they came from, also negative ones.
#[test]
fn embeddings_stand_for_prompts() {
    let pipeline = tiny();
    let mut request = short("a small cat");
    with_negative(&mut request, "blurry");
    let expected = generate(&pipeline, &request).unwrap().latents.to_f32().unwrap();
    let embed = |text: &str| pipeline.encode(&[text.to_string()], &TextOptions::default()).unwrap().0;
    let negative = Some(embed("blurry"));
    request.conditioning = Conditioning::Embeddings { prompt: embed("a small cat"), negative };
    assert_eq!(generate(&pipeline, &request).unwrap().latents.to_f32().unwrap(), expected);
}

/// A run that stops after a step and continues there ends like the uninterrupted run.
#[test]
fn a_run_can_be_taken_up() {
    let pipeline = tiny();
    let mut request = short("a castle on a hill");
    request.steps = 4;
    let mut states = Vec::new();
    let whole = pipeline
        .generate(&request, &mut Unpruned, &mut |report| {
            assert_eq!((report.index, report.total), (states.len(), 4));
            states.push(report.latents.clone());
            Proceed::Continue(())
        })
        .unwrap();
    request.initial = InitialLatents::Noisy { latents: states[1].clone(), start: 2 };
    let rest = generate(&pipeline, &request).unwrap();
    assert_eq!(rest.latents.to_f32().unwrap(), whole.latents.to_f32().unwrap());
    assert_eq!(rest.costs.iter().map(|cost| cost.step).collect::<Vec<_>>(), [2, 3]);

    // Image to image: the result gets the noise of step 3, and one step removes it.
    request.initial = InitialLatents::Clean { latents: whole.latents.clone(), start: 3 };
    let near = generate(&pipeline, &request).unwrap().latents.to_f32().unwrap();
    assert!(relative_l2(&near, &whole.latents.to_f32().unwrap()) < 1.0);
}

#[test]
fn the_callback_cancels() {
    let pipeline = tiny();
    let mut seen = 0;
    let result = pipeline.generate(&short("a cat"), &mut Unpruned, &mut |_| {
        seen += 1;
        Proceed::Break(())
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(seen, 1);
}

/// Records what a reducer is told about a run.
#[derive(Default)]
struct Diary {
    run: Option<(usize, u64, Vec<Row>)>,
    steps: Vec<Step>,
    ends: Vec<Vec<usize>>,
}

impl TokenReducer<NdTensor> for Diary {
    fn begin_run(&mut self, run: &Run<'_>) -> atedm_core::Result<()> {
        self.run = Some((run.steps, run.seed, run.rows.to_vec()));
        Ok(())
    }
    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> atedm_core::Result<()> {
        assert_eq!(Some(rows), self.run.as_ref().map(|run| run.2.as_slice()));
        self.steps.push(*step);
        Ok(())
    }
    fn on_event(&mut self, site: &Site<'_>, _: Event<'_, NdTensor>) -> atedm_core::Result<Action<NdTensor>> {
        assert_eq!(Some(&site.step), self.steps.last());
        Ok(Action::Continue)
    }
    fn end_step(&mut self, prediction: &NdTensor) -> atedm_core::Result<()> {
        self.ends.push(prediction.shape());
        Ok(())
    }
}

#[test]
fn reducers_are_told_of_every_step() {
    let pipeline = tiny();
    let mut request = short("a cat");
    (request.steps, request.seed, request.images_per_prompt) = (3, 11, 2);
    let mut diary = Diary::default();
    pipeline.generate(&request, &mut diary, &mut go_on).unwrap();
    let (steps, seed, rows) = diary.run.unwrap();
    assert_eq!((steps, seed), (3, 11));
    let expected = [(0, Branch::Uncond), (1, Branch::Uncond), (0, Branch::Cond), (1, Branch::Cond)];
    assert_eq!(rows, expected.map(|(image, branch)| Row { image, branch }));
    let told: Vec<_> = diary.steps.iter().map(|step| (step.index, step.total, step.evaluation)).collect();
    assert_eq!(told, [(0, 3, 0), (1, 3, 1), (2, 3, 2)]);
    assert!(diary.steps.windows(2).all(|pair| pair[0].sigma > pair[1].sigma));
    assert_eq!(diary.ends, vec![vec![4, 4, 8, 8]; 3]);

    // A continued run still counts its steps in the full schedule.
    let latents = tensor(&[0.1; 2 * 4 * 8 * 8], &[2, 4, 8, 8]);
    request.initial = InitialLatents::Noisy { latents, start: 1 };
    request.guidance_scale = 1.0;
    let mut diary = Diary::default();
    pipeline.generate(&request, &mut diary, &mut go_on).unwrap();
    let told: Vec<_> = diary.steps.iter().map(|step| (step.index, step.total, step.evaluation)).collect();
    assert_eq!(told, [(1, 3, 0), (2, 3, 1)]);
    assert_eq!(diary.run.unwrap().2, [0, 1].map(|image| Row { image, branch: Branch::Single }));
}

/// Costs equal the formula, whole and pruned.
#[test]
fn costs_are_what_ran() {
    let pipeline = tiny();
    let grid = atedm_core::plugin::Grid::new(8, 8);
    let whole =
        atedm_sdxl::flops::full(pipeline.unet().config(), grid, pipeline.text_length()).unwrap().sum();
    let plain = generate(&pipeline, &short("a cat")).unwrap();
    assert_eq!(
        plain.costs.iter().map(|cost| (cost.step, cost.rows, cost.macs)).collect::<Vec<_>>(),
        [(0, 2, whole), (1, 2, whole)]
    );
    let registry = Registry::<NdTensor>::with_builtins();
    let mut reducer =
        registry.build("at-edm", &options("ratio=0.5,schedule=constant"), &BuildContext::default()).unwrap();
    let pruned = pipeline.generate(&short("a cat"), reducer.as_mut(), &mut go_on).unwrap();
    assert!(pruned.costs.iter().all(|cost| cost.macs.total() < whole.total()));
}

#[test]
fn cut_prompts_are_reported() {
    let pipeline = tiny();
    let output = generate(&pipeline, &short(&"dogs and cats ".repeat(60))).unwrap();
    assert_eq!(output.cut.iter().map(|cut| cut.encoder).collect::<Vec<_>>(), [1, 2]);
    let text = output.cut[0].to_string();
    assert!(output.cut[0].cut > 0 && text.contains("are cut off"), "{text}");
    assert!(generate(&pipeline, &short("a cat")).unwrap().cut.is_empty());
}

/// A tile that covers everything gives the same image as decoding at once.
#[test]
fn decoding() {
    let pipeline = tiny();
    let mut request = short("a cat");
    request.decoding = Decoding::Whole;
    let whole = generate(&pipeline, &request).unwrap().images.unwrap();
    assert_eq!((whole.count, whole.height, whole.width), (1, 32, 32));
    assert!(whole.values.iter().all(|value| (0.0..=1.0).contains(value)));
    assert_eq!(whole.rgb8(0).unwrap().len(), 32 * 32 * 3);
    assert_eq!(whole.rgb8(1), None);
    request.decoding = Decoding::Tiled(None);
    assert_eq!(generate(&pipeline, &request).unwrap().images.unwrap(), whole);
    request.decoding = Decoding::Skip;
    assert!(generate(&pipeline, &request).unwrap().images.is_none());
}

/// Each bad request gives one line that names the field.
#[test]
fn bad_requests_name_the_field() {
    let pipeline = tiny();
    let noise = |shape: &[usize], value: f32| {
        InitialLatents::Noise(tensor(&vec![value; shape.iter().product()], shape))
    };
    type Change<'a> = &'a dyn Fn(&mut Request<NdTensor>);
    let cases: [(Change<'_>, &str); 17] = [
        (&|r| r.steps = 0, "steps: "),
        (&|r| r.steps = 1001, "steps: "),
        (&|r| r.guidance_scale = f64::NAN, "guidance-scale: "),
        (&|r| r.guidance_scale = f64::INFINITY, "guidance-scale: "),
        (&|r| r.width = Some(0), "width: "),
        (&|r| r.width = Some(36), "width: expected a multiple of 8 from 8"),
        (&|r| r.height = Some(0), "height: "),
        (&|r| r.height = Some(65), "height: "),
        (&|r| r.height = Some(usize::MAX & !7), "height: "),
        (&|r| r.images_per_prompt = 0, "images_per_prompt: "),
        (&|r| r.conditioning = Conditioning::Prompts { prompts: vec![], negative: None }, "prompt: "),
        (
            &|r| r.initial = noise(&[1, 4, 8, 9], 0.0),
            "latents: expected shape [1, 4, 8, 8], got [1, 4, 8, 9]",
        ),
        (&|r| r.initial = noise(&[2, 4, 8, 8], 0.0), "latents: "),
        (&|r| r.initial = noise(&[1, 4, 8, 8], f32::NAN), "latents is not finite"),
        (&|r| r.initial = noise(&[1, 4, 8, 8], f32::INFINITY), "latents is not finite"),
        (
            &|r| r.initial = InitialLatents::Noisy { latents: tensor(&[0.0; 256], &[1, 4, 8, 8]), start: 2 },
            "start: expected a step below 2, got 2",
        ),
        (
            &|r| {
                let negative = Some(vec![String::new(); 2]);
                r.conditioning = Conditioning::Prompts { prompts: vec!["a".into(); 3], negative };
            },
            "negative-prompt: ",
        ),
    ];
    for (change, start) in cases {
        let mut request = short("a cat");
        change(&mut request);
        let error =
            generate(&pipeline, &request).err().unwrap_or_else(|| panic!("{start} is taken")).to_string();
        assert!(error.starts_with(start) && !error.contains('\n'), "{error}");
    }
}
