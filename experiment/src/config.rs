//! The configuration of a run: a TOML file with prompts, sampling settings, and a grid of methods and options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_sdxl::checkpoint::{EmbeddingFile, Lora, OpenOptions};
use atedm_sdxl::prompt::{PLAIN, TextOptions};
use atedm_sdxl::rng::{NoiseDType, RngKind};
use serde::Deserialize;

use super::prompts::{PromptText, Prompts, checked, inline_prompts, prompts_path, read_prompts};
use super::record::Attention;
use super::sampling::dtype;
pub use super::sampling::{Sampling, noise_dtype};
use crate::budget::{Budget, Unreachable};
use crate::control::ControlPicture;
use crate::failure::{Failure, Outcome};
use crate::files::{CONFIG_MOST, read_text};
use crate::init_image::{Start, StartFrom};

/// The origin of a configuration. Error messages name its keys accordingly.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A file.
    File(&'a Path),
    /// The flags of a command.
    Flags,
    /// A program.
    Code,
}

impl Origin<'_> {
    /// The name of a key for this origin: `vae_tiling`, or `--vae-tiling`.
    pub fn key(self, key: &str) -> String {
        match self {
            Self::File(_) | Self::Code => key.to_string(),
            Self::Flags => format!("--{}", key.replace('_', "-")),
        }
    }

    /// Puts the file's name in front of a failure.
    pub fn blamed(self, failure: Failure) -> Failure {
        match self {
            Self::File(path) => failure.within(path.display()),
            Self::Flags | Self::Code => failure,
        }
    }
}

/// A parsed configuration, with its prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The title of the run.
    pub title: String,
    /// The checkpoint.
    pub model: Option<String>,
    /// How the checkpoint is opened: the files that replace parts of it.
    pub open: OpenOptions,
    /// The picture from which every image starts, if any.
    pub start: Option<Start>,
    /// The picture that the model's ControlNet follows, if any.
    pub control: Option<ControlPicture>,
    /// The run's seed. Each prompt's seed is derived from it and the prompt's id.
    pub seed: u64,
    /// Width in pixels; the checkpoint's own if `None`.
    pub width: Option<usize>,
    /// Height in pixels; the checkpoint's own if `None`.
    pub height: Option<usize>,
    /// Generator of the noise.
    pub rng: RngKind,
    /// The dtype that the noise is drawn in.
    pub noise_dtype: NoiseDType,
    /// Width and height in pixels of the tiles for decoding; `None` for whole images.
    pub vae_tiling: Option<usize>,
    /// Whether images are compared with the unpruned images.
    pub distances: bool,
    /// The sampling settings of grid entries that set none of their own.
    pub sampling: Sampling,
    /// The budget of every entry that names neither a budget nor a ratio.
    pub budget_tflops: Option<Budget>,
    /// What happens to points whose budget no ratio meets.
    pub unreachable: Unreachable,
    /// Ids of the prompts whose kept sets are stored.
    pub masks: Vec<String>,
    /// The prompts, ordered by id.
    pub prompts: Vec<PromptText>,
    /// A warning about the file of the prompts. The plan passes it on.
    pub remark: Option<String>,
    /// The grid's entries. Each is a product of its axes.
    pub grid: Vec<GridEntry>,
}

/// A `[[grid]]` table in its written form.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GridEntry {
    /// The prefix of the points' names; the method's name if `None`.
    pub name: Option<String>,
    /// The method, or a list of methods that run as a stack. `None` if `each` varies the method.
    #[serde(deserialize_with = "crate::spec::read_name")]
    pub method: Option<String>,
    /// Options of every point.
    pub options: toml::Table,
    /// The axes: a list of values per key.
    pub each: toml::Table,
    /// A budget that replaces a ratio.
    pub budget_tflops: Option<Budget>,
    /// Replaces the run's steps.
    pub steps: Option<usize>,
    /// Replaces the run's guidance scale.
    pub guidance_scale: Option<f64>,
    /// Replaces the run's guidance rescale.
    pub guidance_rescale: Option<f64>,
    /// Replaces the run's scheduler.
    pub scheduler: Option<String>,
    /// Replaces the run's negative prompt.
    pub negative_prompt: Option<String>,
    /// Replaces the run's prompt syntax.
    pub prompt_syntax: Option<String>,
    /// Replaces the run's number of layers that the text encoders leave out.
    pub clip_skip: Option<usize>,
    /// Replaces the run's attention.
    pub attention: Option<Attention>,
}

