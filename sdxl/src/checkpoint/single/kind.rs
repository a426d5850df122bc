//! Tells whole SD-XL checkpoints from other safetensors files. A message says what the other file is.

use atedm_core::Result;

use super::shapes::Shapes;

const EXPECTED: &str = "expected a whole SD-XL checkpoint (U-Net, both text encoders, autoencoder)";

/// The beginning of a tensor's name, and what kind of file holds such a tensor. The first match decides.
const OTHERS: [(&str, &str); 19] = [
    ("lora_unet_", "a LoRA"),
    ("lora_te", "a LoRA"),
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

/// Endings of names that only adapters have.
const ADAPTERS: [&str; 6] =
    [".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".hada_w1_a", ".lokr_w1"];

const UNET: &str = "model.diffusion_model.";
const FIRST_CONVOLUTION: &str = "model.diffusion_model.input_blocks.0.0.weight";

/// What kind of file has tensors of these names, if it is known and no SD-XL checkpoint.
pub(crate) fn kind(names: &[&str]) -> Option<&'static str> {
    if names.iter().any(|name| is_change(name)) {
        return Some("a LoRA");
    }
    let known = OTHERS.iter().find(|(beginning, _)| names.iter().any(|name| name.starts_with(beginning)));
    known.map(|(_, what)| *what)
}

/// Whether a tensor of this name changes a weight, and is none.
fn is_change(name: &str) -> bool {
    ADAPTERS.iter().any(|end| name.ends_with(end))
}

/// Whether the file holds changes of weights, not weights.
pub(crate) fn is_adapter(shapes: &Shapes) -> bool {
    shapes.names().any(is_change)
}

/// What a file without the part `sought` is, in a few words.
pub(crate) fn without(shapes: &Shapes, sought: &str) -> String {
    let known = kind(&shapes.names().collect::<Vec<_>>());
    match (known, shapes.any("conditioner.embedders."), shapes.any(UNET)) {
        (Some(what), _, _) => what.to_string(),
        (None, true, _) => format!("a checkpoint without {sought}"),
        (None, false, true) => "a lone U-Net".to_string(),
        (None, false, false) => format!("no file with {sought} that is known here"),
    }
}

/// Checks that the tensors make a whole SD-XL checkpoint with the original names.
///
/// # Errors
/// [`atedm_core::Error::Weights`] that names the file and says what it is.
pub(super) fn check(shapes: &Shapes, autoencoder: Autoencoder) -> Result<()> {
    let is = |what: &str| Err(shapes.error("", format!("is {what}: {EXPECTED}")));
    if let Some(what) = kind(&shapes.names().collect::<Vec<_>>()) {
        return is(what);
    }
    let has = |root: &str| shapes.any(root);
    if !has("conditioner.embedders.") {
        return match (has(UNET), has("first_stage_model.")) {
            (true, _) => is("a lone U-Net"),
            (false, true) => is("a lone autoencoder"),
            (false, false) => is("no checkpoint that is known here"),
        };
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

/// Whether the file must hold the autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Autoencoder {
    Needed,
    /// The caller gives another one.
    Given,
}
