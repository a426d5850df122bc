//! The fixture of `make_fixture.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use example_sd3_candle::config::Config;
use example_sd3_candle::model::{Inputs, Mmdit};

/// A model, what it is asked with, and what diffusers made of it.
pub(crate) struct Fixture {
    pub(crate) model: Mmdit,
    pub(crate) inputs: Inputs,
    expected: HashMap<String, Tensor>,
}

/// Where its files are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture")
}

/// The model's configuration.
pub(crate) fn config() -> Result<Config> {
    Config::read(&folder().join("config.json"))
}

/// The model's weights, in f32.
pub(crate) fn weights() -> Result<VarBuilder<'static>> {
    let file = std::fs::read(folder().join("mmdit.safetensors"))?;
    VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu)
}

impl Fixture {
    /// Reads the files.
    pub(crate) fn read() -> Result<Self> {
        let expected = candle_core::safetensors::load(folder().join("expected.safetensors"), &Device::Cpu)?;
        let of = |name: &str| expected[name].clone();
        let inputs = Inputs {
            latents: of("hidden_states"),
            text: of("encoder_hidden_states"),
            pooled: of("pooled_projections"),
            time: of("timestep"),
        };
        Ok(Self { model: Mmdit::load(&config()?, &weights()?)?, inputs, expected })
    }

    /// A tensor of `expected.safetensors`.
    pub(crate) fn expected(&self, name: &str) -> Result<&Tensor> {
        match self.expected.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("expected.safetensors has no {name}"),
        }
    }
}
