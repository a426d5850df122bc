//! The fixture of `make_fixture.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use example_flux_candle::config::Config;
use example_flux_candle::model::{Flux, Inputs};

/// A model, what it is asked with, and what diffusers made of it.
pub(crate) struct Fixture {
    pub(crate) model: Flux,
    pub(crate) inputs: Inputs,
    expected: HashMap<String, Tensor>,
}

/// Where its files are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture")
}

/// The model's configuration.
pub(crate) fn config() -> Result<Config> {
    Config::read(&folder().join("transformer/config.json"))
}

impl Fixture {
    /// Reads the files; weights and inputs are f32.
    pub(crate) fn read() -> Result<Self> {
        let file = folder().join("transformer/diffusion_pytorch_model.safetensors");
        let weights = VarBuilder::from_buffered_safetensors(std::fs::read(file)?, DType::F32, &Device::Cpu)?;
        let expected = candle_core::safetensors::load(folder().join("expected.safetensors"), &Device::Cpu)?;
        let of = |name: &str| expected[name].clone();
        let inputs = Inputs {
            latents: of("hidden_states"),
            grid: (6, 10),
            text: of("encoder_hidden_states"),
            pooled: of("pooled_projections"),
            time: of("timestep"),
            guidance: Some(of("guidance")),
        };
        Ok(Self { model: Flux::load(&config()?, &weights)?, inputs, expected })
    }

    /// A tensor of `expected.safetensors`.
    pub(crate) fn expected(&self, name: &str) -> Result<&Tensor> {
        match self.expected.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("expected.safetensors has no {name}"),
        }
    }
}
