//! Initial weights from another model. A larger model is grown from a smaller one, as SD-XL was from 256 to 1024 px.
//!
//! Every tensor that both models have is copied. The smaller model may only lack whole transformer layers of the U-Net.
//! A new layer begins as the identity: the last projection of each of its three branches is zero.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use atedm_core::{DType, Error, Result, Tensor, Weights};
use atedm_sdxl::architecture::{Architecture, Vocabulary};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part as Folder};
use atedm_sdxl::text_file;
use atedm_sdxl::weights::SafetensorsSource;
use atedm_tch::{Device, TchTensor};

/// The last projections of the three branches of a transformer layer.
const BRANCH_ENDS: [&str; 3] = ["attn1.to_out.0.weight", "attn2.to_out.0.weight", "ff.net.2.weight"];

/// The values of a model's tensors, by name (`unet.conv_in.weight`).
#[derive(Debug, Default)]
pub(super) struct Init(HashMap<String, Vec<f32>>);

impl Init {
    /// Reads the diffusers folder `root` for a model with these sizes and this vocabulary.
    ///
    /// # Errors
    /// [`Error::Config`] for `init` if the folder has another vocabulary. [`Error::Weights`] naming a tensor that only
    /// one of the two models has, or whose shapes differ. The errors of reading the folder.
    pub(super) fn open(root: &Path, model: &Architecture, vocabulary: &Vocabulary) -> Result<Self> {
        let checkpoint = Checkpoint::open(root, OpenOptions::default())?;
        same_vocabulary(root, model, vocabulary)?;
        let mut values = HashMap::new();
        for part in Folder::ALL {
            let source = SafetensorsSource::open(checkpoint.files(part), DType::F32, Device::Cpu)?;
            let names: HashSet<String> = source.names().map(str::to_string).collect();
            let layers: HashSet<&str> = names.iter().filter_map(|name| layer_of(name)).collect();
            let mut unused: HashSet<&str> = names.iter().map(String::as_str).collect();
            let weights: Weights<TchTensor> = Weights::new(source);
            for parameter in model.parameters(vocabulary, part) {
                let name = &parameter.name;
                if unused.remove(name.as_str()) {
                    let tensor = weights.tensor(name, &parameter.shape)?;
                    values.insert(format!("{}.{name}", part.folder()), tensor.to_f32()?);
                } else if layer_of(name).is_none_or(|layer| layers.contains(layer)) {
                    return Err(weights.error(name, "is not in the model to start from"));
                }
            }
            if let Some(name) = unused.into_iter().min() {
                return Err(weights.error(name, "is not in the model of the recipe"));
            }
        }
        Ok(Self(values))
    }

    /// The smaller model's values for this tensor.
    pub(super) fn values(&self, name: &str) -> Option<Vec<f32>> {
        self.0.get(name).cloned()
    }
}

/// Whether this tensor of a new transformer layer is zero at first.
pub(super) fn ends_branch(name: &str) -> bool {
    layer_of(name).is_some() && BRANCH_ENDS.iter().any(|end| name.ends_with(end))
}

/// The transformer layer that a tensor belongs to: `down_blocks.1.attentions.0.transformer_blocks.3.`
fn layer_of(name: &str) -> Option<&str> {
    const LAYERS: &str = "transformer_blocks.";
    let number = name.find(LAYERS)? + LAYERS.len();
    let end = number + name[number..].find('.')? + 1;
    Some(&name[..end])
}

/// Checks that token numbers mean the same words in both models.
fn same_vocabulary(root: &Path, model: &Architecture, vocabulary: &Vocabulary) -> Result<()> {
    for (file, content) in vocabulary.files(Vocabulary::END, model.context)? {
        if !["vocab.json", "merges.txt"].contains(&file) {
            continue;
        }
        let path = root.join("tokenizer").join(file);
        if text_file::read(&path)?.as_bytes() != content {
            let reason = format!("{} differs from the vocabulary of the recipe's captions", path.display());
            return Err(Error::config("init", reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_names_its_layer() {
        let layer = "up_blocks.0.attentions.2.transformer_blocks.11.";
        assert_eq!(layer_of(&format!("{layer}attn1.to_q.weight")), Some(layer));
        assert_eq!(layer_of("conv_in.weight"), None);
        assert!(ends_branch(&format!("{layer}ff.net.2.weight")));
        assert!(!ends_branch(&format!("{layer}ff.net.0.proj.weight")) && !ends_branch("x.ff.net.2.weight"));
    }
}