/// The structure of the TOML file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    title: Option<String>,
    model: Option<String>,
    vae: Option<PathBuf>,
    unet: Option<PathBuf>,
    controlnet: Option<PathBuf>,
    variant: Option<String>,
    control_image: Option<PathBuf>,
    control_scale: Option<f64>,
    control_start: Option<f64>,
    control_end: Option<f64>,
    init_image: Option<PathBuf>,
    init_mean: bool,
    mask_image: Option<PathBuf>,
    strength: Option<f64>,
    loras: Vec<String>,
    lora_clip_scale: Option<f64>,
    embeddings: Vec<String>,
    seed: u64,
    steps: usize,
    guidance_scale: f64,
    guidance_rescale: f64,
    scheduler: Option<String>,
    negative_prompt: Option<String>,
    prompt_syntax: String,
    clip_skip: usize,
    width: Option<usize>,
    height: Option<usize>,
    rng: String,
    rng_dtype: Option<String>,
    attention: Attention,
    vae_tiling: Option<usize>,
    distances: bool,
    budget_tflops: Option<Budget>,
    unreachable: Unreachable,
    masks: Vec<String>,
    prompts: BTreeMap<String, toml::Value>,
    prompts_file: Option<PathBuf>,
    grid: Vec<GridEntry>,
}

impl GridEntry {
    /// A method with its default options.
    pub fn new(method: impl Into<String>) -> Self {
        Self { method: Some(method.into()), ..Self::default() }
    }

    /// Sets an option of every point: `prune_layers`, `recovery`.
    #[must_use]
    pub fn option(mut self, key: impl Into<String>, value: impl Into<toml::Value>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// Adds an axis: one point for each of these values. The key is an option, or `steps`, `guidance_scale`,
    /// `guidance_rescale`, `scheduler`, `prompt_syntax`, `clip_skip`, `attention` or `budget_tflops`. Axes multiply.
    #[must_use]
    pub fn each<V: Into<toml::Value>>(
        mut self,
        key: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values: Vec<toml::Value> = values.into_iter().map(Into::into).collect();
        self.each.insert(key.into(), values.into());
        self
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            title: None,
            model: None,
            vae: None,
            unet: None,
            controlnet: None,
            variant: None,
            control_image: None,
            control_scale: None,
            control_start: None,
            control_end: None,
            init_image: None,
            init_mean: false,
            mask_image: None,
            strength: None,
            loras: Vec::new(),
            lora_clip_scale: None,
            embeddings: Vec::new(),
            seed: 0,
            steps: 50,
            guidance_scale: 7.0,
            guidance_rescale: 0.0,
            scheduler: None,
            negative_prompt: None,
            prompt_syntax: PLAIN.into(),
            clip_skip: 0,
            width: None,
            height: None,
            rng: "torch".into(),
            rng_dtype: None,
            attention: Attention::default(),
            vae_tiling: None,
            distances: true,
            budget_tflops: None,
            unreachable: Unreachable::default(),
            masks: Vec::new(),
            prompts: BTreeMap::new(),
            prompts_file: None,
            grid: Vec::new(),
        }
    }
}

impl Config {
    /// A configuration with these prompts (id and text) and this grid. Everything else has the default of a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] if there are no prompts, if an id is repeated or cannot name a file, or if the grid is empty.
    pub fn new<Id: Into<String>, Text: Into<String>>(
        title: impl Into<String>,
        prompts: impl IntoIterator<Item = (Id, Text)>,
        grid: impl IntoIterator<Item = GridEntry>,
    ) -> Outcome<Self> {
        let prompt = |(id, text): (Id, Text)| PromptText::new(id, text);
        let texts = checked(prompts.into_iter().map(prompt).collect())?;
        let file = File { grid: grid.into_iter().collect(), ..File::default() };
        Self::of(file, title.into(), Prompts { texts, remark: None })
    }

    /// Reads a file. `prompts` is a file of prompts that replaces the configuration's own prompts.
    pub fn read(path: &Path, prompts: Option<&Path>) -> Outcome<(Self, String)> {
        let prompts = prompts.map(|path| read_prompts(path, None)).transpose()?;
        Self::read_with(path, prompts)
    }

