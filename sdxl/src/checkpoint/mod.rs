//! Checkpoints: diffusers folders, without conversion.
//!
//! ```text
//! model_index.json                 which pipeline, and whether an absent negative prompt is zeroed
//! tokenizer/  tokenizer_2/         vocab.json + merges.txt, or tokenizer.json
//! text_encoder/  text_encoder_2/   config.json, model[.variant].safetensors (or an index and shards)
//! unet/  vae/                      config.json, diffusion_pytorch_model[.variant].safetensors (or an index and shards)
//! scheduler/                       scheduler_config.json
//! ```

mod door;
mod files;
mod identity;
mod part;

use std::path::{Path, PathBuf};

use atedm_core::{DType, Error, Result, Tensor, Weights};

use crate::config::{Fields, TextEncoderConfig, TinyVaeConfig, UNetConfig, VaeConfig};
use crate::schedulers::SchedulerConfig;
use crate::tokenizer::ClipTokenizer;
use crate::weights::{Contents, SafetensorsSource, WeightFile};

pub use identity::identity;
pub use part::Part;

/// All files that a tokenizer may be read from.
const TOKENIZER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Options for opening a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Read only the files of this variant (`fp16`). Without it, plain files are preferred, then `fp16`, then `bf16`.
    pub variant: Option<String>,
    /// An autoencoder that replaces the folder's own. It is a folder with `config.json` and weights, or with the two
    /// files `taesdxl_encoder.safetensors` and `taesdxl_decoder.safetensors`.
    pub vae: Option<PathBuf>,
}

/// An SD-XL checkpoint. Its configurations are read and its weight files are found, but not opened.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    root: PathBuf,
    /// The autoencoder's folder.
    vae_folder: PathBuf,
    text_encoders: [TextEncoderConfig; 2],
    unet: UNetConfig,
    vae: VaeConfig,
    scheduler: SchedulerConfig,
    zero_empty_prompt: bool,
    files: [Vec<WeightFile>; 4],
}

