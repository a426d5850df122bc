//! The configuration of a run: a TOML file with prompts, how they are sampled, and a grid of methods and options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_core::{DType, Error};
use atedm_sdxl::rng::{NoiseDType, RngKind};
use atedm_sdxl::schedulers::SamplerChoice;
use serde::Deserialize;

use super::prompts::{PromptText, check_length, inline_prompts, read_prompts};
use super::record::Attention;
use crate::failure::{Failure, Outcome};
use crate::files::{CONFIG_MOST, read_text};

/// Who wrote a configuration, which is how its keys are called where something is wrong with them.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A file.
    File(&'a Path),
    /// The flags of a command.
    Flags,
}

impl Origin<'_> {
    /// A key as its writer knows it: `vae_tiling`, or `--vae-tiling`.
    pub fn key(self, key: &str) -> String {
        match self {
            Self::File(_) => key.to_string(),
            Self::Flags => format!("--{}", key.replace('_', "-")),
        }
    }

    /// A failure with the file in front of it.
    pub fn blamed(self, failure: Failure) -> Failure {
        match self {
            Self::File(path) => failure.within(path.display()),
            Self::Flags => failure,
        }
    }
}

/// A configuration as it was read, its prompts too.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the run is called.
    pub title: String,
    /// The checkpoint.
    pub model: Option<String>,
    /// The run's seed; each prompt's is made of it and of the prompt's id.
    pub seed: u64,
    /// Width and height in pixels; the checkpoint's own if not given.
    pub size: (Option<usize>, Option<usize>),
    /// Generator of the noise.
    pub rng: RngKind,
    /// What it draws in.
    pub noise_dtype: NoiseDType,
    /// Decode in tiles.
    pub vae_tiling: Option<usize>,
    /// Whether images are compared with the unpruned ones.
    pub distances: bool,
    /// What grid entries are sampled with unless they say otherwise.
    pub sampling: Sampling,
    /// Budget of every entry that names neither a budget nor a ratio.
    pub budget_tflops: Option<f64>,
    /// Ids of the prompts whose kept sets are stored.
    pub masks: Vec<String>,
    /// Prompts in the order of their ids.
    pub prompts: Vec<PromptText>,
    /// The grid's entries, each a product of its axes.
    pub grid: Vec<GridEntry>,
}

/// How an image is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Sampler instead of the checkpoint's.
    pub scheduler: Option<SamplerChoice>,
    /// What is steered away from.
    pub negative_prompt: Option<String>,
    /// How attention is computed.
    pub attention: Attention,
}

/// A `[[grid]]` table as it was written.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GridEntry {
    /// What its points are called; the method's name if not given.
    pub name: Option<String>,
    /// The method, or a list of methods that run as one, unless `each` varies it.
    #[serde(deserialize_with = "crate::spec::read_name")]
    pub method: Option<String>,
    /// Options of every point.
    pub options: toml::Table,
    /// Axes: a list of values for each key.
    pub each: toml::Table,
    /// Instead of a ratio.
    pub budget_tflops: Option<f64>,
    /// Instead of the run's.
    pub steps: Option<usize>,
    /// Instead of the run's.
    pub guidance_scale: Option<f64>,
    /// Instead of the run's.
    pub scheduler: Option<String>,
    /// Instead of the run's.
    pub negative_prompt: Option<String>,
    /// Instead of the run's.
    pub attention: Option<Attention>,
}

/// The file's own form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: Option<String>,
    model: Option<String>,
    #[serde(default)]
    seed: u64,
    #[serde(default = "fifty")]
    steps: usize,
    #[serde(default = "seven")]
    guidance_scale: f64,
    scheduler: Option<String>,
    negative_prompt: Option<String>,
    width: Option<usize>,
    height: Option<usize>,
    #[serde(default = "torch")]
    rng: String,
    rng_dtype: Option<String>,
    #[serde(default)]
    attention: Attention,
    #[serde(default)]
    vae_tiling: Option<usize>,
    #[serde(default = "yes")]
    distances: bool,
    budget_tflops: Option<f64>,
    #[serde(default)]
    masks: Vec<String>,
    #[serde(default)]
    prompts: BTreeMap<String, toml::Value>,
    prompts_file: Option<PathBuf>,
    #[serde(default)]
    grid: Vec<GridEntry>,
}

fn fifty() -> usize {
    50
}

fn seven() -> f64 {
    7.0
}

