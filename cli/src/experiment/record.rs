//! What is kept of every finished image: one line of `results.jsonl`, and the run that it belongs to, `run.json`.
//!
//! Times and the machine aside, a line depends on the configuration, the prompt's id and the seed alone: neither on which
//! shard made it, nor on what was made before it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::inputs::Inputs;

/// The form of lines and of `run.json`; raised when a field changes its meaning.
pub(crate) const FORMAT: u32 = 1;

/// One finished image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// Unique in a run: `POINT/PROMPT`, from [`Record::point`] and [`Record::prompt_id`].
    pub(crate) id: String,
    /// The point of the grid, by its id: letters, digits and `._=+-` (it names folders).
    pub(crate) point: String,
    /// The point as a person reads it: `at-edm tau=15`.
    pub(crate) label: String,
    /// The prompt's id.
    pub(crate) prompt_id: String,
    /// The prompt.
    pub(crate) prompt: String,
    /// The seed of the noise: the prompt's own, else one made of the run's seed and the prompt's id.
    pub(crate) seed: u64,
    /// Hash of [`Record::settings`] with backend and dtype: equal hashes are the same configuration.
    pub(crate) config_hash: String,
    /// How it was made.
    pub(crate) settings: Settings,
    /// What the U-Net cost.
    pub(crate) flops: Flops,
    /// What was left of the tokens where the method reduced them, a line a resolution level, finest first. Empty for
    /// the unpruned model, and for a plugin that tells its observer nothing.
    pub(crate) tokens: Vec<LevelTokens>,
    /// How long it took.
    pub(crate) times: Times,
    /// How far it is from the unpruned image of the same prompt, seed and sampling; `null` for that image itself, and
    /// where the configuration asks for none.
    pub(crate) distances: Option<Distances>,
    /// The picture, relative to the run's folder, `/` between parts: `images/POINT/PROMPT.png`.
    pub(crate) image: String,
    /// The final latents, if they are kept: `latents/POINT/PROMPT.safetensors`. Those of unpruned images are, as long
    /// as the run compares with them.
    pub(crate) latents: Option<String>,
    /// What computed it.
    pub(crate) provenance: Provenance,
}

/// Everything that decides an image, beside prompt and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The checkpoint, as named, without the folders above it.
    pub(crate) model: String,
    /// The method's registered name; `none` is the unpruned model.
    pub(crate) method: String,
    /// Every option of a method of ours with its value, a budget solved for its ratio; a plugin's as they were given.
    pub(crate) options: Value,
    /// Denoising steps of the full schedule.
    pub(crate) steps: usize,
    /// Sampler: a name of `--scheduler`, else the class that the checkpoint names.
    pub(crate) scheduler: String,
    /// Classifier-free guidance.
    pub(crate) guidance_scale: f64,
    /// What is steered away from.
    pub(crate) negative_prompt: Option<String>,
    /// Pixels across.
    pub(crate) width: usize,
    /// Pixels down.
    pub(crate) height: usize,
    /// Generator of the noise: `torch` or `chacha`.
    pub(crate) rng: String,
    /// What it draws in; before this was written, f32 always.
    #[serde(default = "single")]
    pub(crate) rng_dtype: String,
    /// `fused`, or `stored`: every attention map is stored, as without a fused kernel.
    pub(crate) attention: Attention,
    /// Hashes of the content of files that were read: `checkpoint` (configurations, tokenizers and samples of the weights),
    /// and in `compare` `init_image` (with its strength) and `latents`. Empty in records of before they were kept.
    #[serde(default)]
    pub(crate) inputs: Inputs,
}

fn single() -> String {
    "f32".into()
}

impl Settings {
    /// A line about the noise.
    pub(crate) fn noise(&self) -> String {
        format!("noise of a seed: {}, drawn in {}", self.rng, self.rng_dtype)
    }
}

/// How attention is computed where a method asks for no map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attention {
    /// By the backend's fused kernel.
    #[default]
    Fused,
    /// With its map stored: the paper's "without fused operation".
    Stored,
}

