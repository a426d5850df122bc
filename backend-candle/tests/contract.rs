//! The contract of the three trait levels on Candle: conventions, errors instead of panics, conversions, weights. The
//! tests also compare Candle with the reference backend.

#![allow(clippy::unwrap_used)] // helpers belong to the tests, too

use std::collections::HashMap;

use atedm_candle::{CandleIndices, CandleTensor, Device, VarBuilderSource};
use atedm_core::backend::Conv2dOptions;
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{
    AttentionGraph, AttentionOps, DType, Error, Indices, NnOps, Partition, Tensor, WeightSource, Weights,
};
use candle_core::Tensor as Raw;
use candle_nn::VarBuilder;

type T = CandleTensor;

fn tensor(values: &[f32], shape: &[usize]) -> T {
    T::from_f32(values, shape, DType::F32, &Device::Cpu).unwrap()
}

fn zeros(shape: &[usize]) -> T {
    T::full(0.0, shape, DType::F32, &Device::Cpu).unwrap()
}

fn ramp(shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product::<usize>()).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
}

#[track_caller]
fn assert_shape_error<R: std::fmt::Debug>(result: Result<R, Error>) {
    assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
}

#[test]
fn candle_tensors_convert_both_ways() {
    let raw = Raw::arange(0f32, 6f32, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
    let ours: T = raw.clone().into();
    assert_eq!(ours.as_ref().id(), raw.id());
    let back: Raw = ours.into();
    assert_eq!(back.id(), raw.id());
    let borrowed = T::from(&raw);
    assert_eq!(Raw::from(&borrowed).id(), raw.id());
}

#[test]
fn other_dtypes_are_refused() {
    let ids = Raw::new(&[[3u32, 1], [0, 2]], &Device::Cpu).unwrap();
    let ours: T = ids.clone().into();
    assert!(matches!(ours.add(&ours), Err(Error::DType { .. })));
    assert!(matches!(ours.to_bytes(), Err(Error::DType { .. })));
    assert!(matches!(ours.silu(), Err(Error::DType { .. })));
    let indices = CandleIndices::try_from(ids).unwrap();
    assert_eq!(indices.to_host().unwrap(), vec![vec![3, 1], vec![0, 2]]);
    let floats = Raw::new(&[[3f32, 1.0]], &Device::Cpu).unwrap();
    assert!(matches!(CandleIndices::try_from(floats), Err(Error::DType { .. })));
    let flat = Raw::new(&[3u32, 1], &Device::Cpu).unwrap();
    assert_shape_error(CandleIndices::try_from(flat));
}

#[test]
fn bytes_survive_in_every_dtype() {
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let x = tensor(&[1.5, -2.0, 0.25, 3.0], &[2, 2]).cast(dtype).unwrap();
        let bytes = x.to_bytes().unwrap();
        assert_eq!(bytes.len(), 4 * dtype.size_in_bytes());
        let back = T::from_bytes(&bytes, dtype, &[2, 2], &Device::Cpu).unwrap();
        assert_eq!(back.to_bytes().unwrap(), bytes);
        assert_eq!(back.to_f32().unwrap(), [1.5, -2.0, 0.25, 3.0]);
        assert_shape_error(T::from_bytes(&bytes, dtype, &[2, 3], &Device::Cpu));
        assert_shape_error(T::from_bytes(&bytes, dtype, &[usize::MAX, 2], &Device::Cpu));
        assert_eq!(T::full(0.5, &[3], dtype, &Device::Cpu).unwrap().to_f32().unwrap(), [0.5; 3]);
    }
}

#[test]
fn only_length_1_axes_broadcast_and_no_dtype_is_promoted() {
    let x = zeros(&[2, 3]);
    assert_eq!(x.add(&zeros(&[1, 3])).unwrap().shape(), [2, 3]);
    assert_eq!(zeros(&[2, 1]).mul(&zeros(&[1, 3])).unwrap().shape(), [2, 3]);
    assert_shape_error(x.add(&zeros(&[3])));
    assert_shape_error(x.add(&zeros(&[2, 2])));
    let half = x.cast(DType::F16).unwrap();
    assert!(matches!(x.add(&half), Err(Error::DType { .. })));
    assert!(matches!(x.matmul(&half.permute(&[1, 0]).unwrap()), Err(Error::DType { .. })));
    assert!(matches!(T::concat(&[&x, &half], 0), Err(Error::DType { .. })));
    let weight = half.clone();
    assert!(matches!(x.linear(&weight, None), Err(Error::DType { .. })));
}

