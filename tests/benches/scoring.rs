//! What AT-EDM adds to one attention as tokens grow: time and peak memory. The paper's G-WPR needs the attention map; a fused
//! kernel never stores it, so no step may need memory for tokens × tokens values.
//!
//! ```text
//! cargo bench -p atedm-tests --bench scoring [-- --rounds N] [--most TOKENS]
//! ```
//! It prints a table as Markdown. Times are medians over the rounds, in which all steps take turns.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use atedm_candle::{Candle, Device};
use atedm_conformance::host::Draws;
use atedm_core::at_edm::pruned_tokens;
use atedm_core::backend::{AttentionOptions, GraphRequest};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Result, Tensor};
use atedm_experiment::bench::machine::{peak_bytes, processor, reset_peak};

/// Heads and their width, as at SD-XL's first level with attention.
const HEADS: usize = 10;
const DIM: usize = 64;

/// A step with its name in the table.
type Work<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

/// Milliseconds of every step in every round, and the memory that each raised the peak by, in bytes.
fn measured(steps: &[Work<'_>], rounds: usize) -> (Vec<Vec<f64>>, Vec<Option<u64>>) {
    let mut times = vec![Vec::with_capacity(rounds); steps.len()];
    for round in 0..=rounds {
        for (place, (_, work)) in steps.iter().enumerate() {
            let start = Instant::now();
            work().expect("the step works");
            // The first round brings threads and tables.
            if round > 0 {
                times[place].push(1e3 * start.elapsed().as_secs_f64());
            }
        }
    }
    let rise = |(_, work): &Work<'_>| {
        let before = reset_peak().then(peak_bytes)??;
        work().expect("the step works");
        Some(peak_bytes()?.saturating_sub(before))
    };
    (times, steps.iter().map(rise).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A row of the table.
fn row<B: Backend>(tokens: usize, dtype: DType, device: &DeviceOf<B>, rounds: usize) -> String {
    let mut draws = Draws::new(1);
    let mut heads = || -> B::Tensor {
        draws.normals(&[1, HEADS, tokens, DIM]).upload(dtype, device).expect("the dtype is there")
    };
    let (q, k, v) = (heads(), heads(), heads());
    let start =
        B::Tensor::full(1.0 / tokens as f64, &[1, HEADS, tokens], dtype.accumulator(), device).unwrap();
    let options = AttentionOptions::for_dim(DIM);
    let attention = |graph: &GraphRequest<B::Tensor>| {
        B::Tensor::attention(&q, &k, &v, AttentionOptions { graph, ..options })
    };
    let asked = attention(&GraphRequest::FirstVote(start.clone())).unwrap();
    let Some(AttentionGraph::Streamed(graph)) = asked.graph else {
        panic!("without a bias the graph is streamed")
    };
    let vote = B::Tensor::votes(&graph, &start).unwrap();
    let scores = vote.mean(1).unwrap().reshape(&[1, tokens]).unwrap();
    let kept = tokens - pruned_tokens(0.63, tokens);
    let partition = scores.split_top_k(kept).unwrap();
    let first = GraphRequest::FirstVote(start.clone());
    let steps: [Work<'_>; 5] = [
        ("attention", Box::new(|| attention(&GraphRequest::None).map(|found| drop(black_box(found))))),
        ("with a vote", Box::new(|| attention(&first).map(|found| drop(black_box(found))))),
        ("another vote", Box::new(|| B::Tensor::votes(&graph, &vote).map(|found| drop(black_box(found))))),
        ("selection", Box::new(|| scores.split_top_k(kept).map(|found| drop(black_box(found))))),
        ("donors", Box::new(|| B::Tensor::strongest(&graph, &partition).map(|found| drop(black_box(found))))),
    ];
    let (times, peaks) = measured(&steps, rounds);
    let [plain, voting, another, selection, donors] = [0, 1, 2, 3, 4].map(|place| median(&times[place]));
    // The price of the first vote is a difference, so it is taken within each round.
    let first: Vec<f64> = times[1].iter().zip(&times[0]).map(|(with, without)| with - without).collect();
    let first = median(&first);
    let added = |votes: f64| 100.0 * (first + (votes - 1.0) * another + selection + donors) / plain;
    let scoring =
        peaks[1..].iter().copied().collect::<Option<Vec<u64>>>().and_then(|peaks| peaks.into_iter().max());
    let megabytes =
        |bytes: Option<u64>| bytes.map_or("–".into(), |bytes| format!("{:.0}", bytes as f64 / 1e6));
    format!(
        "| {tokens} | {dtype} | {plain:.1} | {:.1} | {another:.1} | {selection:.2} | {donors:.1} | {:.0} % | {:.0} % | {} | {} | {:.0} |",
        voting - plain,
        added(1.0),
        added(5.0),
        megabytes(peaks[0]),
        megabytes(scoring),
        (HEADS * tokens * tokens * dtype.size_in_bytes()) as f64 / 1e6,
    )
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str, default: usize| {
        let place = arguments.iter().position(|argument| argument == flag);
        place.and_then(|place| arguments.get(place + 1)?.parse().ok()).unwrap_or(default)
    };
    let (rounds, most) = (number("--rounds", 5), number("--most", 16_384));
    println!(
        "{}: {}; {HEADS} heads of {DIM}, batch 1; medians of {rounds} rounds\n",
        Candle::NAME,
        processor()
    );
    println!(
        "| tokens | dtype | attention, ms | the first vote adds | another vote | selection | donors | one vote and donors ÷ attention | five votes | peak of attention, MB | of scoring | a stored map, MB |"
    );
    println!("|---:|---|{}", "---:|".repeat(10));
    for dtype in [DType::F32, DType::BF16] {
        for tokens in [256, 1024, 4096, 16_384].into_iter().filter(|tokens| *tokens <= most) {
            println!("{}", row::<Candle>(tokens, dtype, &Device::Cpu, rounds));
        }
    }
}