    /// Like [`Config::read`], with prompts that have been read already, if any.
    pub fn read_with(path: &Path, prompts: Option<Prompts>) -> Outcome<(Self, String)> {
        let text = read_text(path, CONFIG_MOST)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("."));
        let config =
            Self::parse(&text, &name, folder, prompts).map_err(|failure| failure.within(path.display()))?;
        Ok((config, text))
    }

    /// Parses a configuration. A relative `prompts_file`, `init_image`, `mask_image` or `control_image` starts from `folder`.
    pub fn parse(text: &str, name: &str, folder: &Path, prompts: Option<Prompts>) -> Outcome<Self> {
        let mut file: File = toml::from_str(text).map_err(|error| in_toml(text, &error))?;
        for picture in [&mut file.init_image, &mut file.mask_image, &mut file.control_image] {
            *picture = picture.take().map(|relative| folder.join(relative));
        }
        let prompts = match (prompts, &file.prompts_file, file.prompts.is_empty()) {
            (Some(given), _, _) => given,
            (None, Some(_), false) => {
                return Err(Failure::usage("prompts_file: expected this or a table [prompts], got both"));
            }
            (None, Some(relative), true) => read_prompts(&prompts_path(folder, relative), None)
                .map_err(|failure| failure.within("prompts_file"))?,
            (None, None, _) => Prompts { texts: inline_prompts(&file.prompts)?, remark: None },
        };
        Self::of(file, name.to_string(), prompts)
    }

    /// Makes the configuration. `title` is used if the file has none.
    fn of(file: File, title: String, prompts: Prompts) -> Outcome<Self> {
        let Prompts { texts: prompts, remark } = prompts;
        if prompts.is_empty() {
            return Err(Failure::usage(
                "prompts: expected a table [prompts] such as fox = \"a red fox\", or prompts_file",
            ));
        }
        if let Some(unknown) = file.masks.iter().find(|id| !prompts.iter().any(|prompt| prompt.id == **id)) {
            return Err(Failure::usage(format!("masks: expected ids of prompts, got {unknown:?}")));
        }
        if file.vae_tiling == Some(0) {
            return Err(Failure::usage("vae_tiling: expected a number of pixels, got 0"));
        }
        if file.grid.is_empty() {
            return Err(Failure::usage("grid: expected at least one table [[grid]]"));
        }
        let rng: RngKind = file.rng.parse()?;
        let rng_dtype = file.rng_dtype.as_deref().map(dtype).transpose()?;
        let (start, control) = (start(&file)?, control(&file)?);
        Ok(Self {
            title: file.title.unwrap_or(title),
            start,
            control,
            model: file.model,
            open: OpenOptions {
                vae: file.vae,
                unet: file.unet,
                controlnet: file.controlnet,
                variant: file.variant,
                loras: loras(&file.loras, file.lora_clip_scale)?,
                embeddings: file.embeddings.iter().map(|text| EmbeddingFile::read(text)).collect(),
                ..OpenOptions::default()
            },
            seed: file.seed,
            width: file.width,
            height: file.height,
            rng,
            noise_dtype: noise_dtype(rng, rng_dtype, "rng_dtype")?,
            vae_tiling: file.vae_tiling,
            distances: file.distances,
            masks: file.masks,
            sampling: Sampling {
                steps: file.steps,
                guidance_scale: file.guidance_scale,
                guidance_rescale: file.guidance_rescale,
                scheduler: file.scheduler,
                negative_prompt: file.negative_prompt,
                text: TextOptions { syntax: file.prompt_syntax, clip_skip: file.clip_skip },
                attention: file.attention,
            }
            .checked()?,
            budget_tflops: file.budget_tflops,
            unreachable: file.unreachable,
            prompts,
            remark,
            grid: file.grid,
        })
    }
}

/// The picture from which every image starts.
fn start(file: &File) -> Outcome<Option<Start>> {
    let File { init_image, init_mean, mask_image, strength, .. } = file;
    let Some(image) = init_image.clone() else {
        let keys = [
            ("mask_image", mask_image.is_some()),
            ("strength", strength.is_some()),
            ("init_mean", *init_mean),
        ];
        return match keys.iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(Failure::usage(format!("{key}: expected init_image beside it"))),
            None => Ok(None),
        };
    };
    let from = if *init_mean { StartFrom::Mean } else { StartFrom::Drawn };
    Ok(Some(Start { image, mask: mask_image.clone(), strength: *strength, from }))
}

/// The picture that the ControlNet follows.
fn control(file: &File) -> Outcome<Option<ControlPicture>> {
    let File { control_image, control_scale, control_start, control_end, .. } = file;
    let Some(image) = control_image.clone() else {
        let keys = [
            ("control_scale", control_scale),
            ("control_start", control_start),
            ("control_end", control_end),
        ];
        return match keys.iter().find(|(_, given)| given.is_some()) {
            Some((key, _)) => Err(Failure::usage(format!("{key}: expected control_image beside it"))),
            None => Ok(None),
        };
    };
    ControlPicture::new(image, *control_scale, [*control_start, *control_end]).map(Some)
}

/// The LoRAs of `loras` and `lora_clip_scale`.
fn loras(texts: &[String], clip_scale: Option<f64>) -> Outcome<Vec<Lora>> {
    if texts.is_empty() && clip_scale.is_some() {
        return Err(Failure::usage("lora_clip_scale: expected a list loras beside it"));
    }
    texts.iter().map(|text| Ok(Lora { clip_scale, ..text.parse::<Lora>()? })).collect()
}

