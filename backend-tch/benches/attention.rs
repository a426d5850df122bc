//! Attention, the first vote, a later vote and the argmax of similarity copy in bf16 on the CPU, at SD-XL's sizes.
//! The bench compares them with libtorch's own fused attention. All take turns in one process. The figure is the
//! fastest of all turns in milliseconds, because other programs on the machine can only add time.
//!
//! `cargo bench -p atedm-tch --bench attention`

use std::time::Instant;

use atedm_core::backend::{AttentionGraph, AttentionOptions, GraphRequest};
use atedm_core::{AttentionOps, Partition, Result};
use atedm_tch::TchTensor;
use tch::{Device, Kind, Tensor};

/// Heads, queries and keys: both levels, their sizes when pruned at 63 %, and the 77 tokens of the text.
const SIZES: [(i64, i64, i64); 8] = [
    (10, 4096, 4096),
    (20, 1024, 1024),
    (10, 1516, 1516),
    (20, 379, 379),
    (10, 4096, 77),
    (20, 1024, 77),
    (10, 1516, 77),
    (20, 379, 77),
];
const DIM: i64 = 64;
const TURNS: usize = 25;

fn main() -> Result<()> {
    let _guard = tch::no_grad_guard();
    tch::manual_seed(0);
    println!("{} threads", tch::get_num_threads());
    println!("heads x queries x keys |  libtorch |      ours | and a vote |      vote |    argmax | GFLOP/s");
    for size in SIZES {
        measure(size)?;
    }
    Ok(())
}

/// Random tokens `[1, h, rows, dim]`, with heads inside as projections produce them.
fn heads(h: i64, rows: i64) -> Tensor {
    let tokens = Tensor::randn([1, rows, h, DIM], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
    tokens.permute([0, 2, 1, 3])
}

fn measure((h, m, n): (i64, i64, i64)) -> Result<()> {
    let (q, k, v) = (heads(h, m), heads(h, n), heads(h, n));
    let own = [&q, &k, &v].map(|x| TchTensor::from(x.shallow_clone()));
    let scores = TchTensor::from(Tensor::full([1, h, m], 1.0 / m as f64, (Kind::Float, Device::Cpu)));
    let request = |graph: &GraphRequest<TchTensor>| {
        let options = AttentionOptions { graph, ..AttentionOptions::for_dim(DIM as usize) };
        TchTensor::attention(&own[0], &own[1], &own[2], options)
    };
    let kept = (0..m as u32 * 37 / 100).collect();
    let partition = Partition::from_kept(&[kept], m as usize, &Device::Cpu)?;
    let Some(AttentionGraph::Streamed(graph)) = request(&GraphRequest::Lazy)?.graph else {
        return Ok(());
    };
    let vote = GraphRequest::FirstVote(scores.clone());
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..TURNS {
        let start = Instant::now();
        drop(Tensor::scaled_dot_product_attention::<&Tensor>(&q, &k, &v, None, 0.0, false, None, false));
        times[0].push(start.elapsed());
        let start = Instant::now();
        request(&GraphRequest::None)?;
        times[1].push(start.elapsed());
        if m != n {
            continue;
        }
        let start = Instant::now();
        request(&vote)?;
        times[2].push(start.elapsed());
        let start = Instant::now();
        TchTensor::votes(&graph, &scores)?;
        times[3].push(start.elapsed());
        let start = Instant::now();
        TchTensor::strongest(&graph, &partition)?;
        times[4].push(start.elapsed());
    }
    let fastest = times.map(|times| times.into_iter().min().map(|time| time.as_secs_f64() * 1e3));
    let shown = fastest.map(|time| time.map_or_else(|| format!("{:>9}", "-"), |time| format!("{time:>9.2}")));
    let flop = (4 * h * m * n * DIM) as f64;
    let rate = fastest[1].map_or(0.0, |time| flop / time / 1e6);
    println!("{h:>5} x {m:>7} x {n:>4} | {} | {rate:>7.0}", shown.join(" | "));
    Ok(())
}
