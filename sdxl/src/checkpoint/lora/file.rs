//! A LoRA file, matched with a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use atedm_core::{DType, Error, Result, Tensor};

use super::factor::Reader;
use super::form::{Change, Form};
use super::kind::{is_adapter, of_width, other_model, text_width};
use super::leaves::{LayerNames, examples, layers};
use super::places::{Place, Places, name_in_part};
use super::request::Lora;
use super::settings::{KEY, Settings};
use crate::checkpoint::Part;
use crate::checkpoint::sampled::Sampled;
use crate::checkpoint::single::{Shapes, what_else};
use crate::weights::SafetensorsSource;

/// A LoRA file whose layers have their places in a checkpoint. Its values are read when weights are loaded.
#[derive(Debug, Clone)]
pub struct LoraFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    lora: Lora,
    source: SafetensorsSource<()>,
    layers: Vec<Layer>,
    kind: String,
}

/// A change of one weight.
#[derive(Debug)]
struct Layer {
    part: Part,
    /// The weight's name in a folder.
    name: String,
    form: Form,
    /// `alpha / rank`.
    scale: f64,
}

impl LoraFile {
    /// Opens a file and finds the weights of a checkpoint that it changes. The checkpoint's cross-attention reads text of
    /// `width` channels.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Weights`] that says what the file is and what was expected.
    pub(crate) fn open(lora: &Lora, places: &Places, width: usize) -> Result<Self> {
        lora.check()?;
        if lora.path.is_dir() {
            let reason =
                "is a folder: expected one safetensors file, such as pytorch_lora_weights.safetensors";
            return Err(Error::weights(&lora.path, "", reason));
        }
        let source = SafetensorsSource::open(&[lora.path.clone().into()], DType::F32, ())?;
        let shapes = Shapes::of(&lora.path, &source);
        check_kind(&shapes, width)?;
        let names = layers(&shapes)?;
        let lost: Vec<&String> = names.keys().filter(|module| places.find(module).is_none()).collect();
        if !lost.is_empty() {
            let (count, all) = (lost.len(), names.len());
            let reason = format!(
                "expected only layers of this checkpoint, got {count} of {all} others: {}",
                examples(&lost)
            );
            return Err(shapes.error("", reason));
        }
        let kind = kind(&names, &shapes);
        let reader = LayerReader {
            settings: &Settings::read(&shapes, source.note(KEY))?,
            source: &source,
            shapes: &shapes,
        };
        let found = names.iter().filter_map(|(module, names)| Some((module, names, places.find(module)?)));
        let layers: Vec<Layer> =
            found.map(|(module, names, place)| reader.layer(module, names, place)).collect::<Result<_>>()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) =
            layers.iter().find(|layer| !seen.insert((layer.part as usize, layer.name.as_str())))
        {
            return Err(shapes.error("", format!("expected one change of {}, got two", twice.name)));
        }
        let kernel = |module| {
            places.find(module).is_some_and(|place| place.shape.iter().skip(2).any(|axis| *axis > 1))
        };
        let kernels = names.keys().any(|module| kernel(module));
        let kind = if kernels { format!("{kind}, with convolutions") } else { kind };
        source.expect_finite()?;
        Ok(Self(Arc::new(Opened { lora: lora.clone(), layers, kind, source })))
    }

    /// What was asked for.
    pub fn lora(&self) -> &Lora {
        &self.0.lora
    }

    /// What kind of file it is, in words.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The number of weights of `part` that it changes.
    pub fn layers(&self, part: Part) -> usize {
        self.of(part).count()
    }

    /// The lowest and the highest rank of its layers. `None` if all layers are stored whole.
    pub fn ranks(&self) -> Option<RangeInclusive<usize>> {
        let ranks = || self.0.layers.iter().filter_map(|layer| layer.form.rank());
        Some(ranks().min()?..=ranks().max()?)
    }

    /// Identifies the file's content, as [`Checkpoint::identity`](crate::checkpoint::Checkpoint::identity) does a
    /// checkpoint's: 64 hexadecimal digits. The scales do not matter.
    pub fn identity(&self) -> String {
        let mut sum = Sampled::default();
        self.add_content(&mut sum);
        sum.digits()
    }

    /// Adds the content and the scales.
    pub(crate) fn add_to(&self, sum: &mut Sampled) {
        self.add_content(sum);
        for scale in [self.0.lora.scale, self.0.lora.text_scale()] {
            sum.field(&scale.to_le_bytes());
        }
    }

    fn add_content(&self, sum: &mut Sampled) {
        sum.field(b"atedm lora 1");
        sum.field(self.0.source.note(KEY).unwrap_or_default().as_bytes());
        sum.source(&self.0.source);
    }

    /// The names of the weights of `part` that it changes.
    pub(super) fn changed(&self, part: Part) -> impl Iterator<Item = &str> {
        self.of(part).map(|layer| layer.name.as_str())
    }

    /// The change of a weight, if it changes it.
    ///
    /// # Errors
    /// The errors of reading the file, and of the backend.
    pub(super) fn change<T: Tensor>(
        &self,
        part: Part,
        name: &str,
        dtype: DType,
        device: &T::Device,
    ) -> Result<Option<Change<T>>> {
        let Opened { lora, source, .. } = &*self.0;
        let Some(layer) = self.of(part).find(|layer| layer.name == name) else { return Ok(None) };
        let strength = if part == Part::UNet { lora.scale } else { lora.text_scale() };
        layer.form.change(strength * layer.scale, &Reader { source, dtype, device }).map(Some)
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &Layer> {
        self.0.layers.iter().filter(move |layer| layer.part == part)
    }
}