impl Checkpoint {
    /// Reads the configurations in `root` and finds its weight files.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] for missing files. [`Error::Config`] naming the file and the field if a
    /// value does not parse, is not implemented or does not fit the other parts.
    pub fn open(root: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let root = root.as_ref();
        let index = door::model_index(root)?;
        // As in diffusers, the index decides the class of each part, even if the part's own file names another.
        let [first, second, unet, own_vae] = Part::ALL.map(|part| class(&index, part));
        let (first, second) = (first?, second?);
        unet?;
        let config = |part: Part| root.join(part.folder()).join("config.json");
        let variant = options.variant.as_deref();
        let find = |part: Part| files::find(&root.join(part.folder()), part, variant);
        let (vae, vae_files) = match &options.vae {
            None => (VaeConfig::read_as(&config(Part::Vae), own_vae?)?, find(Part::Vae)?),
            Some(folder) => other_vae(folder, variant)?,
        };
        let scheduler = root.join("scheduler").join("scheduler_config.json");
        let checkpoint = Self {
            text_encoders: [
                TextEncoderConfig::read(&config(Part::TextEncoder), first)?,
                TextEncoderConfig::read(&config(Part::TextEncoder2), second)?,
            ],
            unet: UNetConfig::read(&config(Part::UNet))?,
            vae,
            scheduler: match named_class(&index, "scheduler") {
                Some(class) => SchedulerConfig::from_file_as(&scheduler, class)?,
                None => SchedulerConfig::from_file(&scheduler)?,
            },
            zero_empty_prompt: index.flag("force_zeros_for_empty_prompt", true)?,
            files: [find(Part::TextEncoder)?, find(Part::TextEncoder2)?, find(Part::UNet)?, vae_files],
            vae_folder: options.vae.unwrap_or_else(|| root.join(Part::Vae.folder())),
            root: root.to_path_buf(),
        };
        checkpoint.check_fit()?;
        Ok(checkpoint)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configurations of `text_encoder` and `text_encoder_2`.
    pub fn text_encoders(&self) -> [&TextEncoderConfig; 2] {
        self.text_encoders.each_ref()
    }

    /// The U-Net's configuration.
    pub fn unet(&self) -> &UNetConfig {
        &self.unet
    }

    /// The autoencoder's configuration.
    pub fn vae(&self) -> &VaeConfig {
        &self.vae
    }

    /// The scheduler's configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Whether an absent negative prompt becomes zeros. If not, it becomes the encoding of the empty prompt.
    pub fn force_zeros_for_empty_prompt(&self) -> bool {
        self.zero_empty_prompt
    }

    /// Checks that the parts fit each other.
    fn check_fit(&self) -> Result<()> {
        let field = |part: Part, name: &str| {
            format!("{}: {name}", self.root.join(part.folder()).join("config.json").display())
        };
        let [first, second] = &self.text_encoders;
        let Some(pooled) = second.projection else {
            let index = self.root.join("model_index.json");
            let name = format!("{}: {}", index.display(), Part::TextEncoder2.folder());
            return Err(Error::config(name, "expected CLIPTextModelWithProjection"));
        };
        let text = first.channels + second.channels;
        if text != self.unet.text_channels() {
            let reason = format!("expected {text} (both text encoders), got {}", self.unet.text_channels());
            return Err(Error::config(field(Part::UNet, "cross_attention_dim"), reason));
        }
        let added = pooled + 6 * self.unet.size_channels;
        if added != self.unet.added_channels {
            let reason = format!(
                "expected {added} (pooled text {pooled} and six times addition_time_embed_dim {}), got {}",
                self.unet.size_channels, self.unet.added_channels
            );
            return Err(Error::config(field(Part::UNet, "projection_class_embeddings_input_dim"), reason));
        }
        let latents = self.vae.latent_channels();
        if latents != self.unet.in_channels || latents != self.unet.out_channels {
            let (inputs, outputs) = (self.unet.in_channels, self.unet.out_channels);
            let purpose = match inputs.checked_sub(latents) {
                Some(more) if more == latents + 1 => " (it inpaints: it also takes a mask and an image)",
                Some(more) if more == latents => " (it edits: it also takes an image)",
                _ => "",
            };
            let reason = format!(
                "expected {latents} (the autoencoder's latents) in and out, got {inputs} and {outputs}{purpose}"
            );
            return Err(Error::config(field(Part::UNet, "in_channels"), reason));
        }
        Ok(())
    }

    /// Maps the weights of `part` into memory. They are converted to `dtype` on `device` when they are used.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] naming the file that is missing, truncated or broken.
    pub fn weights<T: Tensor>(&self, part: Part, dtype: DType, device: &T::Device) -> Result<Weights<T>> {
        Ok(Weights::new(SafetensorsSource::<T::Device>::open(self.files(part), dtype, device.clone())?))
    }

    /// The weight files of `part`.
    pub fn files(&self, part: Part) -> &[WeightFile] {
        &self.files[part as usize]
    }

    /// The number of parameters in the weight files of `part`, and their dtypes. Only the headers are read.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] naming the file.
    pub fn contents(&self, part: Part) -> Result<Contents> {
        let mut contents = Contents::default();
        self.files(part).iter().try_for_each(|file| contents.add(&file.path))?;
        Ok(contents)
    }

    /// Both tokenizers, each with its text encoder's context as the longest prompt.
    ///
    /// # Errors
    /// The errors of [`ClipTokenizer::open`].
    pub fn tokenizers(&self) -> Result<[ClipTokenizer; 2]> {
        let open = |folder: &str, encoder: &TextEncoderConfig| {
            let folder = self.root.join(folder);
            // A tokenizer works without some of its files. But a dead link means that the file should be there.
            TOKENIZER_FILES.iter().try_for_each(|name| files::refuse_dead_link(&folder.join(name)))?;
            let tokenizer = ClipTokenizer::open(&folder, encoder.context)?;
            tokenizer.check_special(encoder.vocabulary)?;
            Ok(tokenizer)
        };
        let [first, second] = &self.text_encoders;
        Ok([open("tokenizer", first)?, open("tokenizer_2", second)?])
    }

    /// diffusers' default image size: the U-Net's `sample_size` times the autoencoder's factor.
    pub fn default_size(&self) -> Option<usize> {
        self.unet.sample_size.map(|latents| latents * self.vae.factor())
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

/// Reads an autoencoder outside the checkpoint.
fn other_vae(folder: &Path, variant: Option<&str>) -> Result<(VaeConfig, Vec<WeightFile>)> {
    let config = folder.join("config.json");
    let original = ["encoder", "decoder"].map(|side| WeightFile {
        path: folder.join(format!("taesdxl_{side}.safetensors")),
        prefix: format!("{side}."),
    });
    if !config.is_file() && original[1].path.is_file() {
        let there = original.into_iter().filter(|file| file.path.is_file());
        return Ok((VaeConfig::Tiny(TinyVaeConfig::default()), there.collect()));
    }
    Ok((VaeConfig::read(&config)?, files::find(folder, Part::Vae, variant)?))
}
