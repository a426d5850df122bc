//! Checkpoints: diffusers folders and single files with the original names, without conversion.
//!
//! ```text
//! model_index.json                 which pipeline, and whether an absent negative prompt is zeroed
//! tokenizer/  tokenizer_2/         vocab.json + merges.txt, or tokenizer.json
//! text_encoder/  text_encoder_2/   config.json, model[.variant].safetensors (or an index and shards)
//! unet/  vae/                      config.json, diffusion_pytorch_model[.variant].safetensors (or an index and shards)
//! scheduler/                       scheduler_config.json
//! ```

mod configurations;
mod convert;
mod door;
mod embedding;
mod files;
mod found;
mod identity;
mod lora;
mod other;
mod part;
mod sampled;
mod single;

use std::path::{Path, PathBuf};

use atedm_core::{DType, Error, Result, Tensor, Weights};

use crate::architecture::clip;
use crate::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use crate::schedulers::SchedulerConfig;
use crate::tokenizer::{ClipTokenizer, Files};
use crate::weights::{Contents, Naming, SafetensorsSource, WeightFile};

use configurations::{Configurations, Documents, SCHEDULER};
pub use embedding::{Embedding, EmbeddingFile};
pub use found::OpenOptions;
use found::{Found, Settings};
pub use identity::identity;
pub use lora::{Lora, LoraFile};
use lora::{Merged, Places};
pub use other::open_vae;
use other::{Origin, Replaced};
pub use part::Part;

/// The folders of the tokenizers.
const TOKENIZERS: [&str; 2] = ["tokenizer", "tokenizer_2"];

/// All files that a tokenizer may be read from.
const TOKENIZER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// An SD-XL checkpoint. Its configurations are read and its weight files are found, but not opened.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    root: PathBuf,
    settings: Settings,
    /// The parts that come from elsewhere.
    replaced: Replaced,
    configurations: Configurations,
    files: [Vec<WeightFile>; 4],
    /// The ControlNet beside the U-Net.
    control: Option<ControlFiles>,
    loras: Vec<LoraFile>,
    embeddings: Vec<Embedding>,
}

/// The files of a ControlNet. Its configuration is with the U-Net's ([`UNetConfig::control`]).
#[derive(Debug, Clone)]
struct ControlFiles {
    origin: Origin,
    weights: Vec<WeightFile>,
}

impl Checkpoint {
    /// Opens a diffusers folder, or a single safetensors file with the original names. Weights are not loaded yet.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] for missing files, and for a single file that is no SD-XL checkpoint.
    /// [`Error::Config`] naming the file and the field if a value does not parse, is not implemented or does not fit the other
    /// parts. A ControlNet that does not fit the U-Net is refused in the same way. For a LoRA, [`Error::Weights`] that says what the file is, and [`Error::Config`] for a scale that is not finite.
    pub fn open(root: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let root = root.as_ref();
        let found = if single::is_meant(root) {
            single::find(root, &options)?
        } else {
            found::in_folder(root, &options)?
        };
        let Found { settings, configurations, files, replaced } = found;
        let encoders = configurations.text_encoders.each_ref();
        let embeddings = options.embeddings.iter().map(|file| Embedding::open(file, encoders));
        let mut checkpoint = Self {
            root: root.to_path_buf(),
            settings,
            embeddings: embeddings.collect::<Result<_>>()?,
            replaced,
            configurations,
            files,
            control: None,
            loras: Vec::new(),
        };
        checkpoint.check_fit()?;
        if let Some(path) = &options.controlnet {
            let factor = checkpoint.vae().factor();
            let found = other::control_net(path, options.variant.as_deref(), checkpoint.unet(), factor)?;
            checkpoint.configurations.unet.control = Some(Box::new(found.config));
            checkpoint.control = Some(ControlFiles { origin: found.origin, weights: found.files });
        }
        if !options.loras.is_empty() {
            let (places, width) = (checkpoint.places()?, checkpoint.unet().text_channels());
            let open = |lora| LoraFile::open(lora, &places, width);
            checkpoint.loras = options.loras.iter().map(open).collect::<Result<_>>()?;
        }
        Ok(checkpoint)
    }

