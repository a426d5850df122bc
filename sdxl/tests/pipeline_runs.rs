//! Compares whole runs from a prompt and a seed with diffusers' runs: samplers that draw noise, several images per
//! prompt, custom sizes, and a consistency-distilled U-Net.
#![allow(clippy::unwrap_used)]

mod pipeline_support;

use std::collections::HashMap;
use std::path::Path;

use atedm_conformance::tolerance::relative_l2;
use atedm_core::plugin::Unpruned;
use atedm_core::reference::{NdDevice, NdTensor, Reference32, Reference64};
use atedm_core::{Backend, DType, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{
    Corner, Decoding, InitialLatents, MicroConditioning, Pipeline, PixelSize, Proceed, Repaint, Request,
};
use atedm_sdxl::rng::{NoiseDType, RngKind};
use atedm_sdxl::vae::LatentDistribution;
use pipeline_support::{Golden, LATENTS, copy_of, fixtures, json, tensor};
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

const CIRCLE: &str = "a photo of a red circle on a blue background";
const CAT: &str = "a small cat";

fn golden() -> Golden {
    Golden::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pipeline_golden/runs.safetensors"))
}

fn load<B: Backend<Tensor = NdTensor>>(folder: impl AsRef<Path>, dtype: DType) -> Pipeline<B> {
    let checkpoint = Checkpoint::open(folder, OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, dtype, &NdDevice).unwrap()
}

fn request(prompts: &[&str], steps: usize, guidance: f64, sampler: &str) -> Request<NdTensor> {
    let mut request = Request::new(prompts.iter().copied());
    (request.steps, request.guidance_scale, request.seed) = (steps, guidance, 3);
    (request.width, request.height) = (Some(64), Some(48));
    request.scheduler = Some(sampler.into());
    request.decoding = Decoding::Skip;
    request
}

fn check<B: Backend<Tensor = NdTensor>>(pipeline: &Pipeline<B>, request: &Request<NdTensor>, name: &str) {
    let output = pipeline.generate(request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap();
    assert_eq!(output.latents.dtype(), pipeline.dtype());
    assert_eq!(output.latents.shape(), golden().shape(name));
    let distance = relative_l2(&output.latents.to_f32().unwrap(), &golden().f32(name));
    println!("{name}: relative L2 {distance:.2e}");
    assert!(distance <= LATENTS, "{name}: {distance:e}");
}

/// Ancestral noise comes from the generator of the initial latents, for the whole batch at once.
#[test]
fn euler_ancestral_with_own_sizes() {
    let mut request = request(&[CIRCLE, CAT], 5, 6.0, "euler-a");
    let size = |height, width| Some(PixelSize { height, width });
    request.micro = MicroConditioning {
        original_size: size(100, 200),
        crop: Corner { top: 8, left: 16 },
        target_size: size(50, 70),
    };
    check(&load::<Reference32>(fixtures().join("tiny-a"), DType::F32), &request, "euler-a");
}

#[test]
fn several_images_of_a_prompt() {
    let mut request = request(&[CIRCLE], 5, 6.0, "ddim");
    request.images_per_prompt = 3;
    check(&load::<Reference32>(fixtures().join("tiny-a"), DType::F32), &request, "ddim");
    // torch draws different noise for a pipeline in f64
    request.noise_dtype = NoiseDType::Always(DType::F32);
    check(&load::<Reference64>(fixtures().join("tiny-a"), DType::F64), &request, "ddim");
}

/// tiny-a with another value in its U-Net's configuration, and another tensor of f32.
fn with_unet_tensor(
    key: &str,
    value: usize,
    (name, (shape, bytes)): (&str, (Vec<usize>, Vec<u8>)),
) -> TempDir {
    let folder = copy_of("tiny-a");
    let unet = folder.path().join("unet");
    let mut config = json(unet.join("config.json"));
    config[key] = value.into();
    std::fs::write(unet.join("config.json"), config.to_string()).unwrap();
    let file = unet.join("diffusion_pytorch_model.safetensors");
    let stored = std::fs::read(&file).unwrap();
    let mut tensors: HashMap<String, TensorView<'_>> =
        safetensors::SafeTensors::deserialize(&stored).unwrap().tensors().into_iter().collect();
    tensors.insert(name.to_string(), TensorView::new(Dtype::F32, shape, &bytes).unwrap());
    // This overwrites a copied file that nobody has mapped.
    std::fs::write(&file, safetensors::serialize(&tensors, None).unwrap()).unwrap();
    folder
}

/// tiny-a with a guidance input in its U-Net. The scale is that input, and no negative rows run.
#[test]
fn consistency_distilled() {
    let weight = (golden().shape("cond_proj.weight"), golden().bytes("cond_proj.weight"));
    let folder = with_unet_tensor("time_cond_proj_dim", 12, ("time_embedding.cond_proj.weight", weight));

    let pipeline = load::<Reference32>(folder.path(), DType::F32);
    for scale in [8.0, 1.5] {
        let request = request(&[CIRCLE, CAT], 4, scale, "lcm");
        check(&pipeline, &request, &format!("lcm.{scale:?}"));
        let output = pipeline.generate(&request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap();
        assert!(output.costs.iter().all(|cost| cost.rows == 2));
    }
}

/// The picture of the golden runs, from −1 to 1.
fn golden_picture() -> NdTensor {
    let golden = Golden::open(fixtures().join("tiny-a-expected/image_to_image.safetensors"));
    let [height, width, _] = golden.shape("picture")[..] else { panic!("no picture") };
    let bytes = golden.bytes("picture");
    let values = (0..3).flat_map(|channel| bytes.iter().skip(channel).step_by(3));
    let values: Vec<f32> = values.map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
    NdTensor::from_f32(&values, &[1, 3, height, width], DType::F32, &NdDevice).unwrap()
}

/// A part of a picture is painted again, by an ordinary U-Net and by one that takes nine channels.
#[test]
fn inpainting() {
    let folder = fixtures().join("parts");
    let golden = Golden::open(folder.join("inpainting.safetensors"));
    let picture = golden_picture();
    let [height, width] = [2, 3].map(|axis| picture.shape()[axis]);
    let white: Vec<f32> = golden.bytes("mask").iter().map(|&grey| f32::from(u8::from(grey >= 128))).collect();
    let kept: Vec<f32> = white.iter().map(|white| 1.0 - white).collect();
    let masked = picture.mul(&tensor(&kept, &[1, 1, height, width])).unwrap();
    // tiny-a's autoencoder has the factor 4; the mask is sampled without smoothing
    let spots: Vec<f32> = (0..height / 4)
        .flat_map(|y| (0..width / 4).map(move |x| 4 * (y * width + x)))
        .map(|at| white[at])
        .collect();
    let nine = (golden.shape("conv_in.weight"), golden.bytes("conv_in.weight"));
    let nine = with_unet_tensor("in_channels", 9, ("conv_in.weight", nine));
    let pipelines = [
        load::<Reference32>(fixtures().join("tiny-a"), DType::F32),
        load::<Reference32>(nine.path(), DType::F32),
    ];
    for case in json(folder.join("inpainting.json")).as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let pipeline = &pipelines[usize::from(case["channels"] == 9)];
        let mut request =
            Request::new(serde_json::from_value::<Vec<String>>(case["prompts"].clone()).unwrap());
        request.steps = case["steps"].as_u64().unwrap() as usize;
        request.guidance_scale = case["guidance_scale"].as_f64().unwrap();
        request.seed = case["seed"].as_u64().unwrap();
        (request.width, request.height) = (Some(width), Some(height));
        request.scheduler = case["scheduler"].as_str().map(str::to_string);
        request.decoding = Decoding::Skip;
        let repaint = Repaint {
            mask: tensor(&spots, &[1, 1, height / 4, width / 4]),
            picture: pipeline.vae().distribution(&picture).unwrap(),
            masked: Some(pipeline.vae().distribution(&masked).unwrap()),
            // strength 0.6 of 5 steps: the last three
            start: (case["strength"] != 1.0).then_some(2),
        };
        request.initial = InitialLatents::Repainted(repaint.clone());
        let made = |request: &Request<NdTensor>| {
            pipeline.generate(request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap().latents
        };
        let latents = made(&request);
        let expected = golden.f32(&format!("{name}.final_latents"));
        let distance = relative_l2(&latents.to_f32().unwrap(), &expected);
        println!("{name}: relative L2 {distance:.2e}");
        assert!(distance <= LATENTS, "{name}: {distance:e}");
        // With nothing to repaint, an ordinary U-Net gives the picture's latents.
        let mask = tensor(&vec![0.0; spots.len()], &[1, 1, height / 4, width / 4]);
        let picture = LatentDistribution { deviation: None, ..repaint.picture.clone() };
        let mean = pipeline.vae().scale(&picture.mean).unwrap().to_f32().unwrap();
        request.initial = InitialLatents::Repainted(Repaint { mask, picture, ..repaint });
        let kept = made(&request).narrow(0, 0, 1).unwrap().to_f32().unwrap();
        assert_eq!(kept == mean, case["channels"] == 4, "{name}");
    }
}

/// Masks and pictures that do not fit are refused before any model runs.
#[test]
fn inpainting_needs_what_its_unet_takes() {
    let golden = Golden::open(fixtures().join("parts/inpainting.safetensors"));
    let nine = (golden.shape("conv_in.weight"), golden.bytes("conv_in.weight"));
    let nine = with_unet_tensor("in_channels", 9, ("conv_in.weight", nine));
    let pipeline = load::<Reference32>(nine.path(), DType::F32);
    let mut request = request(&[CIRCLE], 2, 1.0, "euler");
    (request.width, request.height) = (Some(32), Some(32));
    let message = |request: &Request<NdTensor>| {
        let made = pipeline.generate(request, &mut Unpruned, &mut |_| Proceed::Continue(()));
        made.unwrap_err().to_string()
    };
    assert_eq!(
        message(&request),
        "mask: expected a picture and a mask, as the U-Net takes both (it inpaints)"
    );
    let zeros = |shape: &[usize]| tensor(&vec![0.0; shape.iter().product()], shape);
    let distribution = LatentDistribution { mean: zeros(&[1, 4, 8, 8]), deviation: None };
    let repaint = Repaint { mask: zeros(&[1, 1, 8, 8]), picture: distribution, masked: None, start: None };
    request.initial = InitialLatents::Repainted(repaint.clone());
    assert!(message(&request).starts_with("masked: expected the masked picture's distribution"));
    request.initial = InitialLatents::Repainted(Repaint { mask: zeros(&[1, 1, 4, 4]), ..repaint.clone() });
    assert_eq!(message(&request), "mask: expected shape [1, 1, 8, 8], got [1, 1, 4, 4]");
    request.initial = InitialLatents::Repainted(Repaint { start: Some(2), ..repaint });
    assert_eq!(message(&request), "start: expected a step below 2, got 2");
}

/// Image to image: the generator draws the picture's latents, then the noise. A batch shares the first draw.
#[test]
fn image_to_image() {
    let folder = fixtures().join("tiny-a-expected");
    let golden = Golden::open(folder.join("image_to_image.safetensors"));
    let picture = golden_picture();
    let [height, width] = [2, 3].map(|axis| picture.shape()[axis]);
    let pipeline = load::<Reference32>(fixtures().join("tiny-a"), DType::F32);
    let distribution = pipeline.vae().distribution(&picture).unwrap();
    for case in json(folder.join("image_to_image.json")).as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let prompts: Vec<String> = serde_json::from_value(case["prompts"].clone()).unwrap();
        let mut request = Request::new(prompts);
        request.steps = case["steps"].as_u64().unwrap() as usize;
        request.guidance_scale = case["guidance_scale"].as_f64().unwrap();
        request.seed = case["seed"].as_u64().unwrap();
        (request.width, request.height) = (Some(width), Some(height));
        request.scheduler = case["scheduler"].as_str().map(str::to_string);
        request.decoding = Decoding::Skip;
        // strength 0.6 of 5 steps: the last three
        let start = 2;
        request.initial = InitialLatents::Encoded { distribution: distribution.clone(), start };
        let made = |request: &Request<NdTensor>| {
            let output = pipeline.generate(request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap();
            output.latents.to_f32().unwrap()
        };
        let expected = golden.f32(&format!("{name}.final_latents"));
        let distance = relative_l2(&made(&request), &expected);
        println!("{name}: relative L2 {distance:.2e}");
        assert!(distance <= LATENTS, "{name}: {distance:e}");
        // The mean is another picture.
        let mean = pipeline.vae().scale(&distribution.mean).unwrap();
        let images = request.images().unwrap();
        let latents = NdTensor::concat(&vec![&mean; images], 0).unwrap();
        request.initial = InitialLatents::Clean { latents, start };
        assert!(relative_l2(&made(&request), &expected) > 1e-2, "{name}");
    }
}

/// With one stream per image, an image in a batch draws the same numbers as alone.
#[test]
fn image_to_image_with_chacha_stands_alone() {
    let pipeline = load::<Reference32>(fixtures().join("tiny-a"), DType::F32);
    let values: Vec<f32> = (0..3 * 32 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    let picture = NdTensor::from_f32(&values, &[1, 3, 32, 32], DType::F32, &NdDevice).unwrap();
    let distribution = pipeline.vae().distribution(&picture).unwrap();
    let made = |prompts: &[&str]| {
        let mut request = request(prompts, 4, 5.0, "euler");
        (request.width, request.height, request.rng) = (Some(32), Some(32), RngKind::ChaCha);
        request.initial = InitialLatents::Encoded { distribution: distribution.clone(), start: 1 };
        let output = pipeline.generate(&request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap();
        output.latents.narrow(0, 0, 1).unwrap().to_f32().unwrap()
    };
    assert!(relative_l2(&made(&[CIRCLE, CAT]), &made(&[CIRCLE])) < 1e-5);
}

/// Two evaluations a step: the callback and the reducer count steps, costs count evaluations.
#[test]
fn several_evaluations_a_step() {
    let pipeline = load::<Reference32>(fixtures().join("tiny-a"), DType::F32);
    let request = request(&[CIRCLE, CAT], 5, 6.0, "heun");
    check(&pipeline, &request, "heun");
    let mut reported = Vec::new();
    let output = pipeline
        .generate(&request, &mut Unpruned, &mut |report| {
            reported.push((report.index, report.total, report.timestep));
            Proceed::Continue(())
        })
        .unwrap();
    assert_eq!(
        reported,
        [801.0, 601.0, 401.0, 201.0, 1.0].into_iter().enumerate().map(|(i, t)| (i, 5, t)).collect::<Vec<_>>()
    );
    let steps: Vec<usize> = output.costs.iter().map(|cost| cost.step).collect();
    assert_eq!(steps, [0, 0, 1, 1, 2, 2, 3, 3, 4]);
}

#[test]
fn corrected_predictions() {
    let pipeline = load::<Reference32>(fixtures().join("tiny-a"), DType::F32);
    check(&pipeline, &request(&[CIRCLE], 6, 6.0, "unipc"), "unipc");
}

/// A checkpoint that was trained to begin with noise alone and predicts velocities, with its own scheduler.
#[test]
fn zero_terminal_snr_with_rescaled_guidance() {
    let folder = copy_of("tiny-a");
    let file = folder.path().join("scheduler/scheduler_config.json");
    let mut config = json(&file);
    config["prediction_type"] = "v_prediction".into();
    config["rescale_betas_zero_snr"] = true.into();
    config["timestep_spacing"] = "trailing".into();
    std::fs::write(&file, config.to_string()).unwrap();
    let mut request = request(&[CIRCLE, CAT], 6, 6.0, "euler");
    request.scheduler = None;
    request.guidance_rescale = 0.7;
    let pipeline = load::<Reference32>(folder.path(), DType::F32);
    check(&pipeline, &request, "zero-snr");
    request.guidance_rescale = 2.0;
    let error = pipeline.generate(&request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap_err();
    assert_eq!(error.to_string(), "guidance-rescale: expected a number from 0 to 1, got 2");
}

/// After its last step a sampler without noise is at the clean latents that its last evaluation pointed to.
#[test]
fn the_last_estimate_is_the_result() {
    let folder = copy_of("tiny-a");
    let scheduler = folder.path().join("scheduler/scheduler_config.json");
    let own = std::fs::read_to_string(&scheduler).unwrap();
    let plain: serde_json::Value = serde_json::from_str(&own).unwrap();
    let mut velocities = plain.clone();
    velocities["prediction_type"] = "v_prediction".into();
    let edm = serde_json::json!({
        "_class_name": "EDMEulerScheduler", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0
    });
    for (config, name) in
        [(&plain, Some("euler")), (&plain, Some("heun")), (&velocities, Some("dpm++2m")), (&edm, None)]
    {
        std::fs::write(&scheduler, config.to_string()).unwrap();
        let index = folder.path().join("model_index.json");
        let mut classes = json(&index);
        classes["scheduler"][1] = config["_class_name"].clone();
        std::fs::write(&index, classes.to_string()).unwrap();
        let pipeline = load::<Reference32>(folder.path(), DType::F32);
        let mut request = request(&[CIRCLE, CAT], 4, 5.0, "");
        request.scheduler = name.map(str::to_string);
        let mut estimates = Vec::new();
        let output = pipeline
            .generate(&request, &mut Unpruned, &mut |report| {
                estimates.push(report.denoised().unwrap().to_f32().unwrap());
                Proceed::Continue(())
            })
            .unwrap();
        let last = output.latents.to_f32().unwrap();
        let distances: Vec<f64> = estimates.iter().map(|estimate| relative_l2(estimate, &last)).collect();
        println!("{name:?}: {distances:?}");
        assert!(distances[3] < 1e-5 && distances[0] > 1e-2, "{name:?}: {distances:?}");
    }
}
