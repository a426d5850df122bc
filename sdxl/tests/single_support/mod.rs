//! Single-file checkpoints made from diffusers folders, by the names that `tests/python/single_file.py` wrote and checked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test file uses its own part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_sdxl::checkpoint::Part;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// The repository's golden files.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// dtype, shape and bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// Tensors by name.
pub type Tensors = BTreeMap<String, Stored>;

/// All tensors of a file.
pub fn read(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    tensors.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

/// Writes a file.
pub fn write(file: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, file).unwrap();
}

/// Writes a header of f16 tensors of these shapes. Their values are a hole in the file.
pub fn write_hole(file: &Path, shapes: &BTreeMap<String, Vec<usize>>) {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    std::fs::write(file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let length = (8 + header.len() + end) as u64;
    std::fs::File::options().write(true).open(file).unwrap().set_len(length).unwrap();
}

/// The weight file of a part of a folder.
pub fn weight_file(folder: &Path, part: Part) -> PathBuf {
    folder.join(part.folder()).join(format!("{}.safetensors", part.stem()))
}

/// The original names of a folder's tensors.
pub struct Names {
    inner: Value,
    model: Value,
}

impl Names {
    /// Those of a model in `single_file.json`.
    pub fn of(model: &str) -> Self {
        let file = std::fs::read(fixtures().join("single_file.json")).unwrap();
        let mut file: Value = serde_json::from_slice(&file).unwrap();
        Self { inner: file["inner"].take(), model: file["models"][model].take() }
    }

    /// What else the file says of the model.
    pub fn fact(&self, name: &str) -> &Value {
        &self.model[name]
    }

    /// The original name of a tensor that a folder calls `name`; projections of the second text encoder have none.
    pub fn original(&self, part: Part, name: &str) -> String {
        let pairs = &self.model[part.folder()];
        match part {
            Part::TextEncoder => {
                let name = name.strip_prefix("text_model.").unwrap_or(name);
                format!("conditioner.embedders.0.transformer.text_model.{name}")
            }
            Part::TextEncoder2 => {
                let whole = self.inner["text_whole"][name].as_str().map(str::to_string);
                let inner = || {
                    let rest = name.strip_prefix("text_model.encoder.layers.").unwrap();
                    let (number, rest) = rest.split_once('.').unwrap();
                    format!(
                        "transformer.resblocks.{number}.{}",
                        replaced(rest, &self.inner["text_layer"]).unwrap()
                    )
                };
                format!("conditioner.embedders.1.model.{}", whole.unwrap_or_else(inner))
            }
            Part::UNet => {
                format!("model.diffusion_model.{}", self.within(name, pairs, "unet_resnet", "none"))
            }
            Part::Vae => {
                format!("first_stage_model.{}", self.within(name, pairs, "vae_resnet", "vae_attention"))
            }
        }
    }

    fn within(&self, name: &str, pairs: &Value, resnet: &str, attention: &str) -> String {
        let Some((module, original)) = longest(name, pairs) else { return name.to_string() };
        let rest = &name[module.len() + 1..];
        let inner = match module {
            module if module.contains(".resnets.") => &self.inner[resnet],
            module if module.contains(".attentions.") => &self.inner[attention],
            _ => &Value::Null,
        };
        format!("{original}.{}", replaced(rest, inner).unwrap_or_else(|| rest.to_string()))
    }

    /// Shapes under original names, from shapes of a folder's tensors.
    pub fn shapes(
        &self,
        part: Part,
        shapes: impl IntoIterator<Item = (String, Vec<usize>)>,
    ) -> BTreeMap<String, Vec<usize>> {
        let mut original = BTreeMap::new();
        for (name, mut shape) in shapes {
            if let Some((module, leaf)) = fused(part, &name) {
                shape[0] *= 3;
                original.insert(fused_name(&module, &leaf), shape);
                continue;
            }
            if name == "text_projection.weight" {
                shape.reverse();
            }
            if part == Part::Vae && name.contains(".attentions.") && shape.len() == 2 {
                shape.extend([1, 1]);
            }
            original.insert(self.original(part, &name), shape);
        }
        original
    }

    /// The single file of a folder's weights.
    pub fn single_file(&self, folder: &Path) -> Tensors {
        let mut single = Tensors::new();
        for part in Part::ALL {
            let tensors = read(&weight_file(folder, part));
            for (name, (dtype, mut shape, mut bytes)) in tensors.clone() {
                if let Some((module, leaf)) = fused(part, &name) {
                    let parts =
                        ["q", "k", "v"].map(|which| &tensors[&format!("{module}.{which}_proj.{leaf}")]);
                    shape[0] *= 3;
                    bytes = parts.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect();
                    single.insert(fused_name(&module, &leaf), (dtype, shape, bytes));
                    continue;
                }
                if name == "text_projection.weight" {
                    bytes = swapped(&bytes, shape[0], shape[1]);
                    shape.reverse();
                }
                if part == Part::Vae && name.contains(".attentions.") && shape.len() == 2 {
                    shape.extend([1, 1]);
                }
                single.insert(self.original(part, &name), (dtype, shape, bytes));
            }
        }
        single
    }
}

/// Module and leaf of a projection that the original file holds fused with two others.
fn fused(part: Part, name: &str) -> Option<(String, String)> {
    let is =
        part == Part::TextEncoder2 && ["q", "k", "v"].iter().any(|w| name.contains(&format!(".{w}_proj.")));
    let (module, rest) = name.rsplit_once(".self_attn.")?;
    is.then(|| (format!("{module}.self_attn"), rest.rsplit_once('.').unwrap().1.to_string()))
}

fn fused_name(module: &str, leaf: &str) -> String {
    let number = module.split('.').nth(3).unwrap();
    format!("conditioner.embedders.1.model.transformer.resblocks.{number}.attn.in_proj_{leaf}")
}

/// `rows × columns` values of two bytes with the axes swapped.
fn swapped(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    let mut turned = vec![0; bytes.len()];
    for row in 0..rows {
        for column in 0..columns {
            let (from, to) = (2 * (row * columns + column), 2 * (column * rows + row));
            turned[to..to + 2].copy_from_slice(&bytes[from..from + 2]);
        }
    }
    turned
}

/// The longest key of `pairs` that `name` begins with, and its value.
fn longest<'a>(name: &str, pairs: &'a Value) -> Option<(&'a str, &'a str)> {
    let pairs = pairs.as_object()?.iter();
    let fitting = pairs.filter(|(module, _)| name.starts_with(&format!("{module}.")));
    let (module, original) = fitting.max_by_key(|(module, _)| module.len())?;
    Some((module, original.as_str()?))
}

