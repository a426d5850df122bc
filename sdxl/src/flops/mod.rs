//! The cost of one U-Net evaluation by formula, for any configuration, size and pruning plan.
//!
//! The cost counts the multiply-accumulates (MAC) of matrix products and convolutions for *one sample*. This includes
//! attention's `q kᵀ` and `A v`. A FLOP figure is 2 × MAC. Norms, activations, softmax and the method's own work are
//! not counted. A ControlNet beside the U-Net counts, in the nests of the U-Net's parts whose copies it has. Its embedding of the
//! picture does not: it runs once in a run. SD-XL base at 1024 px costs 3.3806 TMAC or 6.761 TFLOP, which is the paper's "6.7 T".

use atedm_core::plugin::{Grid, LayerTokens, NestId};
use atedm_core::{Error, Result};

use crate::config::{BlockInfo, Nesting, UNetConfig};

mod convolutions;
mod cost;
mod run;
mod unit;

use convolutions::{Convolutions, control_net};
use cost::product;

pub use cost::{Macs, PartCost, UNetCost, tflop};
pub use run::{EvaluationCost, MeanCost, Rows, RunCost, StepClass};
pub use unit::{Unit, readable};

/// The cost of one layer of `channels` on these token counts, with `text` tokens of `text_channels`.
fn layer_macs(tokens: &LayerTokens, channels: u64, text: u64, text_channels: u64) -> Macs {
    let (queries, keys) = (tokens.self_attention as u64, tokens.self_keys as u64);
    let (cross, ff) = (tokens.cross_attention as u64, tokens.feed_forward as u64);
    // without queries, the text is not projected
    let text = if cross == 0 { 0 } else { text };
    Macs {
        self_projections: product(&[2, queries + keys, channels, channels]),
        self_products: product(&[2, queries, keys, channels]),
        cross_projections: product(&[2, cross, channels, channels]).saturating_add(product(&[
            2,
            text,
            text_channels,
            channels,
        ])),
        cross_products: product(&[2, cross, text, channels]),
        feed_forward: product(&[12, ff, channels, channels]),
        ..Macs::default()
    }
}

/// The cost of one evaluation without pruning, on latents of `grid` with `text` text tokens.
pub fn full(config: &UNetConfig, grid: Grid, text: usize) -> Result<UNetCost> {
    pruned(config, grid, text, None, |block| Ok(vec![LayerTokens::whole(block.grid.tokens()); block.depth]))
}

/// The cost of one evaluation in which the layers of each block run on the token counts from `layers`. The nest
/// `replaced` does not run. `layers` is not called for its blocks. Its parts stay in the list with cost 0.
///
/// # Errors
/// The errors of `layers`. [`Error::Config`] if it does not return one entry per layer, or if the cost is 2⁶⁴
/// multiply-accumulates or more.
pub fn pruned(
    config: &UNetConfig,
    grid: Grid,
    text: usize,
    replaced: Option<NestId>,
    layers: impl Fn(&BlockInfo) -> Result<Vec<LayerTokens>>,
) -> Result<UNetCost> {
    let mut cost = UNetCost { parts: Vec::new() };
    let runs = |nest: NestId| replaced.is_none_or(|replaced| !replaced.contains(nest));
    let in_nest = |nest: NestId, macs: Macs| if runs(nest) { macs } else { Macs::default() };
    let (convolutions, nesting) = (Convolutions::new(config, grid), Nesting::of(config));
    convolutions.first_half("", &mut cost, &in_nest);
    if let Some(control) = &config.control {
        control_net(control, grid, &mut cost, &in_nest);
    }
    let last = config.down.len().saturating_sub(1);
    for (i, stage) in config.up.iter().enumerate() {
        let name = format!("up.{i}.conv");
        for layer in 0..stage.layers {
            let from = stage.resnet_inputs(layer).joined();
            let macs = convolutions.resnet(last - i, from, stage.channels);
            cost.tally(name.clone(), &in_nest(nesting.up(i, layer), macs));
        }
        if stage.upsample {
            let macs = convolutions.convolution(last - i - 1, stage.channels, stage.channels, 3);
            cost.tally(name, &in_nest(nesting.up(i, stage.layers.saturating_sub(1)), macs));
        }
    }
    let base = config.base_channels();
    let conv_out = convolutions.convolution(0, base, config.out_channels, config.conv_out_kernel);
    cost.tally("conv_out".into(), &in_nest(NestId::EVALUATION, conv_out));

    for block in config.blocks(grid.height, grid.width) {
        let mut macs = Macs::default();
        if runs(block.nest) {
            let layers = layers(&block)?;
            if layers.len() != block.depth {
                let reason =
                    format!("expected {} layers for block {}, got {}", block.depth, block.id, layers.len());
                return Err(Error::config("tokens", reason));
            }
            let (channels, tokens) = (block.channels as u64, block.grid.tokens() as u64);
            macs.projections = product(&[2, tokens, channels, channels]);
            for layer in &layers {
                macs.add(&layer_macs(layer, channels, text as u64, block.text_channels as u64));
            }
        }
        let stage = block.id.to_string();
        let stage = stage.rsplit_once('.').map_or(stage.as_str(), |(stage, _)| stage);
        cost.tally(format!("{stage}.attention"), &macs);
    }
    if cost.sum().total() == u64::MAX {
        let reason = format!(
            "one evaluation on {}x{} latents takes more than 2^64 operations",
            grid.height, grid.width
        );
        return Err(Error::config("size", reason));
    }
    Ok(cost)
}

