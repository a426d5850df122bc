//! The suite and the properties on Candle's first NVIDIA GPU, if there is one.
#![cfg(feature = "cuda")]

use std::io::Write;
use std::sync::OnceLock;

use atedm_candle::{Candle, Device};
use atedm_core::DType;

/// The GPU. Without a GPU, prints a line that says so, even though the tests' output is captured.
fn gpu() -> Option<Device> {
    static FOUND: OnceLock<Option<Device>> = OnceLock::new();
    let look = || {
        let found = atedm_candle::device::parse("cuda:0");
        found.map_err(|error| writeln!(std::io::stderr(), "nothing is tested here: {error}")).ok()
    };
    FOUND.get_or_init(look).clone()
}

/// The dtype, if there is a GPU.
fn on_gpu(dtypes: &[DType]) -> &[DType] {
    if gpu().is_some() { dtypes } else { &[] }
}

atedm_conformance::conformance_suite!(f32, Candle, gpu().unwrap_or(Device::Cpu), on_gpu(&[DType::F32]));
atedm_conformance::conformance_suite!(f64, Candle, gpu().unwrap_or(Device::Cpu), on_gpu(&[DType::F64]));
atedm_conformance::conformance_suite!(f16, Candle, gpu().unwrap_or(Device::Cpu), on_gpu(&[DType::F16]));
atedm_conformance::conformance_suite!(bf16, Candle, gpu().unwrap_or(Device::Cpu), on_gpu(&[DType::BF16]));
