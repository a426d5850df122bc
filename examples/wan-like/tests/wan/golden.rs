//! The golden files of `make_fixture.py`, which says what is in them.

use std::path::PathBuf;

use atedm_conformance::host::Array;
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Error, Result, Tensor, WeightSource, Weights};
use example_wan_like::config::WanConfig;
use example_wan_like::model::{Input, Wan};
use safetensors::SafeTensors;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixture").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A tensor of `cases.safetensors`, every number as f64.
pub(crate) fn array(name: &str) -> Array {
    let bytes = bytes("cases.safetensors");
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let view = all.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let number = |b: &[u8]| match view.dtype() {
        safetensors::Dtype::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
        safetensors::Dtype::U32 => f64::from(u32::from_le_bytes(b.try_into().unwrap())),
        other => panic!("{name}: {other:?}"),
    };
    Array::new(view.shape(), view.data().chunks_exact(4).map(number).collect())
}

/// The tensors of a safetensors file that lies in memory, in f32.
struct InMemory<D> {
    file: Vec<u8>,
    device: D,
}

impl<T: Tensor> WeightSource<T> for InMemory<T::Device> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<T> {
        let misfit = |reason: String| Error::weights("model.safetensors", name, reason);
        let all = SafeTensors::deserialize(&self.file).map_err(|error| misfit(error.to_string()))?;
        let view = all.tensor(name).map_err(|error| misfit(error.to_string()))?;
        if view.shape() != shape {
            return Err(misfit(format!("expected shape {shape:?}, got {:?}", view.shape())));
        }
        T::from_bytes(view.data(), DType::F32, shape, &self.device)
    }

    fn contains(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.file).is_ok_and(|all| all.tensor(name).is_ok())
    }

    fn origin(&self) -> PathBuf {
        file("model.safetensors")
    }
}

/// The tiny model and the input of every case, in f32.
pub(crate) struct Golden<T> {
    pub(crate) model: Wan<T>,
    latents: T,
    timesteps: Vec<f32>,
    text: T,
}

impl<T: AttentionOps> Golden<T> {
    pub(crate) fn open<B: Backend<Tensor = T>>(device: &DeviceOf<B>) -> Self {
        let config: WanConfig = serde_json::from_slice(&bytes("config.json")).unwrap();
        let weights = Weights::new(InMemory { file: bytes("model.safetensors"), device: device.clone() });
        Self {
            model: Wan::load(&weights, &config).unwrap(),
            latents: array("latents").upload(DType::F32, device).unwrap(),
            timesteps: array("timesteps").data.iter().map(|&t| t as f32).collect(),
            text: array("text").upload(DType::F32, device).unwrap(),
        }
    }

    pub(crate) fn input(&self) -> Input<'_, T> {
        Input { latents: &self.latents, timesteps: &self.timesteps, text: &self.text }
    }
}
