//! Compares the trained model in the program with diffusers (tests/fixtures/README.md).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use atedm_conformance::tolerance::relative_l2;
use common::{latents, read_png, succeed};
use safetensors::SafeTensors;

/// The bound on final latents in f32.
const TOLERANCE: f64 = 2e-5;

#[test]
fn pictures_of_the_built_in_model_are_those_of_diffusers() {
    let work = tempfile::tempdir().unwrap();
    let model = work.path().join("model");
    atedm_shapes::write(&model).unwrap();
    compare("atedm-shapes", &model, work.path());
}

#[test]
fn pictures_of_the_larger_model_are_those_of_diffusers() {
    let work = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/atedm-shapes-128");
    compare("atedm-shapes-128", &model, work.path());
}

/// Makes the pictures of a fixture with every backend.
fn compare(name: &str, model: &Path, work: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let expected = root.join(format!("tests/fixtures/{name}-expected"));
    let cases: serde_json::Value =
        serde_json::from_slice(&fs::read(expected.join("cases.json")).unwrap()).unwrap();
    let case = cases.as_array().unwrap().iter().find(|case| case["name"] == "guided").unwrap();
    let golden = fs::read(expected.join("end_to_end.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let tensor = |name: &str| golden.tensor(&format!("guided.{name}")).unwrap();

    let noise = safetensors::serialize([("latents", tensor("latents"))], None).unwrap();
    fs::write(work.join("noise.safetensors"), noise).unwrap();
    let floats = tensor("final_latents").data().chunks_exact(4);
    let floats: Vec<f32> = floats.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let images = tensor("images");
    let [steps, guidance] = ["steps", "guidance_scale"].map(|name| case[name].to_string());
    let prompts = case["prompts"].as_array().unwrap();

    for backend in [
        "ndarray",
        #[cfg(feature = "candle")]
        "candle",
        #[cfg(feature = "tch")]
        "tch",
    ] {
        let mut args = vec!["generate", "--model", model.to_str().unwrap(), "--backend", backend];
        args.extend(prompts.iter().flat_map(|prompt| ["--prompt", prompt.as_str().unwrap()]));
        args.extend(["--steps", &steps, "--guidance-scale", &guidance, "--latents", "noise.safetensors"]);
        args.extend(["--save-latents", "final.safetensors", "--output", "p.png"]);
        succeed(work, &args);
        let distance = relative_l2(&latents(&work.join("final.safetensors")).1, &floats);
        assert!(distance < TOLERANCE, "{backend}: {distance}");
        println!("{backend}: relative L2 {distance:.2e}");
        for (index, bytes) in images.data().chunks_exact(images.data().len() / prompts.len()).enumerate() {
            let name = if prompts.len() == 1 { "p.png".to_string() } else { format!("p-{index}.png") };
            let picture = read_png(&work.join(name));
            assert_eq!(picture.pixels.len(), bytes.len(), "{backend}: picture {index}");
            let worst = picture.pixels.iter().zip(bytes).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= 1, "{backend}: picture {index}");
        }
    }
}