    /// The weights that LoRAs may change. The headers of the weight files are read.
    fn places(&self) -> Result<Places> {
        let mut places = Places::default();
        let originals = single::unet_names(self.unet(), single::names::root(Part::UNet));
        for part in [Part::TextEncoder, Part::TextEncoder2, Part::UNet] {
            let source = SafetensorsSource::open(self.files(part), DType::F32, ())?;
            let tensors = source.stored().into_iter().map(|tensor| (tensor.name, tensor.shape));
            places.add(part, tensors, (part == Part::UNet).then_some(&originals));
        }
        Ok(places)
    }

    /// The LoRAs that change the weights, in the order in which they were given.
    pub fn loras(&self) -> &[LoraFile] {
        &self.loras
    }

    /// The folder, or the single file.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the checkpoint is a single file.
    pub fn is_single_file(&self) -> bool {
        matches!(self.files(Part::TextEncoder), [WeightFile { naming: Naming::Original(_), .. }])
    }

    /// The configurations of `text_encoder` and `text_encoder_2`.
    pub fn text_encoders(&self) -> [&TextEncoderConfig; 2] {
        self.configurations.text_encoders.each_ref()
    }

    /// The U-Net's configuration, with that of a ControlNet beside it.
    pub fn unet(&self) -> &UNetConfig {
        &self.configurations.unet
    }

    /// The autoencoder's configuration.
    pub fn vae(&self) -> &VaeConfig {
        &self.configurations.vae
    }