fn replaced(name: &str, pairs: &Value) -> Option<String> {
    let (module, original) = longest(name, pairs)?;
    Some(format!("{original}{}", &name[module.len()..]))
}

/// A small SD-XL whose shapes follow SD-XL's facts (64 channels a head, 32 groups), as a folder with CLIP's vocabulary.
pub fn write_small(folder: &Path) {
    use atedm_sdxl::architecture::{Architecture, Autoencoder, Folder, Text, UNet, Vocabulary};
    let architecture = Architecture {
        size: 1024,
        context: 77,
        text: Text { channels: [64, 64], layers: [2, 2], heads: [1, 1], expansion: 2, projection: 32 },
        unet: UNet {
            channels: vec![32, 64, 64],
            layers: 2,
            depths: vec![0, 1, 2],
            head_channels: 64,
            groups: 32,
            size_channels: 4,
        },
        vae: Autoencoder {
            channels: vec![32; 4],
            layers: 2,
            groups: 32,
            latent_channels: 4,
            scaling_factor: 0.13025,
            mid_attention: true,
        },
    };
    let vocabulary = Vocabulary::clip();
    let written = Folder {
        architecture: &architecture,
        vocabulary: &vocabulary,
        name: "small",
        card: "",
        dtype: atedm_core::DType::F16,
    };
    let values = |_, parameter: &atedm_sdxl::architecture::Parameter| {
        let mut values = atedm_sdxl::weights::random_values(5, &parameter.name, &parameter.shape);
        values.iter_mut().enumerate().for_each(|(index, value)| *value += (index % 7) as f32 * 1e-3);
        Ok(values)
    };
    written.write(folder, values).unwrap();
}
