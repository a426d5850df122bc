//! Whole runs on small checkpoints against diffusers, like `parity.rs`, on libtorch's CPU.
#![cfg(feature = "tch")]

use atedm_tch::{Device, Torch};
use atedm_tests::golden::assert_parity;
use atedm_tests::prompts::assert_prompts;

#[test]
fn tiny_a_on_libtorch() {
    assert_parity::<Torch>("tiny-a", &Device::Cpu);
}

#[test]
fn tiny_b_on_libtorch() {
    assert_parity::<Torch>("tiny-b", &Device::Cpu);
}

/// Words with vectors of their own, weights, and a version of the prompt with hidden tokens.
#[test]
fn prompts_on_libtorch() {
    assert_prompts::<Torch>(&Device::Cpu, "compel.words");
}
