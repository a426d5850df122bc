//! An experiment of your own: a closure as a scorer is compared with G-WPR, at two ratios, on two prompts.

use std::path::Path;

// ANCHOR: experiment
use atedm_candle::{Candle, device};
use atedm_core::{DType, Tensor};
use atedm_experiment::{Config, Experiment, GridEntry, Model, Outcome, Platform, Row};

/// A row an image: of each prompt the unpruned one, then two ratios by two scorers.
pub fn away_from_the_mean(checkpoint: &Path, steps: usize) -> Outcome<Vec<Row>> {
    let grid = GridEntry::new("at-edm").each("ratio", [0.3, 0.5]).each("scorer", ["page-rank", "away"]);
    let prompts = [
        ("star", "a large red star on the left on a striped pink background"),
        ("ring", "a small blue ring on a dotted gray background"),
    ];
    let mut config = Config::new("away from the mean", prompts, [grid])?;
    config.sampling.steps = steps;
    config.sampling.guidance_scale = 4.0;

    let platform = Platform::cpu::<Candle>(DType::F32);
    let experiment = Experiment::<Candle>::new(Model::open(checkpoint)?, device::parse("cpu")?, platform);
    // how far a token is from the mean token: hidden is [batch, tokens, channels], scores are [batch, tokens]
    let experiment = experiment.scorer("away", |input| {
        let away = input.hidden.sub(&input.hidden.mean(1)?)?;
        away.mul(&away)?.sum(2)?.reshape(&away.shape()[..2])
    })?;
    experiment.rows(&config, &())
}

/// A line a row.
pub fn table(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let ssim = row.distances.as_ref().map_or("-".into(), |distances| format!("{:.4}", distances.ssim));
        format!(
            "{:<5} {:<30} {:.3} GFLOP  SSIM {ssim}\n",
            row.prompt.id,
            row.label,
            1e3 * row.flops.mean_tflop
        )
    };
    rows.iter().map(line).collect()
}
// ANCHOR_END: experiment
