//! Whole runs on small checkpoints against diffusers. Runs with AT-EDM are compared with an independent implementation
//! that scores stored maps in f64. The tests compare final latents, pictures, and every kept set.

use atedm_candle::{Candle, Device};
use atedm_core::reference::{NdDevice, Reference32};
use atedm_tests::golden::{assert_loras, assert_parity};
use atedm_tests::prompts::assert_prompts;

#[test]
fn tiny_a_on_ndarray() {
    assert_parity::<Reference32>("tiny-a", &NdDevice);
}

#[test]
fn tiny_b_on_ndarray() {
    assert_parity::<Reference32>("tiny-b", &NdDevice);
}

#[test]
fn tiny_a_on_candle() {
    assert_parity::<Candle>("tiny-a", &Device::Cpu);
}

#[test]
fn tiny_b_on_candle() {
    assert_parity::<Candle>("tiny-b", &Device::Cpu);
}

#[test]
fn loras_on_ndarray() {
    assert_loras::<Reference32>(&NdDevice);
}

#[test]
fn loras_on_candle() {
    assert_loras::<Candle>(&Device::Cpu);
}

#[test]
fn prompts_on_ndarray() {
    assert_prompts::<Reference32>(&NdDevice, "");
}

#[test]
fn prompts_on_candle() {
    assert_prompts::<Candle>(&Device::Cpu, "");
}