/// The ratio that stands for the most that can be removed.
const HIGHEST: f64 = 0.9999;

/// The least and the most that `mean_tflop(ratio)` comes to, in TFLOP. It must fall as the ratio rises.
pub fn reach(mean_tflop: impl Fn(f64) -> Result<f64>) -> Result<[f64; 2]> {
    Ok([mean_tflop(HIGHEST)?, mean_tflop(0.0)?])
}

/// The least ratio whose `mean_tflop(ratio)` is within `budget` TFLOP. `mean_tflop` must fall as the ratio rises; it
/// may fall in small steps.
///
/// # Errors
/// [`Error::Config`] for `budget_tflops` if no ratio in `[0, 1)` meets it. The message names the least or the most
/// reachable value.
pub fn solve_ratio(budget: f64, mean_tflop: impl Fn(f64) -> Result<f64>) -> Result<f64> {
    let [least, most] = reach(&mean_tflop)?;
    if !(least..=most).contains(&budget) {
        let reason = format!(
            "expected at least {least:.4e} ({}) and at most {most:.4e} ({}) for this model, size and schedule, got {budget}",
            readable(least),
            readable(most)
        );
        return Err(Error::config("budget_tflops", reason));
    }
    let (mut low, mut high) = (0.0, HIGHEST);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if mean_tflop(middle)? > budget {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atedm_core::at_edm::pruned_tokens;

    const LATENTS: Grid = Grid::new(128, 128);

    /// AT-EDM's plan, written out by hand: the first layer is whole up to the prune point, the others run on the kept
    /// tokens.
    fn at_edm(ratio: f64, before_ff: bool, levels: &[usize], early: bool) -> f64 {
        let layers = |block: &BlockInfo| {
            let all = block.grid.tokens();
            let spared = early && block.id.is_stage_edge();
            let kept = if spared || !levels.contains(&block.id.level) {
                all
            } else {
                all - pruned_tokens(ratio, all)
            };
            let mut layers = vec![LayerTokens::whole(kept); block.depth];
            layers[0] = LayerTokens::whole(all);
            if before_ff {
                layers[0].feed_forward = kept;
            }
            Ok(layers)
        };
        pruned(&UNetConfig::sdxl_base(), LATENTS, 77, None, layers).unwrap().sum().tflop()
    }

    fn mean(ratio: f64, before_ff: bool, levels: &[usize]) -> f64 {
        (15.0 * at_edm(ratio, before_ff, levels, true) + 35.0 * at_edm(ratio, before_ff, levels, false))
            / 50.0
    }

    #[track_caller]
    fn prints(value: f64, expected: &str) {
        assert_eq!(format!("{value:.3}"), expected);
    }

    #[test]
    fn sdxl_at_1024_px_is_the_papers_6_7_t() {
        let cost = full(&UNetConfig::sdxl_base(), LATENTS, 77).unwrap();
        prints(cost.sum().total() as f64 * 1e-12, "3.381");
        prints(cost.sum().tflop(), "6.761");
        // the breakdown by an independent model, in GMAC
        let of = |name: &str| {
            let part = cost.parts.iter().find(|part| part.name == name).unwrap();
            format!("{:.1}", part.macs.total() as f64 * 1e-9)
        };
        assert_eq!(of("down.1.attention"), "215.8");
        assert_eq!(of("down.2.attention"), "676.5");
        assert_eq!(of("mid.attention"), "338.2");
        assert_eq!(of("up.0.attention"), "1014.7");
        assert_eq!(of("up.1.attention"), "323.7");
        assert_eq!(of("up.2.conv"), "162.7");
        assert_eq!(format!("{:.1}", cost.sum().self_products as f64 * 1e-9), "375.8");
        assert_eq!(format!("{:.1}", cost.sum().feed_forward as f64 * 1e-9), "1409.3");
    }

    #[test]
    fn at_edm_at_the_papers_ratio() {
        prints(at_edm(0.63, false, &[1, 2], true), "4.989");
        prints(at_edm(0.63, false, &[1, 2], false), "4.065");
        prints(mean(0.63, false, &[1, 2]), "4.342");
        prints(mean(0.63, true, &[1, 2]), "4.094");
        prints(mean(0.63, false, &[2]), "4.675");
        prints(mean(0.63, true, &[2]), "4.538");
    }

    #[test]
    fn budgets_are_solved_or_refused() {
        for (budget, ratio) in [(2.9, 0.943), (3.6, 0.756), (4.1, 0.628), (4.5, 0.528)] {
            let solved = solve_ratio(budget, |ratio| Ok(mean(ratio, true, &[1, 2]))).unwrap();
            assert!(
                (solved - ratio).abs() <= 1.0 / 1024.0,
                "{solved}: whole tokens make steps of 1/1024 at most"
            );
            assert!(mean(solved, true, &[1, 2]) <= budget);
        }
        let error = solve_ratio(2.9, |ratio| Ok(mean(ratio, false, &[1, 2]))).unwrap_err().to_string();
        assert!(
            error.starts_with("budget_tflops: expected at least 3.09") && error.ends_with("got 2.9"),
            "{error}"
        );
        assert!(solve_ratio(f64::NAN, |_| Ok(1.0)).is_err());
    }

    #[test]
    fn costs_beyond_counting_are_refused() {
        let most = 1 << 15;
        let error = full(&UNetConfig::sdxl_base(), Grid::new(most, most), 77).unwrap_err();
        assert!(error.to_string().starts_with("size: one evaluation on 32768x32768 latents"), "{error}");
        // the cost of the largest accepted picture is a number
        let side = most / 8;
        assert!(full(&UNetConfig::sdxl_base(), Grid::new(side, side), 77).is_ok());
    }

    #[test]
    fn one_entry_a_layer_is_asked_for() {
        assert!(pruned(&UNetConfig::sdxl_base(), LATENTS, 77, None, |_| Ok(Vec::new())).is_err());
    }

    /// A nest saves the cost of the parts inside it, and nests contain one another.
    #[test]
    fn a_nest_that_does_not_run_costs_nothing() {
        let config = UNetConfig::sdxl_base();
        let whole = |block: &BlockInfo| Ok(vec![LayerTokens::whole(block.grid.tokens()); block.depth]);
        let cost = |nest: Option<usize>| pruned(&config, LATENTS, 77, nest.map(NestId), whole).unwrap();
        let all = cost(None);
        assert_eq!(cost(Some(10)), all);
        assert_eq!(cost(Some(0)).sum().total(), 0);
        // the innermost is the middle
        let without_mid = all.part("mid.attention").unwrap().total() + all.part("mid.conv").unwrap().total();
        assert_eq!(all.sum().total() - cost(Some(9)).sum().total(), without_mid);
        // outside nest 1 are the first and the last convolution, the embeddings, and the last resnet on the way up.
        // That resnet has two convolutions (from 640 and from 320 channels), a shortcut, and the projected time
        let pixels = 128 * 128;
        let resnet = pixels * (9 * (640 * 320 + 320 * 320) + 640 * 320) + 1280 * 320;
        let ends: u64 =
            ["embeddings", "conv_in", "conv_out"].map(|name| all.part(name).unwrap().total()).iter().sum();
        assert_eq!(cost(Some(1)).sum().total(), ends + resnet);
        let costs: Vec<u64> = (0..=10).map(|nest| cost(Some(nest)).sum().total()).collect();
        assert!(costs.windows(2).all(|pair| pair[0] < pair[1]), "{costs:?}");
        // the list of parts has every name, so that steps can be compared
        assert_eq!(cost(Some(1)).parts.len(), all.parts.len());
    }
}
