//! Tells whole SD-XL checkpoints from other safetensors files. A message says what the other file is.

use atedm_core::Result;

use super::shapes::Shapes;
use crate::checkpoint::lora::adapter;

const EXPECTED: &str = "expected a whole SD-XL checkpoint (U-Net, both text encoders, autoencoder)";

/// The beginning of a tensor's name, and what kind of file holds such a tensor. The first match decides.
const OTHERS: [(&str, &str); 21] = [
    ("emb_params", "a textual inversion"),
    ("string_to_param", "a textual inversion"),
    ("clip_g", "a textual inversion"),
    ("clip_l", "a textual inversion"),
    ("control_model.", "a control network"),
    ("controlnet_cond_embedding.", "a control network"),
    ("double_blocks.", "FLUX"),
    ("model.diffusion_model.double_blocks.", "FLUX"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("cond_stage_model.model.", "Stable Diffusion 2"),
    ("cond_stage_model.", "Stable Diffusion 1"),
    ("conditioner.embedders.0.model.", "SD-XL's refiner"),
    ("edm_mean", "Playground v2.5"),
    ("input_blocks.", "a lone U-Net"),
    ("down_blocks.", "a lone U-Net"),
    ("encoder.", "a lone autoencoder"),
    ("decoder.", "a lone autoencoder"),
    ("text_model.", "a lone text encoder"),
    ("text_projection", "a lone text encoder"),
    ("embeddings.", "a lone text encoder"),
];

const UNET: &str = "model.diffusion_model.";
const FIRST_CONVOLUTION: &str = "model.diffusion_model.input_blocks.0.0.weight";

/// What the file is, if it is known here.
pub(crate) fn kind(shapes: &Shapes) -> Option<String> {
    adapter(shapes).or_else(|| what_else(shapes).map(String::from))
}

/// What a file without the part `sought` is, in a few words. It is no LoRA.
pub(crate) fn without(shapes: &Shapes, sought: &str) -> String {
    match what_else(shapes) {
        Some(WHOLE) => format!("a checkpoint without {sought}"),
        Some(what) => what.to_string(),
        None => format!("no file with {sought} that is known here"),
    }
}

/// Checks that the tensors make a whole SD-XL checkpoint with the original names.
///
/// # Errors
/// [`atedm_core::Error::Weights`] that names the file and says what it is.
pub(super) fn check(shapes: &Shapes, autoencoder: Autoencoder) -> Result<()> {
    let is = |what: &str| Err(shapes.error("", format!("is {what}: {EXPECTED}")));
    if let Some(what) = adapter(shapes) {
        return is(&format!("{what}, which --lora takes"));
    }
    let has = |root: &str| shapes.any(root);
    match what_else(shapes) {
        Some(WHOLE) => {}
        Some(what) => return is(what),
        None => return is("no checkpoint that is known here"),
    }
    if shapes.axis_of(FIRST_CONVOLUTION, 1) == Some(8) {
        return is("an editing model (its U-Net also takes an image)");
    }
    for (root, part) in [
        (UNET, "U-Net"),
        ("conditioner.embedders.0.transformer.text_model.", "first text encoder"),
        ("conditioner.embedders.1.model.", "second text encoder"),
    ] {
        if !has(root) {
            return is(&format!("a checkpoint without a {part} ({root}…)"));
        }
    }
    if autoencoder == Autoencoder::Needed && !has("first_stage_model.") {
        return is("a checkpoint without an autoencoder (first_stage_model.…)");
    }
    Ok(())
}

/// A file of a checkpoint with both of SD-XL's text encoders. Parts may be missing.
const WHOLE: &str = "an SD-XL checkpoint";

/// What the file is, if it is known here and no LoRA.
pub(crate) fn what_else(shapes: &Shapes) -> Option<&'static str> {
    let has = |root: &str| shapes.any(root);
    match OTHERS.iter().find(|(beginning, _)| has(beginning)) {
        Some((_, what)) => Some(what),
        None if has("conditioner.embedders.") => Some(WHOLE),
        None if has(UNET) => Some("a lone U-Net"),
        None if has("first_stage_model.") => Some("a lone autoencoder"),
        None => None,
    }
}

/// Whether the file must hold the autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Autoencoder {
    Needed,
    /// The caller gives another one.
    Given,
}
