//! Golden files and comparisons for the tests of noise, samplers and the pipeline.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test file uses its own part.

use std::path::{Path, PathBuf};

use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest relative L2 distance of final latents from diffusers', in f32.
pub const LATENTS: f64 = 2e-5;
/// The same limit with pruning. The golden implementation scores in f64.
pub const PRUNED_LATENTS: f64 = 1e-4;
/// Largest relative difference of noise levels from diffusers'.
pub const SIGMAS: f64 = 1e-6;
/// The same limit for sgm's EulerEDM. Its levels are computed in f64 as in the original code, but the golden ones are
/// diffusers' f32.
pub const LEGACY_SIGMAS: f64 = 5e-6;
/// Largest difference of timesteps: the rounding of an f32 below 1000, for Karras' interpolated timesteps.
pub const TIMESTEPS: f64 = 2e-4;
/// Largest difference of a byte of an image.
pub const BYTES: u8 = 1;

/// The folder of golden files, written by tests/python/make_fixtures.py.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A copy of a golden checkpoint whose files a test may replace.
pub fn copy_of(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap().map(|entry| entry.unwrap().path()) {
        let to = folder.path().join(entry.file_name().unwrap());
        if entry.is_file() {
            std::fs::copy(&entry, &to).unwrap();
            continue;
        }
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(&entry).unwrap().map(|file| file.unwrap().path()) {
            std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// A golden safetensors file.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self { bytes: std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        self.tensors().names().into_iter().map(str::to_string).collect()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).shape().to_vec()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")).data().to_vec()
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        let (words, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty(), "{name} is not f32");
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    pub fn tensor(&self, name: &str) -> NdTensor {
        tensor(&self.f32(name), &self.shape(name))
    }
}

pub fn json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

pub fn tensor(values: &[f32], shape: &[usize]) -> NdTensor {
    NdTensor::from_f32(values, shape, DType::F32, &NdDevice).unwrap()
}
