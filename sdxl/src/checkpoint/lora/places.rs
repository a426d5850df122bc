//! Finds the weight of a checkpoint that a module of a LoRA file changes.

use std::collections::HashMap;

use crate::checkpoint::Part;
use crate::weights::Renames;

/// The beginnings of module names. A name without any belongs to the U-Net.
const ROOTS: [(&str, Part); 9] = [
    ("lora_unet_", Part::UNet),
    ("lora_te1_", Part::TextEncoder),
    ("lora_te2_", Part::TextEncoder2),
    ("lora_te_", Part::TextEncoder),
    ("unet.", Part::UNet),
    ("text_encoder.", Part::TextEncoder),
    ("text_encoder_2.", Part::TextEncoder2),
    ("diffusion_model.", Part::UNet),
    ("model.diffusion_model.", Part::UNet),
];

/// Other names of modules: diffusers' attention processors (before PEFT).
const ALIASES: [(&str, &str); 5] = [
    (".to_out.0", ".to_out"),
    (".self_attn.q_proj", ".self_attn.to_q"),
    (".self_attn.k_proj", ".self_attn.to_k"),
    (".self_attn.v_proj", ".self_attn.to_v"),
    (".self_attn.out_proj", ".self_attn.to_out"),
];

/// transformers 5 leaves this out in the names of a text encoder.
const TEXT_MODEL: &str = "text_model.";

/// A weight of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) part: Part,
    /// The tensor's name in a folder.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// The weights of a checkpoint, by the names that LoRA files have for their modules.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<(Part, String), Place>);

impl Places {
    /// Adds the weights among these tensors of a part. `originals` renames the part's modules to the original code's names.
    pub(crate) fn add<'a>(
        &mut self,
        part: Part,
        tensors: impl Iterator<Item = (&'a str, &'a [usize])>,
        originals: Option<&Renames>,
    ) {
        for (name, shape) in tensors.filter(|(_, shape)| shape.len() > 1) {
            let Some(module) = name.strip_suffix(".weight") else { continue };
            let mut names = vec![module.to_string()];
            names.extend(originals.and_then(|originals| originals.original(module)));
            let aliases = ALIASES
                .iter()
                .filter_map(|(ending, other)| Some(format!("{}{other}", module.strip_suffix(ending)?)));
            names.extend(aliases.collect::<Vec<_>>());
            if part != Part::UNet {
                let other = |name: &String| match name.strip_prefix(TEXT_MODEL) {
                    Some(rest) => rest.to_string(),
                    None => format!("{TEXT_MODEL}{name}"),
                };
                names.extend(names.iter().map(other).collect::<Vec<_>>());
            }
            let place = Place { part, name: name.to_string(), shape: shape.to_vec() };
            for name in names {
                self.0.entry((part, flat(&name))).or_insert_with(|| place.clone());
            }
        }
    }

    /// The weight that `module` of a LoRA file changes.
    pub(super) fn find(&self, module: &str) -> Option<&Place> {
        let (part, name) = part_of(module);
        self.0.get(&(part, flat(&name.replace(".processor.", "."))))
    }
}

/// The module's name within its part.
pub(super) fn name_in_part(module: &str) -> &str {
    part_of(module).1
}

/// The part that a module belongs to, and the module's name within it.
fn part_of(module: &str) -> (Part, &str) {
    let root = |(root, part): &(&str, Part)| Some((*part, module.strip_prefix(root)?));
    ROOTS.iter().find_map(root).unwrap_or((Part::UNet, module))
}

/// Kohya's files have underscores for dots. So names are compared without the difference.
fn flat(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Target;

    fn places() -> Places {
        let renames = Renames::new(
            "model.diffusion_model.",
            [("input_blocks.4.1".to_string(), Target::Name("down_blocks.1.attentions.0".into()))],
        );
        let mut places = Places::default();
        let unet = [
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight", &[4, 4][..]),
            ("down_blocks.1.attentions.0.transformer_blocks.0.norm1.weight", &[4]),
        ];
        places.add(Part::UNet, unet.into_iter(), Some(&renames));
        for (part, name) in [
            (Part::TextEncoder, "encoder.layers.0.self_attn.q_proj.weight"),
            (Part::TextEncoder2, "text_model.encoder.layers.0.self_attn.q_proj.weight"),
        ] {
            places.add(part, [(name, &[2, 2][..])].into_iter(), None);
        }
        places
    }

    #[test]
    fn every_way_of_writing_finds_the_weight() {
        let places = places();
        let out = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight";
        for module in [
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0",
        ] {
            let place = places.find(module).map(|place| (place.part, place.name.as_str()));
            assert_eq!(place, Some((Part::UNet, out)), "{module}");
        }
        for (part, name, modules) in [
            (
                Part::TextEncoder,
                "encoder.layers.0.self_attn.q_proj.weight",
                [
                    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
                    "text_encoder.text_model.encoder.layers.0.self_attn.to_q",
                    "text_encoder.encoder.layers.0.self_attn.q_proj",
                ],
            ),
            (
                Part::TextEncoder2,
                "text_model.encoder.layers.0.self_attn.q_proj.weight",
                [
                    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
                    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
                    "text_encoder_2.encoder.layers.0.self_attn.to_q",
                ],
            ),
        ] {
            for module in modules {
                let place = places.find(module).map(|place| (place.part, place.name.as_str()));
                assert_eq!(place, Some((part, name)), "{module}");
            }
        }
    }

    #[test]
    fn other_modules_find_nothing() {
        for module in [
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_norm1",
            "lora_unet_text_model_encoder_layers_0_self_attn_q_proj",
            "lora_te1_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0_0",
        ] {
            assert_eq!(places().find(module), None, "{module}");
        }
    }
}