#[test]
fn wrong_shapes_are_errors() {
    let x = zeros(&[2, 3, 4]);
    assert_shape_error(x.reshape(&[5]));
    assert_shape_error(x.reshape(&[usize::MAX, 2]));
    assert_shape_error(x.permute(&[0, 1]));
    assert_shape_error(x.permute(&[0, 1, 1]));
    assert_shape_error(x.permute(&[0, 1, 3]));
    assert_shape_error(x.narrow(3, 0, 1));
    assert_shape_error(x.narrow(1, 2, 2));
    assert_shape_error(x.narrow(1, usize::MAX, 2));
    assert_shape_error(x.sum(3));
    assert_shape_error(x.max(3));
    assert_shape_error(x.mean(3));
    assert_shape_error(x.matmul(&x));
    assert_shape_error(zeros(&[3]).matmul(&zeros(&[3])));
    assert_shape_error(T::concat(&[], 0));
    assert_shape_error(T::concat(&[&x, &zeros(&[2, 3, 5])], 1));
    assert_shape_error(T::concat(&[&x], 3));
    assert_shape_error(zeros(&[]).softmax());
    assert_shape_error(x.split_top_k(1));
    assert_shape_error(zeros(&[1, 3]).split_top_k(0));
    assert_shape_error(zeros(&[1, 3]).split_top_k(4));
    let at = CandleIndices::from_host(&[vec![0, 3], vec![1, 2]], &Device::Cpu).unwrap();
    assert_shape_error(x.gather(1, &at));
    assert_shape_error(x.gather(0, &at));
    assert_shape_error(zeros(&[1, 5, 4]).gather(1, &at));
    assert_shape_error(x.scatter_into(&x, &at));
    assert_shape_error(x.linear(&zeros(&[2, 5]), None));
    assert_shape_error(x.embedding(&at));
    assert_shape_error(x.group_norm(2, &zeros(&[3]), &zeros(&[3]), 1e-5));
    assert_shape_error(x.group_norm(0, &zeros(&[3]), &zeros(&[3]), 1e-5));
    assert_shape_error(x.layer_norm(&zeros(&[3]), &zeros(&[3]), 1e-5));
    assert_shape_error(CandleIndices::from_host(&[vec![0], vec![1, 2]], &Device::Cpu));
    let image = zeros(&[1, 3, 4, 4]);
    let same = Conv2dOptions::same(3);
    assert_shape_error(image.conv2d(&zeros(&[2, 4, 3, 3]), None, same));
    assert_shape_error(image.conv2d(&zeros(&[2, 3, 3, 3]), Some(&zeros(&[3])), same));
    assert_shape_error(image.conv2d(&zeros(&[2, 3, 7, 7]), None, Conv2dOptions::strided(1, 1)));
    assert!(image.conv2d(&zeros(&[2, 3, 3, 3]), None, Conv2dOptions::strided(0, 1)).is_err());
    assert_shape_error(x.conv2d(&zeros(&[2, 3, 3, 3]), None, same));
    assert_shape_error(image.upsample_nearest(0, 4));
    assert_shape_error(x.upsample_nearest(4, 4));
}

#[test]
fn empty_axes_do_no_harm() {
    let none = zeros(&[2, 0, 4]);
    assert_eq!(none.add(&none).unwrap().shape(), [2, 0, 4]);
    assert_eq!(none.sum(1).unwrap().to_f32().unwrap(), [0.0; 8]);
    assert_shape_error(none.max(1));
    assert_eq!(none.softmax().unwrap().shape(), [2, 0, 4]);
    assert_eq!(none.silu().unwrap().shape(), [2, 0, 4]);
    assert_eq!(none.matmul(&zeros(&[2, 4, 3])).unwrap().shape(), [2, 0, 3]);
    let inner = zeros(&[2, 3, 0]).matmul(&zeros(&[2, 0, 2])).unwrap();
    assert_eq!(inner.to_f32().unwrap(), [0.0; 12]);
    let at = CandleIndices::from_host(&[vec![], vec![]], &Device::Cpu).unwrap();
    assert_eq!(at.dims(), (2, 0));
    let x = zeros(&[2, 3, 4]);
    assert_eq!(x.gather(1, &at).unwrap().shape(), [2, 0, 4]);
    assert_eq!(at.complement(2).unwrap().to_host().unwrap(), vec![vec![0, 1]; 2]);
    assert_eq!(T::concat(&[&none, &x], 1).unwrap().shape(), [2, 3, 4]);
    let all = zeros(&[1, 3]).split_top_k(3).unwrap();
    assert_eq!((all.kept.dims(), all.pruned.dims()), ((1, 3), (1, 0)));
}

