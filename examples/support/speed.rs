//! What a model's forward pass costs whole, with AT-EDM and with ToMe, in turns. The examples that measure include this
//! file. On Linux times are those of the processor: what else runs on the machine does not change them.

use std::time::Instant;

use atedm_candle::CandleTensor;
use atedm_core::plugin::{BuildContext, Registry, Row, Run, Step, TokenReducer};
use candle_core::{Error, Result};
use serde_json::{Value, json};

const ROUNDS: usize = 3;

/// A method, for the image that is being made.
type Method = Box<dyn TokenReducer<CandleTensor>>;

/// Prints one row of a Markdown table, `plain` beside `reduced`, for a batch of `rows`.
pub(crate) fn row(
    title: &str,
    rows: usize,
    plain: impl Fn() -> Result<()>,
    reduced: impl Fn(&mut Method, &Step) -> Result<()>,
) -> Result<()> {
    // five votes each, as on maps that do not converge sooner; the last of each pair decides once and for all
    let settings = [
        ("at-edm", json!({"ratio": 0.63, "epsilon": 0.0})),
        ("at-edm", json!({"ratio": 0.63, "epsilon": 0.0, "rescore_every": 1000})),
        ("tome", json!({"ratio": 0.5, "use_rand": false})),
        ("tome", json!({"ratio": 0.5, "use_rand": false, "reuse": {"steps": 1000}})),
    ];
    let mut methods = Vec::new();
    for (name, options) in &settings {
        methods.push(build(name, options, rows).map_err(Error::wrap)?);
    }
    let mut best = [f64::MAX; 5];
    for round in 0..=ROUNDS {
        let step = step(round);
        let mut took = [0.0; 5];
        took[0] = time(&plain)?;
        for (method, took) in methods.iter_mut().zip(&mut took[1..]) {
            method.begin_step(&step, &Row::singles(rows)).map_err(Error::wrap)?;
            *took = time(|| reduced(method, &step))?;
        }
        // the first round decides what the others use again, and fills caches
        if round > 0 {
            best.iter_mut().zip(took).for_each(|(best, took)| *best = took.min(*best));
        }
    }
    let [whole, at_edm, chosen, tome, merged] = best;
    let cell = |time: f64, decided: f64| {
        let share = 100.0 * (time - decided).max(0.0) / time;
        format!("{time:.3} s ({:.2}x) | {share:.0} %", whole / time)
    };
    println!("| {title} | {whole:.3} s | {} | {} |", cell(at_edm, chosen), cell(tome, merged));
    Ok(())
}

/// Prints the head of the table.
pub(crate) fn head() {
    println!("| model | whole | AT-EDM, ratio .63 | of it scoring | ToMe, ratio .5 | of it matching |");
    println!("|---|---|---|---|---|---|");
}

fn build(name: &str, options: &Value, rows: usize) -> atedm_core::Result<Method> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry)?;
    let mut method = registry.build(name, options, &BuildContext::default())?;
    method.begin_run(&Run::new(ROUNDS + 1, 0, &Row::singles(rows)))?;
    Ok(method)
}

fn step(index: usize) -> Step {
    Step { index, total: ROUNDS + 1, evaluation: index, sigma: 1.0, timestep: 500.0 }
}

/// Seconds that `run` takes.
fn time(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (start, processor) = (Instant::now(), processor_seconds());
    run()?;
    Ok(match (processor, processor_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => start.elapsed().as_secs_f64(),
    })
}

/// Seconds of the processor that this process has used, in user mode and in the kernel.
fn processor_seconds() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks = |field: usize| after_name.split_whitespace().nth(field)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
