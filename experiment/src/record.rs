//! What is kept of every finished image: one line of `results.jsonl`, and the run that it belongs to, `run.json`.
//!
//! Times and the machine aside, a line depends on the configuration, the prompt's id and the seed alone: neither on which
//! shard made it, nor on what was made before it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::inputs::Inputs;

/// The form of lines and of `run.json`; raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// One finished image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// Unique in a run: `POINT/PROMPT`, from [`Record::point`] and [`Record::prompt_id`].
    pub id: String,
    /// The point of the grid, by its id: letters, digits and `._=+-` (it names folders).
    pub point: String,
    /// The point as a person reads it: `at-edm tau=15`.
    pub label: String,
    /// The prompt's id.
    pub prompt_id: String,
    /// The prompt.
    pub prompt: String,
    /// The seed of the noise: the prompt's own, else one made of the run's seed and the prompt's id.
    pub seed: u64,
    /// Hash of [`Record::settings`] with backend and dtype: equal hashes are the same configuration.
    pub config_hash: String,
    /// How it was made.
    pub settings: Settings,
    /// What the U-Net cost.
    pub flops: Flops,
    /// What was left of the tokens where the method reduced them, a line a resolution level, finest first. Empty for
    /// the unpruned model, and for a plugin that tells its observer nothing.
    pub tokens: Vec<LevelTokens>,
    /// How long it took.
    pub times: Times,
    /// How far it is from the unpruned image of the same prompt, seed and sampling; `null` for that image itself, and
    /// where the configuration asks for none.
    pub distances: Option<Distances>,
    /// The picture, relative to the run's folder, `/` between parts: `images/POINT/PROMPT.png`.
    pub image: String,
    /// The final latents, if they are kept: `latents/POINT/PROMPT.safetensors`. Those of unpruned images are, as long
    /// as the run compares with them.
    pub latents: Option<String>,
    /// What computed it.
    pub provenance: Provenance,
}

/// Everything that decides an image, beside prompt and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The checkpoint, as named, without the folders above it.
    pub model: String,
    /// The method's registered name; `none` is the unpruned model.
    pub method: String,
    /// Every option of a method of ours with its value, a budget solved for its ratio; a plugin's as they were given.
    pub options: Value,
    /// Denoising steps of the full schedule.
    pub steps: usize,
    /// Sampler: a name of `--scheduler`, else the class that the checkpoint names.
    pub scheduler: String,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// What is steered away from.
    pub negative_prompt: Option<String>,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Generator of the noise: `torch` or `chacha`.
    pub rng: String,
    /// What it draws in; before this was written, f32 always.
    #[serde(default = "single")]
    pub rng_dtype: String,
    /// `fused`, or `stored`: every attention map is stored, as without a fused kernel.
    pub attention: Attention,
    /// Hashes of the content of files that were read: `checkpoint` (configurations, tokenizers and samples of the weights),
    /// and in `compare` `init_image` (with its strength) and `latents`. Empty in records of before they were kept.
    #[serde(default)]
    pub inputs: Inputs,
}

fn single() -> String {
    "f32".into()
}

impl Settings {
    /// A line about the noise.
    pub fn noise(&self) -> String {
        format!("noise of a seed: {}, drawn in {}", self.rng, self.rng_dtype)
    }
}

/// How attention is computed where a method asks for no map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// By the backend's fused kernel.
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
    /// Mean over the run's evaluations, as they really ran.
    pub mean_tflop: f64,
    /// Of the unpruned model.
    pub whole_tflop: f64,
    /// U-Net evaluations, each on all rows of its step.
    pub evaluations: usize,
}

/// Reductions at one resolution level over a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelTokens {
    /// Resolution level: 0 is the full latent size.
    pub level: usize,
    /// How often tokens were reduced there, over all blocks, layers and evaluations.
    pub decisions: u64,
    /// Mean tokens of a batch row before a reduction.
    pub tokens: f64,
    /// Mean tokens of a batch row after it.
    pub kept: f64,
    /// Mean votes cast for a decision (0 for methods that do not vote).
    pub votes: f64,
}

/// Seconds of the wall clock. Never compared between runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// A denoising step: the mean without the first one, where there are more.
    pub seconds_per_step: f64,
    /// The whole image, decoding too; without text encoding, which serves all points.
    pub seconds: f64,
    /// When the line was written: seconds since 1970 (UTC).
    pub finished_at: u64,
}

/// Distances to the unpruned image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// The other image's [`Record::id`].
    pub to: String,
    /// Peak signal-to-noise ratio of the 8-bit pictures in dB; `null` where they are equal and it is infinite.
    pub psnr: Option<f64>,
    /// Structural similarity of the 8-bit pictures in grey, 1 where they are equal (Wang et al. 2004).
    pub ssim: f64,
    /// `‖a − b‖₂` of the final latents.
    pub latent_l2: f64,
    /// `‖a − b‖₂ / ‖b‖₂`, `b` the unpruned image's.
    pub latent_l2_relative: f64,
}

/// What computed an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The program's version.
    pub atedm: String,
    /// Tensor library.
    pub backend: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// Element type of weights and activations.
    pub dtype: String,
    /// The processor's name.
    pub cpu: String,
    /// The GPU's name, if it computed and the system tells.
    pub gpu: Option<String>,
    /// Threads on the CPU.
    pub threads: usize,
}

/// `run.json`: what a folder of results holds when it is complete. All shards of a run have the same, `shard` aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: u32,
    /// Hash of all that decides the results: points, prompts with their seeds, backend and dtype.
    pub run_hash: String,
    /// The configuration's `title`, else its file's name.
    pub title: String,
    /// The points, in the order of the grid; unpruned images that others are compared with come first.
    pub points: Vec<PointInfo>,
    /// Prompts of the whole run (`prompts.jsonl` lists them).
    pub prompts: usize,
    /// This folder's shard of the prompts: `[index, count]`, counted from 0; `null` for all.
    pub shard: Option<[usize; 2]>,
}

/// One point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointInfo {
    /// As [`Record::point`].
    pub id: String,
    /// As [`Record::label`].
    pub label: String,
    /// The grid entry's name, shared by its points.
    pub grid: String,
    /// What varies within the grid entry, and this point's values: `{"tau": 15}`.
    pub varied: Value,
    /// As [`Record::config_hash`].
    pub config_hash: String,
    /// As [`Record::settings`].
    pub settings: Settings,
    /// The budget that the ratio was solved for, in TFLOP.
    pub budget_tflops: Option<f64>,
    /// Mean TFLOP of an evaluation by formula; `null` for a plugin, of which only a run tells.
    pub planned_tflop: Option<f64>,
    /// TFLOP of the unpruned model.
    pub whole_tflop: f64,
    /// The id of the point whose images this one's are compared with.
    pub reference: Option<String>,
}

/// A prompt with its seed: a line of `prompts.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptLine {
    /// Unique, letters, digits and `._-`.
    pub id: String,
    /// The text.
    pub prompt: String,
    /// The seed of its noise.
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was made before the dtype of noise was written was made of f32's.
    #[test]
    fn old_settings_had_noise_in_f32() {
        let text = r#"{"model": "m", "method": "none", "options": {}, "steps": 2, "scheduler": "ddim", "guidance_scale": 7.0,
            "negative_prompt": null, "width": 64, "height": 64, "rng": "torch", "attention": "fused"}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.noise(), "noise of a seed: torch, drawn in f32");
    }
}