#[test]
fn the_lower_index_wins_ties() {
    let scores = tensor(&[0.0, 1.0, -0.0, 1.0, 0.0, 0.5], &[1, 6]);
    let Partition { kept, pruned } = scores.split_top_k(4).unwrap();
    assert_eq!(kept.to_host().unwrap(), [[0, 1, 3, 5]]);
    assert_eq!(pruned.to_host().unwrap(), [[2, 4]]);
    let equal = T::full(-3.0, &[2, 500], DType::F16, &Device::Cpu).unwrap();
    let kept = equal.split_top_k(123).unwrap().kept.to_host().unwrap();
    assert_eq!(kept, vec![(0..123).collect::<Vec<u32>>(); 2]);
    let map = tensor(&[-0.0, 1.0, 0.0, 2.0, 0.0, 2.0], &[1, 3, 2]);
    assert_eq!(map.argmax_rows().unwrap().to_host().unwrap(), [[0, 1]]);
}

#[test]
fn a_nan_score_is_an_error() {
    let scores = tensor(&[0.0, f32::NAN, 1.0], &[1, 3]);
    assert!(matches!(scores.split_top_k(1), Err(Error::NotFinite { .. })));
    assert!(matches!(scores.split_top_k(3), Err(Error::NotFinite { .. })));
    let map = scores.reshape(&[1, 3, 1]).unwrap();
    assert!(matches!(map.argmax_rows(), Err(Error::NotFinite { .. })));
    let infinite = tensor(&[f32::NEG_INFINITY, f32::INFINITY, 1.0], &[1, 3]);
    assert_eq!(infinite.split_top_k(2).unwrap().kept.to_host().unwrap(), [[1, 2]]);
    let clamped = scores.clamp_min(0.5).unwrap().to_f32().unwrap();
    assert!(clamped[0] == 0.5 && clamped[1].is_nan() && clamped[2] == 1.0);
}

#[test]
fn tokens_move_as_on_the_reference_backend() {
    let shape = [2, 7, 5];
    let values = ramp(&shape);
    let ours = tensor(&values, &shape);
    let theirs = NdTensor::from_f32(&values, &shape, DType::F32, &NdDevice).unwrap();
    let rows = [vec![6, 0, 3], vec![1, 2, 4]];
    let at = CandleIndices::from_host(&rows, &Device::Cpu).unwrap();
    let nd_at = <NdTensor as Tensor>::Indices::from_host(&rows, &NdDevice).unwrap();
    let (picked, nd_picked) = (ours.gather(1, &at).unwrap(), theirs.gather(1, &nd_at).unwrap());
    assert_eq!(picked.to_f32().unwrap(), nd_picked.to_f32().unwrap());
    let scattered = picked.affine(2.0, 0.0).unwrap().scatter_into(&ours, &at).unwrap();
    let nd_scattered = nd_picked.affine(2.0, 0.0).unwrap().scatter_into(&theirs, &nd_at).unwrap();
    assert_eq!(scattered.to_f32().unwrap(), nd_scattered.to_f32().unwrap());
    let last = CandleIndices::from_host(&[vec![4, 0], vec![1, 1]], &Device::Cpu).unwrap();
    let nd_last = <NdTensor as Tensor>::Indices::from_host(&[vec![4, 0], vec![1, 1]], &NdDevice).unwrap();
    let (picked, nd_picked) = (ours.gather(2, &last).unwrap(), theirs.gather(2, &nd_last).unwrap());
    assert_eq!(picked.to_f32().unwrap(), nd_picked.to_f32().unwrap());
    let composed = at.gather(&CandleIndices::from_host(&[vec![2], vec![0]], &Device::Cpu).unwrap()).unwrap();
    assert_eq!(composed.to_host().unwrap(), [[3], [1]]);
    let joined = CandleIndices::concat(&[&at, &composed]).unwrap();
    assert_eq!(joined.to_host().unwrap(), [[6, 0, 3, 3], [1, 2, 4, 1]]);
    let order = CandleIndices::from_host(&[vec![2, 0, 1]], &Device::Cpu).unwrap();
    assert_eq!(order.inverse().unwrap().to_host().unwrap(), [[1, 2, 0]]);
}

