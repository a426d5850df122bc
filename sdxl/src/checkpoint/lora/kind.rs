//! Tells what a LoRA file is made for.

use super::leaves::{is_factor, unread_kind};
use crate::checkpoint::single::Shapes;

/// Parts of the names in LoRAs of other models. The first match decides.
const MODELS: [(&str, &str); 10] = [
    ("double_blocks", "FLUX"),
    ("single_blocks", "FLUX"),
    ("single_transformer_blocks", "FLUX"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("lora_transformer_", "a diffusion transformer (FLUX, Stable Diffusion 3 or another)"),
    ("transformer.", "a diffusion transformer (FLUX, Stable Diffusion 3 or another)"),
    ("lora_prior_", "Stable Cascade"),
    ("lora_controlnet", "a control network"),
    ("diffusion_model.layers.", "another diffusion transformer"),
    ("diffusion_model.blocks.", "another diffusion transformer"),
];

/// Models by the width of their cross-attention.
const WIDTHS: [(usize, &str); 4] = [
    (768, "Stable Diffusion 1.x"),
    (1024, "Stable Diffusion 2.x"),
    (1280, "SD-XL's refiner"),
    (2048, "SD-XL"),
];

/// Whether the file is a LoRA or another adapter.
pub(super) fn is_adapter(shapes: &Shapes) -> bool {
    shapes.names().any(|name| {
        let begins = name.starts_with("lora_unet_")
            || name.starts_with("lora_te")
            || name.starts_with("lora_transformer_");
        begins || is_factor(name) || unread_kind(name).is_some()
    })
}

/// What the file is, if it is a LoRA: `a LoRA of Stable Diffusion 1.x`.
pub(crate) fn adapter(shapes: &Shapes) -> Option<String> {
    is_adapter(shapes).then(|| match other_model(shapes).or_else(|| of_width(text_width(shapes)?)) {
        Some(model) => format!("a LoRA of {model}"),
        None => "a LoRA".to_string(),
    })
}

/// A model that is none of this project's, if the names tell.
pub(super) fn other_model(shapes: &Shapes) -> Option<&'static str> {
    let has = |part: &str| {
        shapes.names().any(|name| {
            if part.ends_with('.') || part.starts_with("lora_") {
                name.starts_with(part)
            } else {
                name.contains(part)
            }
        })
    };
    MODELS.iter().find(|(part, _)| has(part)).map(|(_, model)| *model)
}

/// The model with this width of cross-attention.
pub(super) fn of_width(width: usize) -> Option<&'static str> {
    WIDTHS.iter().find(|(known, _)| *known == width).map(|(_, model)| *model)
}

/// The width of the text that a LoRA's cross-attention reads, if the shapes tell.
pub(super) fn text_width(shapes: &Shapes) -> Option<usize> {
    const READS_TEXT: [&str; 4] = ["attn2_to_k", "attn2_to_v", "attn2.to_k", "attn2.to_v"];
    const INPUTS: [&str; 4] = [".lora_down.weight", ".lora_A.weight", "lora.down.weight", ".hada_w1_b"];
    let reads = |name: &&str| {
        let name = name.replace(".processor.", ".");
        READS_TEXT.iter().any(|module| name.contains(module))
            && INPUTS.iter().any(|leaf| name.ends_with(leaf))
    };
    shapes.names().find(reads).and_then(|name| shapes.axis_of(name, 1))
}