/// Describes an error in a TOML text, with its line. If the message names no key, it adds the key of that line.
fn in_toml(text: &str, error: &toml::de::Error) -> Failure {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return Failure::usage(error.message());
    };
    let number = 1 + before.matches('\n').count();
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    // a value of the wrong type: the message names only the type
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| key.chars().all(of_key));
    let key = key.filter(|_| error.message().starts_with("invalid"));
    let key = key.map_or(String::new(), |key| format!("{key}: "));
    Failure::usage(format!("line {number}: {key}{}", error.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Config> {
        Config::parse(text, "name", Path::new("."), None)
    }

    const LEAST: &str = "[prompts]\nfox = \"a fox\"\n[[grid]]\nmethod = \"none\"\n";

    #[test]
    fn loras_are_files_and_scales() {
        let read = |text: &str| parse(&format!("{text}\n{LEAST}"));
        let lora = |path: &str, scale, clip_scale| Lora { path: path.into(), scale, clip_scale };
        let config = read("loras = [\"a.safetensors:0.5\", \"b.safetensors\"]").unwrap();
        assert_eq!(config.open.loras, [lora("a.safetensors", 0.5, None), lora("b.safetensors", 1.0, None)]);
        let config = read("loras = [\"a.safetensors\"]\nlora_clip_scale = 0.25").unwrap();
        assert_eq!(config.open.loras, [lora("a.safetensors", 1.0, Some(0.25))]);
        let refused = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(refused("lora_clip_scale = 1.0"), "lora_clip_scale: expected a list loras beside it");
        assert_eq!(refused("loras = [\"a:nan\"]"), "lora a: expected a finite scale, got NaN");
    }

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config = parse(LEAST).unwrap();
        assert_eq!((config.sampling.steps, config.sampling.guidance_scale, config.seed), (50, 7.0, 0));
        assert_eq!((config.title.as_str(), config.rng, config.distances), ("name", RngKind::Torch, true));
        assert_eq!((config.prompts[0].id.as_str(), config.prompts[0].text.as_str()), ("fox", "a fox"));
        assert_eq!(config.grid[0].method.as_deref(), Some("none"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            (format!("stepz = 3\n{LEAST}"), "line 1: unknown field `stepz`"),
            (format!("{LEAST}tau = 3\n"), "unknown field `tau`"),
            (format!("steps = \"many\"\n{LEAST}"), "line 1: steps: invalid type: string"),
            (format!("{LEAST}guidance_scale = [3]\n"), "line 5: guidance_scale: invalid type"),
            (format!("width = -64\n{LEAST}"), "line 1: width: invalid value: integer `-64`"),
            (
                format!("negative_prompt = \"{}\"\n{LEAST}", "x".repeat(70_000)),
                "negative_prompt: expected a prompt of at most 65536 bytes, got 70000",
            ),
            (format!("steps = 0\n{LEAST}"), "steps: expected at least 1"),
            (format!("guidance_scale = nan\n{LEAST}"), "guidance_scale: expected a finite"),
            (format!("rng = \"dice\"\n{LEAST}"), "rng: expected torch or chacha"),
            (format!("rng_dtype = \"f8\"\n{LEAST}"), "rng_dtype: expected f32, f16, bf16 or f64"),
            (
                format!("rng = \"chacha\"\nrng_dtype = \"f16\"\n{LEAST}"),
                "rng_dtype: expected f32, which chacha",
            ),
            (format!("guidance_rescale = 1.5\n{LEAST}"), "guidance_rescale: expected a number from 0 to 1"),
            (format!("strength = 0.5\n{LEAST}"), "strength: expected init_image beside it"),
            (format!("mask_image = \"m.png\"\n{LEAST}"), "mask_image: expected init_image beside it"),
            (format!("control_end = 0.5\n{LEAST}"), "control_end: expected control_image beside it"),
            (
                format!("control_image = \"c.png\"\ncontrol_start = 0.5\ncontrol_end = 0.2\n{LEAST}"),
                "control-start, control-end: expected shares of the steps, from 0 to 1 and rising, got 0.5 and 0.2",
            ),
            (format!("prompts_file = \"p.tsv\"\n{LEAST}"), "prompts_file: expected this or"),
            ("[[grid]]\nmethod = \"none\"\n".into(), "prompts: expected"),
            ("[prompts]\nfox = \"a fox\"\n".into(), "grid: expected"),
            (LEAST.replace("fox =", "\"a/b\" ="), "a/b"),
            ("prompts = [".into(), "line 1"),
        ] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}
