//! The suite and the properties on Candle's CPU.

use atedm_candle::{Candle, Device};
use atedm_core::DType;

atedm_conformance::conformance_suite!(f32, Candle, Device::Cpu, &[DType::F32]);
atedm_conformance::conformance_suite!(f64, Candle, Device::Cpu, &[DType::F64]);
atedm_conformance::conformance_suite!(f16, Candle, Device::Cpu, &[DType::F16]);
atedm_conformance::conformance_suite!(bf16, Candle, Device::Cpu, &[DType::BF16]);
