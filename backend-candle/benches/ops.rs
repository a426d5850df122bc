//! GFLOP/s of the CPU kernels at SD-XL's sites, f32, beside Candle's own 2048 x 2048 matrix product in the same run.
//!
//! `cargo bench -p atedm-candle --bench ops [-- FILTER]`: prints one line for each site whose name contains the filter, with the
//! best of several runs. With `ATEDM_BENCH=cpu` (Linux) it counts processor time of all threads instead of the clock,
//! as one thread's rate: on a busy machine, with `RAYON_NUM_THREADS=1`, that is what stays comparable. Sites are named by level, tokens and channels: `down2_256x1280` is the deepest level at
//! 512 x 512 pixels, `down1_4096x640` the middle one at 1024 x 1024.

use std::time::{Duration, Instant};

use atedm_candle::{Candle, CandleTensor as T, Device};
use atedm_core::backend::{AttentionOptions, Conv2dOptions, GraphRequest, Partition};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, NnOps, Result, Tensor};

/// Seconds: the clock's, or the processor time of all threads of this process.
fn now(origin: Instant) -> f64 {
    if std::env::var("ATEDM_BENCH").is_ok_and(|mode| mode == "cpu") {
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let nanoseconds = |task: std::fs::DirEntry| -> Option<f64> {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        return tasks.filter_map(nanoseconds).sum::<f64>() * 1e-9;
    }
    origin.elapsed().as_secs_f64()
}

/// Seconds of the fastest run: at least 3 runs, at most about one second.
fn fastest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || start.elapsed() < Duration::from_millis(800) {
        let begin = now(start);
        run()?;
        Candle::synchronize(&Device::Cpu)?;
        best = best.min(now(start) - begin);
        runs += 1;
    }
    Ok(best)
}

/// Prints what is measured, as a share of a reference rate.
struct Table {
    filter: String,
    reference: f64,
}

impl Table {
    /// One line; `flop` counts two for each multiplication and addition, 0 for what is bound by memory.
    fn line(&self, name: &str, flop: f64, run: impl FnMut() -> Result<()>) -> Result<()> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        let seconds = fastest(run)?;
        let rate = flop / seconds * 1e-9;
        let share = 100.0 * rate / self.reference;
        if flop > 0.0 {
            println!("{name:<34} {:>9.3} ms {rate:>8.1} GFLOP/s {share:>6.1} %", seconds * 1e3);
        } else {
            println!("{name:<34} {:>9.3} ms", seconds * 1e3);
        }
        Ok(())
    }
}

/// Numbers between -1 and 1.
fn noise(shape: &[usize]) -> Result<T> {
    let mut state = 88_172_645_463_325_252u64;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    T::from_f32(&values, shape, DType::F32, &Device::Cpu)
}

fn main() -> Result<()> {
    // cargo passes `--bench`
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let side = 2048;
    let (a, b) = (noise(&[side, side])?, noise(&[side, side])?);
    let flop = 2.0 * (side as f64).powi(3);
    let seconds = fastest(|| a.matmul(&b).map(drop))?;
    let table = Table { filter, reference: flop / seconds * 1e-9 };
    println!("{:<34} {:>9.3} ms {:>8.1} GFLOP/s", "candle matmul 2048", seconds * 1e3, table.reference);
    convolutions(&table)?;
    for (site, tokens, channels) in [
        ("down1_1024x640", 1024, 640),
        ("down2_256x1280", 256, 1280),
        ("down1_4096x640", 4096, 640),
        ("down2_1024x1280", 1024, 1280),
    ] {
        linears(&table, site, tokens, channels)?;
        attentions(&table, site, tokens, channels)?;
    }
    Ok(())
}

