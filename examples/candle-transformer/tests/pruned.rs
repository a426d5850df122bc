//! What the added lines are worth: how many they are, that they change nothing when nothing is pruned, and what they save.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use atedm_candle::{CandleIndices, CandleTensor};
use atedm_core::at_edm::{AtEdmConfig, Parts};
use atedm_core::plugin::{
    Action, BuildContext, Event, Grid, IndexPlan, Row, Run, Site, Step, TokenReducer, Unpruned,
};
use atedm_core::{Indices, Partition};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use example_candle_transformer::layers::{Rotary, Transformer};
use example_candle_transformer::{plain, pruned};

const CHANNELS: usize = 128;
const LAYERS: usize = 8;
const GRID: Grid = Grid::new(24, 24);
const STEP: Step = Step { index: 40, total: 50, evaluation: 40, sigma: 1.0, timestep: 200.0 };

fn model() -> Result<Transformer> {
    let weights = VarMap::new();
    let weights = VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu);
    Transformer::load([CHANNELS, 4, LAYERS], [GRID.height, GRID.width], weights)
}

fn input() -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, (2, GRID.tokens(), CHANNELS), &Device::Cpu)
}

// ANCHOR: method
fn at_edm(ratio: f64) -> Box<dyn TokenReducer<CandleTensor>> {
    let config = AtEdmConfig { ratio, ..AtEdmConfig::default() };
    let mut method = config.build(&BuildContext::default(), &Parts::with_builtins()).unwrap();
    method.begin_run(&Run { steps: STEP.total, seed: 0, rows: &Row::singles(2) }).unwrap();
    method.begin_step(&STEP, &Row::singles(2)).unwrap();
    Box::new(method)
}
// ANCHOR_END: method

/// Lines of code (no comments, no blanks) that one file has and another does not.
fn added(before: &str, after: &str) -> usize {
    let code = |text: &str| {
        let mut lines: HashMap<String, usize> = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
            *lines.entry(line.to_string()).or_default() += 1;
        }
        lines
    };
    let before = code(before);
    code(after).iter().map(|(line, n)| n.saturating_sub(before.get(line).copied().unwrap_or(0))).sum()
}

#[test]
fn at_most_fifteen_lines_are_added() {
    let lines = added(include_str!("../src/plain.rs"), include_str!("../src/pruned.rs"));
    println!("{lines} lines added to the forward pass");
    // and three where the method is made and told of the image and of each step: `at_edm` above
    assert!((1..=12).contains(&lines), "{lines} lines");
}

#[test]
fn without_pruning_nothing_changes() -> Result<()> {
    let (model, x) = (model()?, input()?);
    let before = plain::forward(&model, &x)?.flatten_all()?.to_vec1::<f32>()?;
    let identity =
        pruned::forward(&model, &x, &mut Unpruned, &STEP, GRID)?.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(before, identity);
    let ratio_zero = pruned::forward(&model, &x, &mut *at_edm(0.0), &STEP, GRID)?;
    assert_eq!(before, ratio_zero.flatten_all()?.to_vec1::<f32>()?);
    Ok(())
}

/// Keeps every third token, from the block's entry to its exit.
struct EveryThird;

impl TokenReducer<CandleTensor> for EveryThird {
    fn on_event(
        &mut self,
        site: &Site<'_>,
        event: Event<'_, CandleTensor>,
    ) -> atedm_core::Result<Action<CandleTensor>> {
        if !matches!(event, Event::LayerEnter { .. }) || site.layer > 0 {
            return Ok(Action::Continue);
        }
        let kept: Vec<u32> = (0..site.tokens as u32).step_by(3).collect();
        let donors = vec![vec![0; site.tokens - kept.len()]; site.rows.len()];
        let partition = Partition::from_kept(&vec![kept; site.rows.len()], site.tokens, &Device::Cpu)?;
        let donors = CandleIndices::from_host(&donors, &Device::Cpu)?;
        Ok(Action::UntilExit(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}

/// A model of the kept tokens alone, with their rows of the rotary tables, gives what the pruned model gives them.
#[test]
fn rotary_tables_follow_the_tokens() -> Result<()> {
    let (model, x) = (model()?, input()?);
    let third = Tensor::arange_step(0u32, GRID.tokens() as u32, 3, &Device::Cpu)?;
    let kept = |x: &Tensor, axis: usize| x.index_select(&third, axis);
    let pruned = kept(&pruned::forward(&model, &x, &mut EveryThird, &STEP, GRID)?, 1)?;
    let theirs = model.rotary.of(|table| kept(table, 0))?;
    // those of as many tokens in a narrower grid
    let others = Rotary::new([GRID.height, GRID.width / 3], CHANNELS / 4, &Device::Cpu)?;
    let mut alone = model;
    let mut off = |rotary: Rotary| -> Result<f32> {
        alone.rotary = rotary;
        let alone = plain::forward(&alone, &kept(&x, 1)?)?;
        (&pruned - &alone)?.abs()?.flatten_all()?.max(0)?.to_scalar()
    };
    let (right, wrong) = (off(theirs)?, off(others)?);
    assert!(right < 1e-4 && wrong > 1e-2, "{right} with their own rows, {wrong} with others'");
    Ok(())
}

#[test]
fn pruning_keeps_the_shape_and_saves_time() -> Result<()> {
    let (model, x) = (model()?, input()?);
    let mut method = at_edm(0.63);
    let y = pruned::forward(&model, &x, &mut *method, &STEP, GRID)?;
    assert_eq!(y.dims(), x.dims());
    let (mut full, mut less) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        plain::forward(&model, &x)?;
        full.push(start.elapsed());
        let start = Instant::now();
        pruned::forward(&model, &x, &mut *method, &STEP, GRID)?;
        less.push(start.elapsed());
    }
    // the best of each: other work on the machine only adds time
    let best = |times: Vec<Duration>| times.into_iter().min().unwrap_or_default();
    let (full, less) = (best(full), best(less));
    println!("full {full:?}, pruned {less:?}: {:.2}x", full.as_secs_f64() / less.as_secs_f64());
    // by FLOPs 7 of 8 layers run on 37 % of the tokens, about 2.5x; a busy machine must not fail this
    assert!(less < full, "{less:?} is not below {full:?}");
    Ok(())
}
