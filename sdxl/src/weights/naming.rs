//! Shows a file's tensors under other names: whole, in parts, or with swapped axes.

use std::collections::HashMap;
use std::sync::Arc;

/// The names under which a file's tensors are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// The file's own names.
    #[default]
    Stored,
    /// The file's names with this prefix (with the dot).
    Prefixed(String),
    /// The names of a diffusers folder, for a file with the original names.
    Original(Arc<Renames>),
}

/// Rules from original names to those of a diffusers folder, for one part of a checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Renames {
    /// The beginning of the names of the part's tensors.
    root: &'static str,
    rules: HashMap<String, Target>,
}

/// The place of a module or tensor of the file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// This name, followed by the rest of the original name.
    Name(String),
    /// Like `Name`, but the weight of a 1×1 convolution becomes a matrix.
    Pointwise(String),
    /// This name, for a matrix whose axes are swapped.
    Turned(String),
    /// Queries, keys and values in one tensor. Each has a third of the rows.
    Fused {
        /// The attention module.
        module: String,
        /// `weight` or `bias`.
        leaf: &'static str,
    },
}

/// A tensor as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// `(index, shares)`: the stored bytes have so many equal shares, and this is the share with the index.
    pub(crate) share: (usize, usize),
    /// Whether the stored matrix has its axes swapped. `shape` is the shape after swapping.
    pub(crate) turned: bool,
}

impl View {
    fn whole(name: String, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), share: (0, 1), turned: false }
    }
}

impl Naming {
    /// The tensors that the stored tensor `name` of `shape` is shown as: one, several or none.
    pub(crate) fn views(&self, name: &str, shape: &[usize]) -> Vec<View> {
        match self {
            Self::Stored => vec![View::whole(name.to_string(), shape)],
            Self::Prefixed(prefix) => vec![View::whole(format!("{prefix}{name}"), shape)],
            Self::Original(renames) => renames.views(name, shape),
        }
    }

    /// Whether the stored tensor `name` belongs to the part, but is not shown.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        match self {
            Self::Stored | Self::Prefixed(_) => false,
            Self::Original(renames) => renames.lacks(name),
        }
    }
}

impl Renames {
    /// Rules for the tensors below `root` (with the dot).
    pub(crate) fn new(root: &'static str, rules: impl IntoIterator<Item = (String, Target)>) -> Self {
        Self { root, rules: rules.into_iter().collect() }
    }