fn convolutions(table: &Table) -> Result<()> {
    let sites = [
        ("conv3 320 64x64", 320, 320, 64, 3, 1),
        ("conv3 640 32x32", 640, 640, 32, 3, 1),
        ("conv3 1280 16x16", 1280, 1280, 16, 3, 1),
        ("conv3 2560>1280 16x16", 2560, 1280, 16, 3, 1),
        ("conv3 320 64x64 stride 2", 320, 320, 64, 3, 2),
        ("conv1 960>640 32x32", 960, 640, 32, 1, 1),
    ];
    for (name, ci, co, side, kernel, stride) in sites {
        let x = noise(&[1, ci, side, side])?;
        let (weight, bias) = (noise(&[co, ci, kernel, kernel])?, noise(&[co])?);
        let options = Conv2dOptions::strided(stride, kernel / 2);
        let out = (side / stride).pow(2);
        let flop = 2.0 * (co * ci * kernel * kernel * out) as f64;
        table.line(name, flop, || x.conv2d(&weight, Some(&bias), options).map(drop))?;
        if stride == 1 && kernel == 3 {
            let own = format!("{name} (candle's own)");
            table.line(&own, flop, || {
                let out = x.as_ref().conv2d(weight.as_ref(), 1, 1, 1, 1);
                out.map(drop).map_err(|e| atedm_core::Error::config("conv2d", e.to_string()))
            })?;
        }
    }
    let (x, weight) = (noise(&[1, 320, 64, 64])?, noise(&[320])?);
    table
        .line("group_norm_silu 320 64x64", 0.0, || x.group_norm_silu(32, &weight, &weight, 1e-5).map(drop))?;
    table.line("silu 320 64x64", 0.0, || x.silu().map(drop))?;
    table.line("add 320 64x64", 0.0, || x.add(&x).map(drop))?;
    table.line("image to tokens 320 64x64", 0.0, || {
        x.reshape(&[1, 320, 4096])?.permute(&[0, 2, 1])?.reshape(&[4096 * 320]).map(drop)
    })?;
    table.line("upsample_nearest 320 64x64", 0.0, || x.upsample_nearest(128, 128).map(drop))
}

fn linears(table: &Table, site: &str, tokens: usize, channels: usize) -> Result<()> {
    let x = noise(&[1, tokens, channels])?;
    let flop = |inner: usize, out: usize| 2.0 * (tokens * inner * out) as f64;
    let (weight, bias) = (noise(&[channels, channels])?, noise(&[channels])?);
    let run = || x.linear(&weight, Some(&bias)).map(drop);
    table.line(&format!("{site} linear"), flop(channels, channels), run)?;
    let (wide, wide_bias) = (noise(&[8 * channels, channels])?, noise(&[8 * channels])?);
    let run = || x.geglu(&wide, Some(&wide_bias)).map(drop);
    table.line(&format!("{site} geglu"), flop(channels, 8 * channels), run)?;
    let (inner, narrow) = (noise(&[1, tokens, 4 * channels])?, noise(&[channels, 4 * channels])?);
    let run = || inner.linear(&narrow, Some(&bias)).map(drop);
    table.line(&format!("{site} feed-forward out"), flop(4 * channels, channels), run)?;
    table.line(&format!("{site} layer_norm"), 0.0, || x.layer_norm(&bias, &bias, 1e-5).map(drop))
}

fn attentions(table: &Table, site: &str, tokens: usize, channels: usize) -> Result<()> {
    let heads = channels / 64;
    let split = |rows: usize| noise(&[1, rows, heads, 64])?.permute(&[0, 2, 1, 3]);
    let (q, k, v) = (split(tokens)?, split(tokens)?, split(tokens)?);
    let flop = |keys: usize| 4.0 * (tokens * keys * channels) as f64;
    let options = AttentionOptions::for_dim(64);
    let run = || T::attention(&q, &k, &v, options).map(drop);
    table.line(&format!("{site} attention"), flop(tokens), run)?;
    let scores = T::full(1.0 / tokens as f64, &[1, heads, tokens], DType::F32, &Device::Cpu)?;
    let with_vote = AttentionOptions { graph: &GraphRequest::FirstVote(scores.clone()), ..options };
    let run = || T::attention(&q, &k, &v, with_vote).map(drop);
    table.line(&format!("{site} attention, first vote"), flop(tokens), run)?;
    let text = split(77)?;
    let run = || T::attention(&q, &text, &text, options).map(drop);
    table.line(&format!("{site} cross-attention"), flop(77), run)?;
    let lazy = AttentionOptions { graph: &GraphRequest::Lazy, ..options };
    if let Some(AttentionGraph::Streamed(graph)) = T::attention(&q, &k, &v, lazy)?.graph {
        let run = || T::votes(&graph, &scores).map(drop);
        table.line(&format!("{site} vote"), flop(tokens) / 2.0, run)?;
        let order = noise(&[1, tokens])?;
        let Partition { kept, pruned } = order.split_top_k(tokens * 37 / 100)?;
        let partition = Partition { kept, pruned };
        let entries = flop(tokens) / 2.0 * 0.37 * 0.63;
        let run = || T::strongest(&graph, &partition).map(drop);
        table.line(&format!("{site} strongest"), entries, run)?;
        table.line(&format!("{site} split_top_k"), 0.0, || order.split_top_k(tokens / 3).map(drop))?;
    }
    Ok(())
}
