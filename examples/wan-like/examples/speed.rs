//! How long an evaluation of a larger model takes on Candle's CPU: whole, with AT-EDM at 0.63, with ToMe at 0.5.
//!
//!     cargo run --release -p example-wan-like --example speed
//!
//! The model has random weights, 8 layers of 4 heads x 64 channels, and a batch of one. The variants take turns. The
//! table has the least wall time of each. On Linux it also has the least processor time of all threads together, which
//! other work on the machine hardly changes. The time of scoring (ToMe: matching) is the difference to an evaluation
//! that reuses an earlier decision.

use std::path::PathBuf;
use std::time::Instant;

use atedm_candle::{Candle, CandleTensor, Device};
use atedm_conformance::host::Draws;
use atedm_core::plugin::{BuildContext, Registry, Row, Run, Step, TokenReducer};
use atedm_core::{Backend, DType, Result, WeightSource, Weights};
use example_wan_like::config::WanConfig;
use example_wan_like::model::{Input, Wan};
use example_wan_like::{plain, reduced};
use serde_json::json;

const CONFIG: WanConfig = WanConfig {
    patch_size: [1, 2, 2],
    num_attention_heads: 4,
    attention_head_dim: 64,
    in_channels: 16,
    out_channels: 16,
    text_dim: 64,
    freq_dim: 64,
    ffn_dim: 1024,
    num_layers: 8,
    eps: 1e-6,
};

/// Token grids: frames, height, width.
const SIZES: [[usize; 3]; 2] = [[5, 12, 16], [5, 24, 32]];
const ROUNDS: usize = 5;

/// Weights of variance 1 / fan-in, norms of 1.
struct RandomWeights;

impl WeightSource<CandleTensor> for RandomWeights {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<CandleTensor> {
        let fan_in = shape[1..].iter().product::<usize>().max(1) as f64;
        let seed =
            name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        match (shape.len(), name.ends_with("weight")) {
            (1, weight) => {
                atedm_core::Tensor::full(f64::from(u8::from(weight)), shape, DType::F32, &Device::Cpu)
            }
            _ => Draws::new(seed).normals(shape).map(|x| x / fan_in.sqrt()).upload(DType::F32, &Device::Cpu),
        }
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn origin(&self) -> PathBuf {
        "random weights".into()
    }
}

/// Seconds of an evaluation.
#[derive(Debug, Clone, Copy)]
struct Seconds {
    wall: f64,
    processor: Option<f64>,
}

impl Seconds {
    const NONE: Self = Self { wall: f64::INFINITY, processor: None };

    /// How long `body` takes.
    fn of<R>(body: impl FnOnce() -> Result<R>) -> Result<Self> {
        let (start, before) = (Instant::now(), processor_time());
        body()?;
        let processor = before.zip(processor_time()).map(|(before, after)| after - before);
        Ok(Self { wall: start.elapsed().as_secs_f64(), processor })
    }

    /// The lesser of each.
    fn least(self, other: Self) -> Self {
        let processor = match (self.processor, other.processor) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self { wall: self.wall.min(other.wall), processor }
    }

    /// What methods are compared by.
    fn decisive(self) -> f64 {
        self.processor.unwrap_or(self.wall)
    }
}

/// Processor time of this process's threads so far, in seconds, as Linux counts it for each.
fn processor_time() -> Option<f64> {
    let of_thread = |folder: std::io::Result<std::fs::DirEntry>| -> Option<f64> {
        let text = std::fs::read_to_string(folder.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let nanoseconds: Option<f64> = std::fs::read_dir("/proc/self/task").ok()?.map(of_thread).sum();
    nanoseconds.map(|nanoseconds| 1e-9 * nanoseconds)
}

/// A forward pass, whole or by a method.
struct Variant {
    name: &'static str,
    method: Option<Box<dyn TokenReducer<CandleTensor>>>,
    /// Whether an earlier evaluation's decision serves.
    reuses: bool,
    best: Seconds,
}

impl Variant {
    fn whole() -> Self {
        Self { name: "whole", method: None, reuses: false, best: Seconds::NONE }
    }

    fn new(name: &'static str, method: &str, options: serde_json::Value, reuses: bool) -> Result<Self> {
        let mut registry = Registry::with_builtins();
        atedm_tomerge::register(&mut registry)?;
        let mut method = registry.build(method, &options, &BuildContext::default())?;
        method.begin_run(&Run::new(50, 0, &Row::singles(1)))?;
        Ok(Self { name, method: Some(method), reuses, best: Seconds::NONE })
    }

    fn run(
        &mut self,
        model: &Wan<CandleTensor>,
        input: &Input<'_, CandleTensor>,
        round: usize,
    ) -> Result<()> {
        let rows = Row::singles(1);
        let index = 20 + round;
        let step = Step { index, total: 50, evaluation: index, sigma: 1.0, timestep: 500.0 };
        let method = &mut self.method;
        let taken = Seconds::of(|| match method {
            None => plain::forward(model, input),
            Some(method) => {
                method.begin_step(&step, &rows)?;
                reduced::forward(model, input, (&mut **method, &step, &rows))
            }
        })?;
        // the first round makes the decision that later ones use again
        if !self.reuses || round > 0 {
            self.best = self.best.least(taken);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let model = Wan::load(&Weights::new(RandomWeights), &CONFIG)?;
    for [frames, height, width] in SIZES {
        let mut draws = Draws::new(7);
        let latents: CandleTensor =
            draws.normals(&[1, 16, frames, 2 * height, 2 * width]).upload(DType::F32, &Device::Cpu)?;
        let text = draws.normals(&[1, 64, 64]).upload(DType::F32, &Device::Cpu)?;
        let input = Input { latents: &latents, timesteps: &[500.0], text: &text };
        let tome = json!({"ratio": 0.5, "use_rand": false});
        let tome_again = json!({"ratio": 0.5, "use_rand": false, "reuse": {"steps": 1000}});
        let mut variants = [
            Variant::whole(),
            Variant::new("AT-EDM 0.63", "at-edm", json!({}), false)?,
            Variant::new("AT-EDM 0.63, decided before", "at-edm", json!({"rescore_every": 1000}), true)?,
            Variant::new("ToMe 0.5", "tome", tome, false)?,
            Variant::new("ToMe 0.5, decided before", "tome", tome_again, true)?,
        ];
        for round in 0..ROUNDS {
            for variant in &mut variants {
                Candle::inference(|| variant.run(&model, &input, round))?;
            }
        }
        let whole = variants[0].best.decisive();
        println!("{frames} x {height} x {width} = {} tokens", frames * height * width);
        for Variant { name, best, .. } in &variants {
            let processor =
                best.processor.map_or(String::new(), |seconds| format!("{seconds:8.2} s of processors"));
            println!("  {name:28} {processor} {:8.2} s   {:.2}x", best.wall, whole / best.decisive());
        }
        for pair in variants[1..].chunks(2) {
            let (with, without) = (pair[0].best.decisive(), pair[1].best.decisive());
            println!("  {}: deciding takes {:.1} %", pair[0].name, 1e2 * (with - without) / with);
        }
    }
    Ok(())
}