fn torch() -> String {
    "torch".into()
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads a file; `prompts` is a file of prompts that takes the place of the configuration's own.
    pub fn read(path: &Path, prompts: Option<&Path>) -> Outcome<(Self, String)> {
        let prompts = prompts.map(|path| read_prompts(path, None)).transpose()?;
        Self::read_with(path, prompts)
    }

    /// [`Config::read`] with prompts that have been read, if any.
    pub fn read_with(path: &Path, prompts: Option<Vec<PromptText>>) -> Outcome<(Self, String)> {
        let text = read_text(path, CONFIG_MOST)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("."));
        let config =
            Self::parse(&text, &name, folder, prompts).map_err(|failure| failure.within(path.display()))?;
        Ok((config, text))
    }

    /// `folder` is what a relative `prompts_file` starts from.
    pub fn parse(text: &str, name: &str, folder: &Path, prompts: Option<Vec<PromptText>>) -> Outcome<Self> {
        let file: File = toml::from_str(text).map_err(|error| in_toml(text, &error))?;
        let prompts = match (prompts, &file.prompts_file, file.prompts.is_empty()) {
            (Some(given), _, _) => given,
            (None, Some(_), false) => {
                return Err(Failure::usage("prompts_file: expected this or a table [prompts], got both"));
            }
            (None, Some(relative), true) => read_prompts(&folder.join(relative), None)
                .map_err(|failure| failure.within("prompts_file"))?,
            (None, None, _) => inline_prompts(&file.prompts)?,
        };
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
        Ok(Self {
            title: file.title.unwrap_or_else(|| name.to_string()),
            model: file.model,
            seed: file.seed,
            size: (file.width, file.height),
            rng,
            noise_dtype: noise_dtype(rng, rng_dtype, "rng_dtype")?,
            vae_tiling: file.vae_tiling,
            distances: file.distances,
            masks: file.masks,
            sampling: Sampling {
                steps: file.steps,
                guidance_scale: file.guidance_scale,
                scheduler: file.scheduler.as_deref().map(sampler).transpose()?,
                negative_prompt: file.negative_prompt,
                attention: file.attention,
            }
            .checked()?,
            budget_tflops: file.budget_tflops,
            prompts,
            grid: file.grid,
        })
    }
}

impl Sampling {
    /// The same, if every number is in range.
    pub fn checked(self) -> Outcome<Self> {
        if let Some(text) = &self.negative_prompt {
            check_length(text).map_err(|reason| Failure::usage(format!("negative_prompt: {reason}")))?;
        }
        if self.steps == 0 {
            return Err(Failure::usage("steps: expected at least 1, got 0"));
        }
        if !self.guidance_scale.is_finite() {
            return Err(Failure::usage(format!(
                "guidance_scale: expected a finite number, got {}",
                self.guidance_scale
            )));
        }
        Ok(self)
    }
}

/// What is wrong with a TOML text, with its line and, where the message names no key, the key of that line.
fn in_toml(text: &str, error: &toml::de::Error) -> Failure {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return Failure::usage(error.message());
    };
    let number = 1 + before.matches('\n').count();
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    // a value of the wrong kind: the message tells the kind alone
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| key.chars().all(of_key));
    let key = key.filter(|_| error.message().starts_with("invalid"));
    let key = key.map_or(String::new(), |key| format!("{key}: "));
    Failure::usage(format!("line {number}: {key}{}", error.message()))
}

/// A sampler by its name.
pub fn sampler(name: &str) -> Outcome<SamplerChoice> {
    Ok(name.parse()?)
}

/// The element type of noise by its name.
fn dtype(name: &str) -> Outcome<DType> {
    let reason = |error| match error {
        Error::Config { reason, .. } => Failure::usage(reason),
        other => other.into(),
    };
    name.parse().map_err(|error| reason(error).within("rng_dtype"))
}

/// What a generator draws in, if `asked` for that; `key` is what asked, for the message.
///
/// # Errors
/// [`Failure::Usage`] for a generator that draws in one type alone.
pub fn noise_dtype(rng: RngKind, asked: Option<DType>, key: &str) -> Outcome<NoiseDType> {
    match (rng, asked) {
        (_, None) => Ok(NoiseDType::OfModel),
        (RngKind::ChaCha, Some(dtype)) if dtype != DType::F32 => {
            Err(Failure::usage(format!("{key}: expected f32, which chacha always draws in, got {dtype}")))
        }
        (_, Some(dtype)) => Ok(NoiseDType::Always(dtype)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Config> {
        Config::parse(text, "name", Path::new("."), None)
    }

    const LEAST: &str = "[prompts]\nfox = \"a fox\"\n[[grid]]\nmethod = \"none\"\n";

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
            (format!("scheduler = \"euler-edm\"\n{LEAST}"), "scheduler: expected euler-sgm"),
            (format!("scheduler = \"eular\"\n{LEAST}"), "scheduler: expected one of"),
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