/// TFLOP (2 × MAC) of one sample in one U-Net evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flops {
    /// Mean over the run's evaluations, as they really ran.
    pub(crate) mean_tflop: f64,
    /// Of the unpruned model.
    pub(crate) whole_tflop: f64,
    /// U-Net evaluations, each on all rows of its batch.
    pub(crate) evaluations: usize,
}

/// Reductions at one resolution level over a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LevelTokens {
    /// Resolution level: 0 is the full latent size.
    pub(crate) level: usize,
    /// How often tokens were reduced there, over all blocks, layers and evaluations.
    pub(crate) decisions: u64,
    /// Mean tokens of a batch row before a reduction.
    pub(crate) tokens: f64,
    /// Mean tokens of a batch row after it.
    pub(crate) kept: f64,
    /// Mean votes cast for a decision (0 for methods that do not vote).
    pub(crate) votes: f64,
}

/// Seconds of the wall clock. Never compared between runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Times {
    /// A denoising step: the mean without the first one, where there are more.
    pub(crate) seconds_per_step: f64,
    /// The whole image, decoding too; without text encoding, which points share.
    pub(crate) seconds: f64,
    /// When the line was written: seconds since 1970 (UTC).
    pub(crate) finished_at: u64,
}

/// Distances to the unpruned image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Distances {
    /// The other image's [`Record::id`].
    pub(crate) to: String,
    /// Peak signal-to-noise ratio of the 8-bit pictures in dB; `null` where they are equal and it is infinite.
    pub(crate) psnr: Option<f64>,
    /// Structural similarity of the 8-bit pictures in grey, 1 where they are equal (Wang et al. 2004).
    pub(crate) ssim: f64,
    /// `‖a − b‖₂` of the final latents.
    pub(crate) latent_l2: f64,
    /// `‖a − b‖₂ / ‖b‖₂`, `b` the unpruned image's.
    pub(crate) latent_l2_relative: f64,
}

/// What computed an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provenance {
    /// The program's version.
    pub(crate) atedm: String,
    /// Tensor library.
    pub(crate) backend: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub(crate) device: String,
    /// Element type of weights and activations.
    pub(crate) dtype: String,
    /// The processor's name.
    pub(crate) cpu: String,
    /// The GPU's name, if it computed and the system tells.
    pub(crate) gpu: Option<String>,
    /// Threads on the CPU.
    pub(crate) threads: usize,
}

/// `run.json`: what a folder of results holds when it is complete. All shards of a run have the same, `shard` aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunInfo {
    /// [`FORMAT`].
    pub(crate) format: u32,
    /// Hash of all that decides the results: points, prompts with their seeds, backend and dtype.
    pub(crate) run_hash: String,
    /// The configuration's `title`, else its file's name.
    pub(crate) title: String,
    /// The points, in the order of the grid; unpruned images that others are compared with come first.
    pub(crate) points: Vec<PointInfo>,
    /// Prompts of the whole run (`prompts.jsonl` lists them).
    pub(crate) prompts: usize,
    /// This folder's share of the prompts: `[index, count]`, counted from 0; `null` for all.
    pub(crate) shard: Option<[usize; 2]>,
}

/// One point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointInfo {
    /// As [`Record::point`].
    pub(crate) id: String,
    /// As [`Record::label`].
    pub(crate) label: String,
    /// The grid entry's name, shared by its points.
    pub(crate) grid: String,
    /// What varies within the grid entry, and this point's values: `{"tau": 15}`.
    pub(crate) varied: Value,
    /// As [`Record::config_hash`].
    pub(crate) config_hash: String,
    /// As [`Record::settings`].
    pub(crate) settings: Settings,
    /// The budget that the ratio was solved for, in TFLOP.
    pub(crate) budget_tflops: Option<f64>,
    /// Mean TFLOP of an evaluation by formula; `null` for a plugin, of which only a run tells.
    pub(crate) planned_tflop: Option<f64>,
    /// TFLOP of the unpruned model.
    pub(crate) whole_tflop: f64,
    /// The id of the point whose images this one's are compared with.
    pub(crate) reference: Option<String>,
}

/// A prompt with its seed: a line of `prompts.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromptLine {
    /// Unique, letters, digits and `._-`.
    pub(crate) id: String,
    /// The text.
    pub(crate) prompt: String,
    /// The seed of its noise.
    pub(crate) seed: u64,
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
