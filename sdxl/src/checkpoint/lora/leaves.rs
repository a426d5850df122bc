//! The endings of tensor names in LoRA files, and the layers that these tensors make.

use std::collections::BTreeMap;

use atedm_core::Result;

use crate::checkpoint::single::Shapes;

/// How the tensors of a layer make its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// `up · down`.
    Lora,
    /// `(w1_a · w1_b) ⊙ (w2_a · w2_b)`.
    Loha,
    /// `w1 ⊗ w2`, each whole or a product.
    Lokr,
}

impl Family {
    /// The usual name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lora => "LoRA",
            Self::Loha => "LoHa",
            Self::Lokr => "LoKr",
        }
    }
}

/// The place of a tensor in a factor `left · core · right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The whole factor.
    Whole,
    Left,
    Right,
    /// The kernel between the two, for factors of convolutions.
    Core,
}

/// What a tensor is in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The layer's scale, times its rank.
    Alpha,
    /// A tensor of the first or the second factor.
    Factor(Family, usize, Side),
}

use Family::{Loha, Lokr, Lora};
use Side::{Core, Left, Right, Whole};

/// All endings. Kohya, LyCORIS, PEFT and diffusers (in three versions) write them.
const LEAVES: [(&str, Role); 27] = [
    (".lora_up.weight", Role::Factor(Lora, 0, Left)),
    (".lora_down.weight", Role::Factor(Lora, 0, Right)),
    (".lora_mid.weight", Role::Factor(Lora, 0, Core)),
    (".lora_B.weight", Role::Factor(Lora, 0, Left)),
    (".lora_A.weight", Role::Factor(Lora, 0, Right)),
    (".lora_B.default.weight", Role::Factor(Lora, 0, Left)),
    (".lora_A.default.weight", Role::Factor(Lora, 0, Right)),
    (".lora.up.weight", Role::Factor(Lora, 0, Left)),
    (".lora.down.weight", Role::Factor(Lora, 0, Right)),
    (".lora_linear_layer.up.weight", Role::Factor(Lora, 0, Left)),
    (".lora_linear_layer.down.weight", Role::Factor(Lora, 0, Right)),
    ("_lora.up.weight", Role::Factor(Lora, 0, Left)),
    ("_lora.down.weight", Role::Factor(Lora, 0, Right)),
    (".hada_w1_a", Role::Factor(Loha, 0, Left)),
    (".hada_w1_b", Role::Factor(Loha, 0, Right)),
    (".hada_t1", Role::Factor(Loha, 0, Core)),
    (".hada_w2_a", Role::Factor(Loha, 1, Left)),
    (".hada_w2_b", Role::Factor(Loha, 1, Right)),
    (".hada_t2", Role::Factor(Loha, 1, Core)),
    (".lokr_w1", Role::Factor(Lokr, 0, Whole)),
    (".lokr_w1_a", Role::Factor(Lokr, 0, Left)),
    (".lokr_w1_b", Role::Factor(Lokr, 0, Right)),
    (".lokr_w2", Role::Factor(Lokr, 1, Whole)),
    (".lokr_w2_a", Role::Factor(Lokr, 1, Left)),
    (".lokr_w2_b", Role::Factor(Lokr, 1, Right)),
    (".lokr_t2", Role::Factor(Lokr, 1, Core)),
    (".alpha", Role::Alpha),
];

/// Beginnings or endings of names that only other kinds of adapters have.
const OTHERS: [(&str, &str); 13] = [
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".lora_magnitude_vector.weight", "DoRA"),
    (".oft_blocks", "OFT"),
    (".oft_diag", "OFT"),
    (".on_input", "IA3"),
    (".lora_up.bias", "biases"),
    (".lora_B.bias", "biases"),
    (".diff", "whole differences"),
    (".diff_b", "whole differences"),
    (".w_norm", "differences of norms"),
    (".b_norm", "differences of norms"),
    ("bundle_emb.", "embeddings beside the LoRA"),
];

/// A kind of adapter that is not read here, if the tensor `name` belongs to one.
pub(super) fn unread_kind(name: &str) -> Option<&'static str> {
    let fits = |part: &str| name.ends_with(part) || name.starts_with(part);
    OTHERS.iter().find(|(part, _)| fits(part)).map(|(_, kind)| *kind)
}

/// The module of the tensor `name`, and the tensor's role.
fn split(name: &str) -> Option<(&str, Role)> {
    LEAVES.iter().find_map(|(leaf, role)| Some((name.strip_suffix(leaf)?, *role)))
}

/// Whether a LoRA has a tensor of this name, and no checkpoint has.
pub(super) fn is_factor(name: &str) -> bool {
    matches!(split(name), Some((_, Role::Factor(..))))
}

/// The names of the tensors of a factor.
#[derive(Debug, Default)]
pub(super) struct FactorNames {
    pub(super) whole: Option<String>,
    pub(super) left: Option<String>,
    pub(super) right: Option<String>,
    pub(super) core: Option<String>,
}

/// A module of a LoRA file with the names of its tensors.
#[derive(Debug)]
pub(super) struct LayerNames {
    pub(super) family: Family,
    pub(super) factors: [FactorNames; 2],
    pub(super) alpha: Option<String>,
}

/// Sorts a file's tensors by module, in order.
///
/// # Errors
/// [`Error::Weights`] for tensors of a kind that is not read, and for a module of two families.
pub(super) fn layers(shapes: &Shapes) -> Result<BTreeMap<String, LayerNames>> {
    let unknown: Vec<&str> = shapes.names().filter(|name| split(name).is_none()).collect();
    if let Some((name, kind)) = unknown.iter().find_map(|name| Some((name, unread_kind(name)?))) {
        let reason = format!("holds {kind}, which is not read ({name}): expected LoRA, LoHa or LoKr");
        return Err(shapes.error("", reason));
    }
    if !unknown.is_empty() {
        let (count, shown) = (unknown.len(), examples(&unknown));
        let reason =
            format!("expected only tensors of LoRA, LoHa or LoKr, got {count} of other kinds: {shown}");
        return Err(shapes.error("", reason));
    }
    let mut layers: BTreeMap<String, LayerNames> = BTreeMap::new();
    let mut alphas = Vec::new();
    for name in shapes.names() {
        match split(name) {
            Some((module, Role::Factor(family, place, side))) => {
                let layer = layers.entry(module.to_string()).or_insert_with(|| LayerNames {
                    family,
                    factors: Default::default(),
                    alpha: None,
                });
                if layer.family != family {
                    let (one, other) = (layer.family.name(), family.name());
                    return Err(
                        shapes.error(module, format!("expected one kind of change, got {one} and {other}"))
                    );
                }
                let factor = &mut layer.factors[place];
                let slot = match side {
                    Whole => &mut factor.whole,
                    Left => &mut factor.left,
                    Right => &mut factor.right,
                    Core => &mut factor.core,
                };
                if let Some(other) = slot.replace(name.to_string()) {
                    return Err(shapes.error(name, format!("is there twice: also as {other}")));
                }
            }
            Some((module, Role::Alpha)) => alphas.push((module, name)),
            None => {}
        }
    }
    for (module, name) in alphas {
        match layers.get_mut(module) {
            Some(layer) => layer.alpha = Some(name.to_string()),
            None => return Err(shapes.error(name, "expected the tensors of this module beside its alpha")),
        }
    }
    Ok(layers)
}

/// Up to three of these names.
pub(super) fn examples(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(3).map(AsRef::as_ref).collect();
    format!("{}{}", shown.join(", "), if names.len() > shown.len() { ", …" } else { "" })
}