/// A whole attention step in f64 on any backend: output, votes, entropy and the sources of copies.
fn attention_step<X: AttentionOps>(device: &X::Device) -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<Vec<u32>>) {
    let make = |seed: f64, shape: &[usize]| {
        let x = X::from_f32(&ramp(shape), shape, DType::F64, device).unwrap();
        x.affine(1.7 + seed, seed).unwrap()
    };
    let (q, k, v) = (make(0.1, &[2, 3, 11, 4]), make(0.4, &[2, 3, 11, 4]), make(0.2, &[2, 3, 11, 4]));
    let options = atedm_core::backend::AttentionOptions {
        graph: &atedm_core::backend::GraphRequest::Lazy,
        ..atedm_core::backend::AttentionOptions::for_dim(4)
    };
    let atedm_core::backend::Attended { hidden: out, graph, .. } = X::attention(&q, &k, &v, options).unwrap();
    let graph: AttentionGraph<X> = graph.unwrap();
    let votes = graph.votes(&make(2.0, &[2, 3, 11])).unwrap();
    let partition = Partition::<X>::from_kept(&[vec![0, 4, 9], vec![1, 2, 10]], 11, device).unwrap();
    let sources = graph.strongest(&partition).unwrap().to_host().unwrap();
    let entropy = graph.row_entropy().unwrap();
    (out.to_f32().unwrap(), votes.to_f32().unwrap(), entropy.to_f32().unwrap(), sources)
}

#[test]
fn attention_agrees_with_the_reference_backend() {
    let ours = attention_step::<T>(&Device::Cpu);
    let theirs = attention_step::<NdTensor>(&NdDevice);
    for (ours, theirs) in [(&ours.0, &theirs.0), (&ours.1, &theirs.1), (&ours.2, &theirs.2)] {
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0), "{ours} {theirs}");
        }
    }
    assert_eq!(ours.3, theirs.3);
}

#[test]
fn weights_come_from_a_var_builder() {
    let stored = HashMap::from([
        (
            "unet.conv.weight".to_string(),
            Raw::arange(0f32, 6f32, &Device::Cpu).unwrap().reshape((2, 3)).unwrap(),
        ),
        ("unet.conv.bias".to_string(), Raw::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap()),
    ]);
    let builder = VarBuilder::from_tensors(stored, candle_core::DType::F16, &Device::Cpu);
    let weights = Weights::new(VarBuilderSource::new(builder.pp("unet")).named("tiny"));
    let conv = weights.scope("conv");
    let weight: T = conv.tensor("weight", &[2, 3]).unwrap();
    assert_eq!((weight.dtype(), weight.to_f32().unwrap()), (DType::F16, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert!(conv.contains("bias") && !conv.contains("scale"));
    assert!(conv.optional("scale", &[2]).unwrap().is_none());
    for (name, shape) in [("scale", vec![2]), ("weight", vec![3, 2])] {
        let error = conv.tensor(name, &shape).unwrap_err();
        assert!(matches!(&error, Error::Weights { tensor, .. } if *tensor == format!("conv.{name}")));
        assert!(!error.to_string().contains('\n') && error.to_string().starts_with("tiny: "), "{error}");
    }
}

#[test]
fn a_var_map_gains_no_tensor_by_being_read() {
    let variables = candle_nn::VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, candle_core::DType::F32, &Device::Cpu);
    let source = VarBuilderSource::new(builder);
    assert!(matches!(source.tensor("missing", &[2]), Err(Error::Weights { .. })));
    assert!(variables.all_vars().is_empty());
}
