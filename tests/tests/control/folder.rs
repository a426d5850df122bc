//! The ControlNets of tests/fixtures/control as folders, and the pictures that they follow there. Both follow the formulas of
//! `tests/python/control_reference.py`.

use std::path::{Path, PathBuf};

use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Weights};
use atedm_sdxl::config::ControlNetConfig;
use atedm_sdxl::unet::ControlNet;
use atedm_sdxl::weights::{RandomSource, Recorder};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// The folder of golden files. This file serves tests of several crates.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/fixtures")
}

/// The weights of the reference's formula.
fn formula(name: &str, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let seed =
        name.bytes().fold(2_166_136_261u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(16_777_619));
    let uniform = |index: usize| {
        let mut h = (index as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
        h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
        f64::from(h ^ (h >> 16)) / 2f64.powi(31) - 1.0
    };
    let gain = if name.contains("to_q") || name.contains("to_k") { 2.2 } else { 1.5 };
    let inputs = (count / shape[0]) as f64;
    let value = |index: usize| match name {
        name if name.ends_with("bias") => 0.2 * uniform(index),
        name if name.contains("norm") => 1.0 + 0.2 * uniform(index),
        _ => gain * uniform(index) / inputs.sqrt(),
    };
    (0..count).map(|index| value(index) as f32).collect()
}

/// Writes f32 tensors by name and shape.
fn write(file: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
}

/// The folder of a ControlNet of the fixtures.
pub(crate) fn control_net(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::copy(fixtures().join(format!("control/{name}.json")), &config).unwrap();
    let (source, list) = Recorder::new(RandomSource::new(1, DType::F32, NdDevice));
    let weights: Weights<NdTensor> = Weights::new(source);
    ControlNet::load(&weights, &ControlNetConfig::read(&config).unwrap()).unwrap();
    let list = list.borrow();
    let tensors: Vec<_> =
        list.iter().map(|(name, shape)| (name.clone(), shape.clone(), formula(name, shape))).collect();
    write(&folder.path().join("diffusion_pytorch_model.safetensors"), &tensors);
    folder
}

/// The reference's picture: a board of squares of one colour and of slopes. Red, then green, then blue; each row-major.
pub(crate) fn board(width: usize, height: usize) -> Vec<u8> {
    let value = |at: usize| {
        let (c, y, x) = (at / (width * height), at / width % height, at % width);
        let slope = (5 * x + 3 * y + 40 * c) % 256;
        if (x / 8 + y / 6 + c) % 2 == 1 { 255 } else { slope as u8 }
    };
    (0..3 * width * height).map(value).collect()
}