/// Checks that the file is a LoRA for a U-Net whose cross-attention reads text of `width` channels.
fn check_kind(shapes: &Shapes, width: usize) -> Result<()> {
    if !is_adapter(shapes) {
        let what = what_else(shapes).unwrap_or("no LoRA that is known here");
        return Err(shapes.error("", format!("is {what}: expected a LoRA")));
    }
    if let Some(model) = other_model(shapes) {
        return Err(shapes.error("", format!("is a LoRA of {model}: expected one of SD-XL")));
    }
    if shapes.any("base_model.model.") {
        let reason = "is a file of PEFT alone, which keeps its scale elsewhere (adapter_config.json): \
                      expected a file of diffusers' save_lora_weights";
        return Err(shapes.error("", reason));
    }
    match text_width(shapes) {
        Some(other) if other != width => {
            let model = of_width(other).unwrap_or("another model");
            let reason = format!(
                "is a LoRA of {model} (cross-attention width {other}): expected one of width {width}"
            );
            Err(shapes.error("", reason))
        }
        _ => Ok(()),
    }
}

/// The families of the layers and the origin of their names.
fn kind(names: &BTreeMap<String, LayerNames>, shapes: &Shapes) -> String {
    let families: BTreeSet<_> = names.values().map(|layer| layer.family).collect();
    let families: Vec<&str> = families.into_iter().map(|family| family.name()).collect();
    let originals = ["input_blocks", "middle_block", "output_blocks"];
    let any = |has: &dyn Fn(&str) -> bool| shapes.names().any(has);
    let origin = if any(&|name| name.starts_with("lora_")) {
        "kohya's names"
    } else if any(&|name| name.contains(".lora_A.")) {
        "PEFT's names"
    } else {
        "diffusers' names"
    };
    let original = any(&|name| originals.iter().any(|block| name.contains(block)));
    format!("{} with {origin}{}", families.join(" and "), if original { " (original blocks)" } else { "" })
}

/// Finds layers with their scales.
struct LayerReader<'a> {
    settings: &'a Settings,
    source: &'a SafetensorsSource<()>,
    shapes: &'a Shapes,
}

impl LayerReader<'_> {
    fn layer(&self, module: &str, names: &LayerNames, place: &Place) -> Result<Layer> {
        let form = Form::of(self.shapes, module, names)?;
        let size = [place.shape[0], place.shape[1..].iter().product()];
        if form.size() != size {
            let [rows, columns] = form.size();
            let reason = format!("expected a change of shape {:?}, got {rows} x {columns}", place.shape);
            return Err(self.shapes.error(module, reason));
        }
        let scale = self.scale(module, names, place.part, form.rank())?;
        Ok(Layer { part: place.part, name: place.name.clone(), form, scale })
    }

    /// `alpha / rank`. Without an alpha it is 1, as alpha is the rank then.
    fn scale(&self, module: &str, names: &LayerNames, part: Part, rank: Option<usize>) -> Result<f64> {
        match (&names.alpha, rank) {
            (_, None) => Ok(1.0),
            (Some(alpha), Some(rank)) => {
                let value = self.source.scalar(alpha)?;
                if !value.is_finite() {
                    return Err(self.shapes.error(alpha, format!("expected a finite number, got {value}")));
                }
                Ok(value / rank as f64)
            }
            (None, Some(rank)) => {
                let found = self.settings.scale(self.shapes, part, name_in_part(module), rank)?;
                Ok(found.unwrap_or(1.0))
            }
        }
    }
}
