//! The suite and the properties on libtorch's CPU.
#![cfg(feature = "tch")]

use atedm_core::DType;
use atedm_tch::{Device, Torch};

atedm_conformance::conformance_suite!(f32, Torch, Device::Cpu, &[DType::F32]);
atedm_conformance::conformance_suite!(f64, Torch, Device::Cpu, &[DType::F64]);
atedm_conformance::conformance_suite!(f16, Torch, Device::Cpu, &[DType::F16]);
atedm_conformance::conformance_suite!(bf16, Torch, Device::Cpu, &[DType::BF16]);
