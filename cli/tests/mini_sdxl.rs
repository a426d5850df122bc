//! A trained small SD-XL through the program, beside what diffusers made of it. The folder `ATEDM_MINI_SDXL` holds
//! `model/`, `case.json`, `latents.safetensors`, `final_latents.safetensors` and `pictures.png` (four pictures a row).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{latents, read_png, relative_l2, succeed};
use safetensors::tensor::{Dtype, TensorView};

/// The bound on final latents in f32.
const TOLERANCE: f64 = 2e-5;

/// Pictures on a row of the reference sheet, and the side of each.
const SHEET: (usize, usize) = (4, 64);

#[test]
fn pictures_are_those_of_diffusers() {
    let Some(folder) = std::env::var_os("ATEDM_MINI_SDXL").map(PathBuf::from) else {
        println!("SKIPPED pictures_are_those_of_diffusers: ATEDM_MINI_SDXL is not set");
        return;
    };
    let case: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
    let work = tempfile::tempdir().unwrap();
    // Two prompts of the eight: one batch.
    let (shape, noise) = latents(&folder.join("latents.safetensors"));
    let (_, expected) = latents(&folder.join("final_latents.safetensors"));
    let count = 2 * noise.len() / shape[0];
    let bytes: Vec<u8> = noise[..count].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![2, shape[1], shape[2], shape[3]], &bytes).unwrap();
    fs::write(
        work.path().join("noise.safetensors"),
        safetensors::serialize([("latents", view)], None).unwrap(),
    )
    .unwrap();
    let sheet = read_png(&folder.join("pictures.png"));

    for backend in [
        "ndarray",
        #[cfg(feature = "candle")]
        "candle",
    ] {
        let (model, steps, guidance) =
            (folder.join("model"), case["steps"].to_string(), case["guidance_scale"].to_string());
        let prompt = |index: usize| case["prompts"][index].as_str().unwrap();
        let args = [
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompt",
            prompt(0),
            "--prompt",
            prompt(1),
            "--steps",
            &steps,
            "--guidance-scale",
            &guidance,
            "--latents",
            "noise.safetensors",
            "--backend",
            backend,
            "--save-latents",
            "final.safetensors",
            "--output",
            "p.png",
        ];
        succeed(work.path(), &args);
        let distance = relative_l2(&latents(&work.path().join("final.safetensors")).1, &expected[..count]);
        assert!(distance < TOLERANCE, "{backend}: {distance}");
        for index in 0..2 {
            let picture = read_png(&work.path().join(format!("p-{index}.png")));
            let (per_row, side) = SHEET;
            let (left, top) = (index % per_row * side, index / per_row * side);
            let worst = picture.pixels.chunks_exact(3 * side).enumerate().flat_map(|(row, pixels)| {
                let start = 3 * ((top + row) * sheet.size.0 as usize + left);
                pixels.iter().zip(&sheet.pixels[start..start + 3 * side]).map(|(a, b)| a.abs_diff(*b))
            });
            assert!(worst.max().unwrap() <= 1, "{backend}: picture {index}");
        }
    }
}
