//! The model before is diffusers'.

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{LATENTS, assert_close, relative_l2};
use atedm_core::{Backend, DeviceOf};
use example_wan_like::plain;

use crate::golden::{Golden, array};

/// Asserts that a prediction is that of a case.
pub(crate) fn assert_case(prediction: &impl atedm_core::Tensor, case: &str, backend: &str) {
    let got = Array::read(prediction).unwrap();
    let wanted = array(&format!("{case}.output"));
    assert_eq!(got.shape, wanted.shape);
    let off = relative_l2(&got.data, &wanted.data);
    println!("{case} on {backend}: relative L2 {off:.1e}");
    assert!(off <= LATENTS, "{case} on {backend}: relative L2 {off:.1e}, allowed {LATENTS:.0e}");
}

pub(crate) fn rotary_positions_are_diffusers<B: Backend>(device: &DeviceOf<B>) {
    let golden = Golden::open::<B>(device);
    let embedded = golden.model.embed(&golden.input()).unwrap();
    assert_eq!(embedded.grid, [3, 4, 6]);
    assert_close(&embedded.rope, &array("rope"), "rotary positions");
}

pub(crate) fn the_whole_model_is_diffusers<B: Backend>(device: &DeviceOf<B>) {
    let golden = Golden::open::<B>(device);
    let prediction = B::inference(|| plain::forward(&golden.model, &golden.input())).unwrap();
    assert_case(&prediction, "plain", B::NAME);
}
