//! The stored data of every finished image (one line of `results.jsonl`) and of its run (`run.json`).
//!
//! Except for times and machine, a line depends only on the configuration, the prompt's id and the seed. It does not
//! depend on the shard that made it, or on what was made before it.

use std::collections::BTreeMap;

use atedm_sdxl::prompt::{PLAIN, TextOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::inputs::Inputs;
use super::parts::Parts;

/// The version of lines and of `run.json`. It is raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// One finished image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// Unique in a run: `POINT/PROMPT`, from [`Record::point`] and [`Record::prompt_id`].
    pub id: String,
    /// The id of the point in the grid: letters, digits and `._=+-`. It names folders.
    pub point: String,
    /// The readable name of the point: `at-edm tau=15`.
    pub label: String,
    /// The prompt's id.
    pub prompt_id: String,
    /// The prompt.
    pub prompt: String,
    /// The seed of the noise: the prompt's own, else one derived from the run's seed and the prompt's id.
    pub seed: u64,
    /// Hash of [`Record::settings`] with backend and dtype. Equal hashes mean equal configurations.
    pub config_hash: String,
    /// The settings that the image was made with.
    pub settings: Settings,
    /// The cost of the U-Net.
    pub flops: Flops,
    /// The remaining tokens where the method reduced them, one line per resolution level, finest first. Empty for the
    /// unpruned model, and for a plugin that reports nothing to its observer.
    pub tokens: Vec<LevelTokens>,
    /// The time that the image took.
    pub times: Times,
    /// The distances to the unpruned image of the same prompt, seed and sampling. `null` for that image itself, and if
    /// the configuration asks for no distances.
    pub distances: Option<Distances>,
    /// The path of the picture in the run's folder, parts separated by `/`: `images/POINT/PROMPT.png`.
    pub image: String,
    /// The path of the final latents, if they are stored: `latents/POINT/PROMPT.safetensors`. Those of unpruned images
    /// are stored if the run compares with them.
    pub latents: Option<String>,
    /// The backend and machine that computed it.
    pub provenance: Provenance,
}

/// All settings that decide an image, except prompt and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The name of the checkpoint, without the folders above it.
    pub model: String,
    /// The files that replace parts of the checkpoint: `{"vae": "sdxl-vae-fp16-fix"}`. Not written if there are none.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub parts: Parts,
    /// The method's registered name; `none` is the unpruned model.
    pub method: String,
    /// Every option with its value; a budget is replaced by its ratio. For a plugin, the options as they were given.
    pub options: Value,
    /// Denoising steps of the full schedule.
    pub steps: usize,
    /// The sampler: a name of `--scheduler`, else the class that the checkpoint names.
    pub scheduler: String,
    /// The classifier-free guidance scale.
    pub guidance_scale: f64,
    /// How far guided predictions get the standard deviation of the prompt's own prediction: 0 to 1. A 0 is not written.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guidance_rescale: f64,
    /// The negative prompt.
    pub negative_prompt: Option<String>,
    /// The syntax of prompts. Plain text, `none`, is not written.
    #[serde(default = "plain", skip_serializing_if = "is_plain")]
    pub prompt_syntax: String,
    /// How many more of the text encoders' last layers are left out. A 0 is not written.
    #[serde(default, skip_serializing_if = "is_none")]
    pub clip_skip: usize,
    /// The words of textual inversions, each with the SHA-256 of its file. Not written if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub embeddings: BTreeMap<String, String>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Generator of the noise: `torch` or `chacha`.
    pub rng: String,
    /// The dtype that the noise is drawn in. Older records lack it; it was always f32 then.
    #[serde(default = "single")]
    pub rng_dtype: String,
    /// `fused`, or `stored`. With `stored`, every attention map is stored, as without a fused kernel.
    pub attention: Attention,
    /// Hashes of the content of files that were read: `checkpoint` (configurations, tokenizers and samples of the
    /// weights), `init_image` (with its strength), `mask_image`, and in `compare` `latents`. Empty in older records.
    #[serde(default)]
    pub inputs: Inputs,
    /// The LoRAs that changed the weights, in their order. Without LoRAs, nothing is written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<UsedLora>,
    /// What the ControlNet followed. Without a ControlNet, nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<UsedControl>,
}

/// What a ControlNet followed. The ControlNet itself is one of the [`parts`](Settings::parts).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedControl {
    /// The picture's name, without the folders above it.
    pub image: String,
    /// Hash of the picture's file.
    pub hash: String,
    /// The factor of the ControlNet's outputs.
    pub scale: f64,
    /// The share of the steps that had passed as it began.
    pub start: f64,
    /// The share of the steps that had passed as it ended.
    pub end: f64,
}

/// A LoRA that changed the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedLora {
    /// The file's name, without the folders above it.
    pub file: String,
    /// Hash of samples of its content.
    pub hash: String,
    /// The factor of its changes.
    pub scale: f64,
    /// The factor of its changes of the text encoders.
    pub clip_scale: f64,
}

fn single() -> String {
    "f32".into()
}

fn plain() -> String {
    PLAIN.into()
}

