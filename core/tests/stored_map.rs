//! Attention with a stored map gives the same output and the same graph as attention without one.

#![cfg(feature = "reference")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use atedm_core::backend::{Attended, AttentionOptions, GraphRequest, Partition};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{AttentionGraph, AttentionOps, DType, Indices, Tensor};

fn noise(seed: u64, shape: &[usize]) -> NdTensor {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 2.0 * draw()).collect();
    NdTensor::from_f32(&values, shape, DType::F64, &NdDevice).unwrap()
}

fn distance(a: &NdTensor, b: &NdTensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_stored_map_says_what_a_streamed_one_says() {
    let [q, k, v] = [1, 2, 3].map(|seed| noise(seed, &[2, 3, 9, 5]));
    let with = |graph| {
        let options = AttentionOptions { graph: &graph, ..AttentionOptions::for_dim(5) };
        let Attended { hidden: output, graph, .. } = NdTensor::attention(&q, &k, &v, options).unwrap();
        (output, graph.unwrap())
    };
    let (fused, streamed) = with(GraphRequest::Lazy);
    let (plain, stored) = with(GraphRequest::Stored);
    assert!(matches!(&stored, AttentionGraph::Dense(map) if map.dtype() == q.dtype()));
    assert!(distance(&plain, &fused) < 1e-6);
    assert!(distance(&stored.to_dense().unwrap(), &streamed.to_dense().unwrap()) < 1e-6);
    let scores = noise(4, &[2, 3, 9]);
    assert!(distance(&stored.votes(&scores).unwrap(), &streamed.votes(&scores).unwrap()) < 1e-6);
    assert!(distance(&stored.read(&scores).unwrap(), &streamed.read(&scores).unwrap()) < 1e-6);
    let partition = Partition::from_kept(&[vec![0, 3, 4], vec![1, 2, 8]], 9, &NdDevice).unwrap();
    assert_eq!(
        stored.strongest(&partition).unwrap().to_host().unwrap(),
        streamed.strongest(&partition).unwrap().to_host().unwrap()
    );
    let lazy: AttentionGraph<NdTensor> = GraphRequest::Stored.from_qk(&q, &k, 0.4).unwrap().unwrap();
    assert!(matches!(lazy, AttentionGraph::Dense(_)));
}
