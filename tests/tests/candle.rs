//! The suite and the properties on Candle's CPU.

use atedm_candle::Candle;
use atedm_core::DType;

fn cpu() -> candle_core::Device {
    candle_core::Device::Cpu
}

atedm_tests::conformance_suite!(f32, Candle, cpu(), &[DType::F32]);
atedm_tests::conformance_suite!(f64, Candle, cpu(), &[DType::F64]);
atedm_tests::conformance_suite!(f16, Candle, cpu(), &[DType::F16]);
atedm_tests::conformance_suite!(bf16, Candle, cpu(), &[DType::BF16]);