    /// The scheduler's configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.configurations.scheduler
    }

    /// Whether an absent negative prompt becomes zeros. If not, it becomes the encoding of the empty prompt.
    pub fn force_zeros_for_empty_prompt(&self) -> bool {
        self.configurations.zero_empty_prompt
    }

    /// The textual inversions that it was opened with.
    pub fn embeddings(&self) -> &[Embedding] {
        &self.embeddings
    }

    /// Checks that the parts fit each other.
    fn check_fit(&self) -> Result<()> {
        let root = match &self.settings {
            Settings::Folder(folder) => folder,
            Settings::Derived(_) => &self.root,
        };
        let field = |part: Part, name: &str| match self.replaced.of(part) {
            Some(origin) => format!("{}: {name}", origin.path().display()),
            None => format!("{}: {name}", root.join(part.folder()).join("config.json").display()),
        };
        let Configurations { text_encoders: [first, second], unet, vae, .. } = &self.configurations;
        let Some(pooled) = second.projection else {
            let index = root.join("model_index.json");
            let name = format!("{}: {}", index.display(), Part::TextEncoder2.folder());
            return Err(Error::config(name, "expected CLIPTextModelWithProjection"));
        };
        let text = first.channels + second.channels;
        if text != unet.text_channels() {
            let reason = format!("expected {text} (both text encoders), got {}", unet.text_channels());
            return Err(Error::config(field(Part::UNet, "cross_attention_dim"), reason));
        }
        let added = pooled + 6 * unet.size_channels;
        if added != unet.added_channels {
            let reason = format!(
                "expected {added} (pooled text {pooled} and six times addition_time_embed_dim {}), got {}",
                unet.size_channels, unet.added_channels
            );
            return Err(Error::config(field(Part::UNet, "projection_class_embeddings_input_dim"), reason));
        }
        let latents = vae.latent_channels();
        if let (Some(origin), true) = (&self.replaced.vae, latents != unet.out_channels) {
            let family = if latents == 16 { " (as FLUX's and Stable Diffusion 3's)" } else { "" };
            let reason = format!(
                "is an autoencoder of {latents} latent channels{family}: expected {}, as the U-Net's latents have",
                unet.out_channels
            );
            return Err(Error::config(origin.path().display().to_string(), reason));
        }
        let fits = latents == unet.in_channels || unet.is_inpainting();
        if !fits || latents != unet.out_channels {
            let (inputs, outputs) = (unet.in_channels, unet.out_channels);
            let edits = inputs == 2 * latents;
            let purpose = if edits { " (it edits: it also takes an image)" } else { "" };
            let reason = format!(
                "expected {latents} (the autoencoder's latents) in and out, got {inputs} and {outputs}{purpose}"
            );
            return Err(Error::config(field(Part::UNet, "in_channels"), reason));
        }
        Ok(())
    }

    /// Maps the weights of `part` into memory. They are converted to `dtype` on `device` when they are used. LoRAs have
    /// changed them.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] naming the file that is missing, truncated or broken.
    pub fn weights<T: Tensor>(&self, part: Part, dtype: DType, device: &T::Device) -> Result<Weights<T>> {
        let source = SafetensorsSource::<T::Device>::open(self.files(part), dtype, device.clone())?;
        if self.loras.iter().all(|lora| lora.layers(part) == 0) {
            return Ok(Weights::new(source));
        }
        Ok(Weights::new(Merged::new(source, part, &self.loras, dtype, device.clone())))
    }

    /// The weights of the ControlNet, if there is one. LoRAs do not change them.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::weights`].
    pub fn control_weights<T: Tensor>(&self, dtype: DType, device: &T::Device) -> Result<Option<Weights<T>>> {
        let open = |files: &ControlFiles| {
            SafetensorsSource::<T::Device>::open(&files.weights, dtype, device.clone()).map(Weights::new)
        };
        self.control.as_ref().map(open).transpose()
    }

    /// The number of parameters in the ControlNet's weight files, and their dtypes. Only the headers are read.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::contents`].
    pub fn control_contents(&self) -> Result<Option<Contents>> {
        let Some(control) = &self.control else { return Ok(None) };
        let mut contents = Contents::default();
        control.weights.iter().try_for_each(|file| contents.add(file))?;
        Ok(Some(contents))
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
        self.files(part).iter().try_for_each(|file| contents.add(file))?;
        Ok(contents)
    }

    /// Both tokenizers, each with its text encoder's context as the longest prompt. They know the words of the embeddings.
    ///
    /// # Errors
    /// The errors of [`ClipTokenizer::open`].
    pub fn tokenizers(&self) -> Result<[ClipTokenizer; 2]> {
        let open = |files: Files<'_>, encoder: &TextEncoderConfig| {
            let mut tokenizer = ClipTokenizer::of_files(files, encoder.context)?;
            tokenizer.check_special(encoder.vocabulary)?;
            for embedding in &self.embeddings {
                tokenizer.add_word(embedding.word(), embedding.count())?;
            }
            Ok(tokenizer)
        };
        let [first, second] = self.text_encoders();
        match &self.settings {
            Settings::Folder(root) => {
                let folders = TOKENIZERS.map(|folder| root.join(folder));
                // A tokenizer works without some of its files. But a dead link means that the file should be there.
                for folder in &folders {
                    TOKENIZER_FILES
                        .iter()
                        .try_for_each(|name| files::refuse_dead_link(&folder.join(name)))?;
                }
                let [one, two] = &folders;
                Ok([open(Files::Folder(one), first)?, open(Files::Folder(two), second)?])
            }
            Settings::Derived(_) => {
                let [one, two] = &clip::tokenizers()?;
                Ok([open(Files::Held(one), first)?, open(Files::Held(two), second)?])
            }
        }
    }

    /// diffusers' default image size: the U-Net's `sample_size` times the autoencoder's factor.
    pub fn default_size(&self) -> Option<usize> {
        self.unet().sample_size.map(|latents| latents * self.vae().factor())
    }
}