fn is_plain(syntax: &str) -> bool {
    syntax == PLAIN
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Settings {
    /// How texts are read and encoded.
    pub fn text(&self) -> TextOptions {
        TextOptions { syntax: self.prompt_syntax.clone(), clip_skip: self.clip_skip }
    }

    /// A line about the noise.
    pub fn noise(&self) -> String {
        format!("noise of a seed: {}, drawn in {}", self.rng, self.rng_dtype)
    }
}

/// How attention is computed if a method asks for no map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// With the backend's fused kernel.
    #[default]
    Fused,
    /// With its map stored: the paper's "without fused operation".
    Stored,
}

/// TFLOP (2 × MAC) of one U-Net evaluation, for each of the run's rows. A step at which guidance has ended counts half: it
/// has one row of an image in place of two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flops {
    /// Mean over the run's evaluations, as they actually ran.
    pub mean_tflop: f64,
    /// The cost of the unpruned model.
    pub whole_tflop: f64,
    /// Number of U-Net evaluations. Each runs on all rows of its step.
    pub evaluations: usize,
}

/// Reductions at one resolution level over a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelTokens {
    /// Resolution level: 0 is the full latent size.
    pub level: usize,
    /// Number of reductions at this level, over all blocks, layers and evaluations.
    pub decisions: u64,
    /// Mean number of tokens of a batch row before a reduction.
    pub tokens: f64,
    /// Mean number of tokens of a batch row after a reduction.
    pub kept: f64,
    /// Mean number of votes per decision (0 for methods that do not vote).
    pub votes: f64,
}

/// Wall-clock times in seconds. Runs are never compared by them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// Mean time of a denoising step. The first step is left out if there are more.
    pub seconds_per_step: f64,
    /// Time of the whole image with decoding, without text encoding. The text encoding serves all points.
    pub seconds: f64,
    /// The time when the line was written, in seconds since 1970 (UTC).
    pub finished_at: u64,
}

/// Distances to the unpruned image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// The other image's [`Record::id`].
    pub to: String,
    /// Peak signal-to-noise ratio of the 8-bit pictures in dB. `null` if they are equal, where it is infinite.
    pub psnr: Option<f64>,
    /// Structural similarity of the 8-bit pictures in grey; 1 if they are equal (Wang et al. 2004).
    pub ssim: f64,
    /// `‖a − b‖₂` of the final latents.
    pub latent_l2: f64,
    /// `‖a − b‖₂ / ‖b‖₂`, where `b` is the unpruned image's.
    pub latent_l2_relative: f64,
}

/// The backend and machine that computed an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The program's version.
    pub atedm: String,
    /// The backend.
    pub backend: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// Element type of weights and activations.
    pub dtype: String,
    /// The processor's name.
    pub cpu: String,
    /// The GPU's name, if a GPU computed and the system reports it.
    pub gpu: Option<String>,
    /// Threads on the CPU.
    pub threads: usize,
}

/// `run.json`: the planned contents of a folder of results. It is the same in all shards of a run, except for `shard`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: u32,
    /// Hash of everything that decides the results: points, prompts with their seeds, backend and dtype.
    pub run_hash: String,
    /// The configuration's `title`, else its file's name.
    pub title: String,
    /// The points, in the order of the grid. Unpruned points for comparison come first.
    pub points: Vec<PointInfo>,
    /// Number of prompts in the whole run (`prompts.jsonl` lists them).
    pub prompts: usize,
    /// This folder's shard of the prompts: `[index, count]`, counted from 0. `null` if it has all prompts.
    pub shard: Option<[usize; 2]>,
}

/// One point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointInfo {
    /// See [`Record::point`].
    pub id: String,
    /// See [`Record::label`].
    pub label: String,
    /// The name of the grid entry. All its points share it.
    pub grid: String,
    /// The keys that the grid entry varies, with this point's values: `{"tau": 15}`.
    pub varied: Value,
    /// See [`Record::config_hash`].
    pub config_hash: String,
    /// See [`Record::settings`].
    pub settings: Settings,
    /// The budget that the ratio was solved for, in TFLOP.
    pub budget_tflops: Option<f64>,
    /// Mean TFLOP of an evaluation by formula. `null` for a plugin whose cost only a run can tell.
    pub planned_tflop: Option<f64>,
    /// TFLOP of the unpruned model.
    pub whole_tflop: f64,
    /// The id of the point with which this point's images are compared.
    pub reference: Option<String>,
}

/// A prompt with its seed: a line of `prompts.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptLine {
    /// The id: unique, letters, digits and `._-`.
    pub id: String,
    /// The text.
    pub prompt: String,
    /// The seed of its noise.
    pub seed: u64,
    /// Properties that tables can group prompts by: `{"category": "Colors"}`. Not written if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before the dtype of noise was recorded, noise was always f32.
    #[test]
    fn old_settings_had_noise_in_f32() {
        let text = r#"{"model": "m", "method": "none", "options": {}, "steps": 2, "scheduler": "ddim", "guidance_scale": 7.0,
            "negative_prompt": null, "width": 64, "height": 64, "rng": "torch", "attention": "fused"}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.noise(), "noise of a seed: torch, drawn in f32");
    }
}