    /// Whether the tensor `name` belongs to the part, but has no rule.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        name.strip_prefix(self.root).is_some_and(|name| self.target(name).is_none())
    }

    /// The original name, without the root, of the module that a folder calls `name`.
    pub(crate) fn original(&self, name: &str) -> Option<String> {
        let fitting = self.rules.iter().filter_map(|(original, target)| {
            let (Target::Name(module) | Target::Pointwise(module)) = target else { return None };
            let rest = name.strip_prefix(module.as_str())?;
            (rest.is_empty() || rest.starts_with('.')).then_some((original, rest))
        });
        let (original, rest) = fitting.min_by_key(|(_, rest)| rest.len())?;
        Some(format!("{original}{rest}"))
    }

    /// The rule for `name`, and the rest of `name` after the rule's own name. The longest rule counts.
    fn target<'n>(&self, name: &'n str) -> Option<(&Target, &'n str)> {
        let dots = name.rmatch_indices('.').map(|(at, _)| at);
        let mut ends = std::iter::once(name.len()).chain(dots);
        ends.find_map(|end| Some((self.rules.get(name.get(..end)?)?, name.get(end..)?)))
    }

    fn views(&self, name: &str, shape: &[usize]) -> Vec<View> {
        let Some((target, rest)) = name.strip_prefix(self.root).and_then(|name| self.target(name)) else {
            return Vec::new();
        };
        let whole = |name: &str, shape: &[usize]| View::whole(format!("{name}{rest}"), shape);
        match (target, shape) {
            (Target::Pointwise(name), [outputs, inputs, 1] | [outputs, inputs, 1, 1]) => {
                vec![whole(name, &[*outputs, *inputs])]
            }
            (Target::Name(name) | Target::Pointwise(name), shape) => vec![whole(name, shape)],
            (Target::Turned(name), [rows, columns]) => {
                vec![View { turned: true, ..whole(name, &[*columns, *rows]) }]
            }
            (Target::Turned(name), shape) => vec![whole(name, shape)],
            (Target::Fused { module, leaf }, [rows, rest @ ..]) if rows.is_multiple_of(3) => {
                let shape = [&[rows / 3], rest].concat();
                let third = |(index, which)| View {
                    share: (index, 3),
                    ..View::whole(format!("{module}.{which}_proj.{leaf}"), &shape)
                };
                ["q", "k", "v"].into_iter().enumerate().map(third).collect()
            }
            (Target::Fused { .. }, _) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames() -> Renames {
        let fused = Target::Fused { module: "layers.0.self_attn".into(), leaf: "weight" };
        Renames::new(
            "model.",
            [
                ("a.1".to_string(), Target::Name("block.attentions.0".into())),
                ("a.1.conv".to_string(), Target::Name("block.up".into())),
                ("q".to_string(), Target::Pointwise("to_q".into())),
                ("projection".to_string(), Target::Turned("projection.weight".into())),
                ("attn.in_proj_weight".to_string(), fused),
            ],
        )
    }

    /// The name, the shape, the share and whether the axes are swapped.
    type Seen = (String, Vec<usize>, (usize, usize), bool);

    fn seen(name: &str, shape: &[usize]) -> Vec<Seen> {
        let views = renames().views(name, shape);
        views.into_iter().map(|view| (view.name, view.shape, view.share, view.turned)).collect()
    }

    #[test]
    fn the_longest_rule_counts_and_the_rest_is_kept() {
        let whole = |name: &str| vec![(name.to_string(), vec![3], (0, 1), false)];
        assert_eq!(seen("model.a.1.norm.weight", &[3]), whole("block.attentions.0.norm.weight"));
        assert_eq!(seen("model.a.1.conv.bias", &[3]), whole("block.up.bias"));
        for other in ["model.a.10.norm.weight", "a.1.norm.weight", "model.", "model.a"] {
            assert_eq!(seen(other, &[3]), [], "{other}");
        }
        assert!(renames().lacks("model.b.weight") && !renames().lacks("model_ema.b"));
        assert!(!renames().lacks("model.a.1.norm.weight"));
    }

    #[test]
    fn original_names_come_from_the_longest_rule() {
        let original = |name: &str| renames().original(name);
        assert_eq!(original("block.attentions.0.to_q").as_deref(), Some("a.1.to_q"));
        assert_eq!(original("block.up").as_deref(), Some("a.1.conv"));
        assert_eq!(original("to_q").as_deref(), Some("q"));
        assert_eq!((original("block.attentions.01"), original("layers.0")), (None, None));
    }

    #[test]
    fn tensors_are_cut_turned_and_flattened() {
        let third = |which: &str, index| {
            (format!("layers.0.self_attn.{which}_proj.weight"), vec![2, 4], (index, 3), false)
        };
        assert_eq!(seen("model.attn.in_proj_weight", &[6, 4]), [third("q", 0), third("k", 1), third("v", 2)]);
        assert_eq!(seen("model.attn.in_proj_weight", &[7, 4]), []);
        let turned = ("projection.weight".to_string(), vec![5, 4], (0, 1), true);
        assert_eq!(seen("model.projection", &[4, 5]), [turned]);
        for shape in [&[4, 5][..], &[4, 5, 1], &[4, 5, 1, 1]] {
            assert_eq!(seen("model.q.weight", shape), [("to_q.weight".into(), vec![4, 5], (0, 1), false)]);
        }
        assert_eq!(seen("model.q.bias", &[4]), [("to_q.bias".into(), vec![4], (0, 1), false)]);
    }
}
