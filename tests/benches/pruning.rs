//! What a pruning layer costs besides the model: votes, selection, recovery; generic and fused side by side.
//!
//! `cargo bench -p atedm-tests --bench pruning`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::hint::black_box;
use std::time::Duration;

use atedm_candle::{Candle, Device};
use atedm_conformance::host::Draws;
use atedm_core::at_edm::scoring::{PageRank, PageRankOptions, Start};
use atedm_core::backend::{AttentionOptions, GraphRequest, generic};
use atedm_core::plugin::{IndexPlan, Reduction};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use support::{PLACES, Place, synced};

/// Tokens that stay of `n` at the paper's ratio.
fn kept(n: usize) -> usize {
    n - atedm_core::at_edm::pruned_tokens(0.63, n)
}

fn bench<B: Backend>(criterion: &mut Criterion, device: &DeviceOf<B>) {
    for place in PLACES {
        at::<B>(criterion, device, place);
    }
}

fn at<B: Backend>(criterion: &mut Criterion, device: &DeviceOf<B>, place: Place) {
    let mut draws = Draws::new(1);
    let mut normals = |shape: &[usize]| -> B::Tensor {
        draws.normals(shape).upload(DType::F32, device).expect("f32 is always there")
    };
    let (n, heads) = (place.side * place.side, place.heads);
    let heads_shape = [1, heads, n, 64];
    let (q, k, v) = (normals(&heads_shape), normals(&heads_shape), normals(&heads_shape));
    let hidden = normals(&[1, n, place.channels()]);
    let start = B::Tensor::full(1.0 / n as f64, &[1, heads, n], DType::F32, device).unwrap();
    let lazy = AttentionOptions { graph: &GraphRequest::Lazy, ..AttentionOptions::for_dim(64) };
    let Some(AttentionGraph::Streamed(graph)) = B::Tensor::attention(&q, &k, &v, lazy).unwrap().graph else {
        panic!("without a bias the graph is streamed");
    };
    let scores = B::Tensor::votes(&graph, &start).unwrap().mean(1).unwrap().reshape(&[1, n]).unwrap();
    let partition = scores.split_top_k(kept(n)).unwrap();
    let plan = IndexPlan::new(&partition, &B::Tensor::strongest(&graph, &partition).unwrap()).unwrap();
    let five = PageRank::new(PageRankOptions { epsilon: 0.0, ..PageRankOptions::default() }).unwrap();
    let whole = AttentionGraph::Streamed(graph.clone());

    let mut group = criterion.benchmark_group(format!("{}/{}", B::NAME, place.name));
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let mut time = |name: &str, call: &dyn Fn()| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| synced::<B>(device, iterations, call));
        });
    };
    let attention = |graph: &GraphRequest<B::Tensor>| {
        let options = AttentionOptions { graph, ..lazy };
        drop(black_box(B::Tensor::attention(&q, &k, &v, options).unwrap()));
    };
    let vote = GraphRequest::FirstVote(start.clone());
    time("attention", &|| attention(&GraphRequest::None));
    time("attention_with_first_vote", &|| attention(&vote));
    time("attention_generic", &|| drop(black_box(generic::attention(&q, &k, &v, lazy).unwrap())));
    time("votes", &|| drop(black_box(B::Tensor::votes(&graph, &start).unwrap())));
    time("votes_generic", &|| drop(black_box(generic::votes(&graph, &start).unwrap())));
    time("page_rank_five_votes", &|| drop(black_box(five.per_head(&whole, Start::equal()).unwrap())));
    time("selection", &|| drop(black_box(scores.split_top_k(kept(n)).unwrap())));
    time("strongest", &|| drop(black_box(B::Tensor::strongest(&graph, &partition).unwrap())));
    time("strongest_generic", &|| drop(black_box(generic::strongest(&graph, &partition).unwrap())));
    time("shrink_and_restore", &|| {
        drop(black_box(plan.restore(&plan.shrink(&hidden).unwrap()).unwrap()));
    });
    group.finish();
}

fn candle(criterion: &mut Criterion) {
    bench::<Candle>(criterion, &Device::Cpu);
}

criterion_group!(benches, candle);
criterion_main!(benches);
