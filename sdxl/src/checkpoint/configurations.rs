//! The contents of a checkpoint's JSON files, from a folder or found from a single file.

use std::path::Path;

use atedm_core::Result;
use serde_json::Value;

use super::Part;
use crate::config::{Fields, TextEncoderConfig, UNetConfig, VaeConfig};
use crate::schedulers::SchedulerConfig;

/// The scheduler's configuration.
pub(super) const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// JSON files of a folder: name and content.
pub(super) type Documents = Vec<(&'static str, Value)>;

/// The contents of a checkpoint's JSON files.
#[derive(Debug, Clone)]
pub(super) struct Configurations {
    pub(super) text_encoders: [TextEncoderConfig; 2],
    pub(super) unet: UNetConfig,
    pub(super) vae: VaeConfig,
    pub(super) scheduler: SchedulerConfig,
    pub(super) zero_empty_prompt: bool,
}

impl Configurations {
    /// Reads the folder `root` with this index. `other` replaces the configuration of its autoencoder.
    pub(super) fn of_folder(root: &Path, index: &Fields, other: Option<VaeConfig>) -> Result<Self> {
        // As in diffusers, the index decides the class of each part, even if the part's own file names another.
        let [first, second, unet, own_vae] = Part::ALL.map(|part| class(index, part));
        let (first, second) = (first?, second?);
        unet?;
        let config = |part: Part| root.join(part.folder()).join("config.json");
        let scheduler = root.join(SCHEDULER);
        Ok(Self {
            vae: match other {
                Some(other) => other,
                None => VaeConfig::read_as(&config(Part::Vae), own_vae?)?,
            },
            text_encoders: [
                TextEncoderConfig::read(&config(Part::TextEncoder), first)?,
                TextEncoderConfig::read(&config(Part::TextEncoder2), second)?,
            ],
            unet: UNetConfig::read(&config(Part::UNet))?,
            scheduler: match named_class(index, "scheduler") {
                Some(class) => SchedulerConfig::from_file_as(&scheduler, class)?,
                None => SchedulerConfig::from_file(&scheduler)?,
            },
            zero_empty_prompt: index.flag("force_zeros_for_empty_prompt", true)?,
        })
    }

    /// Reads documents found from the single file `root`. `other` replaces the configuration of its autoencoder.
    pub(super) fn of_documents(root: &Path, documents: &Documents, other: Option<VaeConfig>) -> Result<Self> {
        let document = |name: String| {
            let found = documents.iter().find(|(other, _)| *other == name).map(|(_, document)| document);
            (root.join(name), found.cloned().unwrap_or_default())
        };
        let of_part = |part: Part| document(format!("{}/config.json", part.folder()));
        let text = |part: Part| {
            let (file, document) = of_part(part);
            TextEncoderConfig::from_json(&file, document)
        };
        let (unet_file, unet) = of_part(Part::UNet);
        let (vae_file, vae) = of_part(Part::Vae);
        let (scheduler_file, scheduler) = document(SCHEDULER.to_string());
        Ok(Self {
            vae: match other {
                Some(other) => other,
                None => VaeConfig::from_json(&vae_file, vae)?,
            },
            text_encoders: [text(Part::TextEncoder)?, text(Part::TextEncoder2)?],
            unet: UNetConfig::from_json(&unet_file, unet)?,
            scheduler: SchedulerConfig::from_json(&scheduler.to_string(), &scheduler_file)?,
            zero_empty_prompt: true,
        })
    }
}

/// The class that `model_index.json` names for a part.
fn named_class<'a>(index: &'a Fields, part: &str) -> Option<&'a str> {
    index.get(part)?.get(1)?.as_str()
}

/// The [`named_class`], which must be one that runs here.
fn class(index: &Fields, part: Part) -> Result<&str> {
    let name = part.folder();
    let known: &[&str] = match part {
        Part::TextEncoder | Part::TextEncoder2 => &["CLIPTextModel", "CLIPTextModelWithProjection"],
        Part::UNet => &["UNet2DConditionModel"],
        Part::Vae => &["AutoencoderKL", "AutoencoderTiny"],
    };
    match named_class(index, name) {
        Some(class) if known.contains(&class) => Ok(class),
        Some(other) => Err(index.error(name, format!("expected {}, got {other:?}", known.join(" or ")))),
        None => Err(index.error(name, "expected [library, class]: an SD-XL base checkpoint has all parts")),
    }
}
