//! Neural-network operations and attention in the wrapper.

use atedm_conformance::host::Array;
use atedm_core::backend::{
    Attended, AttentionOptions, Conv2dOptions, Donors, GraphRequest, Streamed, dims, generic,
};
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};
use atedm_core::{AttentionGraph, AttentionOps, Error, Indices, NnOps, Partition, Result, Tensor};

use crate::faults::Fault;
use crate::tensor::{Wrapped, WrappedIndices};

/// `x` minus its mean over `axis`, and the root of its variance.
fn centred(x: &NdTensor, axis: usize) -> Result<(NdTensor, NdTensor)> {
    let centred = x.sub(&x.mean(axis)?)?;
    let deviation = centred.mul(&centred)?.mean(axis)?.sqrt()?;
    Ok((centred, deviation))
}

/// A vector of channels, shaped for a product along `axis` of `axes`.
fn along(vector: &NdTensor, axis: usize, axes: usize) -> Result<NdTensor> {
    let mut shape = vec![1; axes];
    shape[axis] = vector.shape()[0];
    vector.reshape(&shape)
}

/// A group norm whose groups are interleaved channels, not runs of channels.
fn interleaved(
    x: &NdTensor,
    groups: usize,
    [weight, bias]: [&NdTensor; 2],
    epsilon: f64,
) -> Result<NdTensor> {
    let shape = x.shape();
    let (batch, channels) = (shape[0], shape[1]);
    let order: Vec<u32> =
        (0..groups).flat_map(|group| (group..channels).step_by(groups)).map(|c| c as u32).collect();
    let order = NdIndices::from_host(&vec![order; batch], &NdDevice)?;
    let [ones, zeros] = [1.0, 0.0].map(|value| NdTensor::full(value, &[channels], x.dtype(), &NdDevice));
    let normed = x.gather(1, &order)?.group_norm(groups, &ones?, &zeros?, epsilon)?;
    let back = normed.gather(1, &order.inverse()?)?;
    back.mul(&along(weight, 1, shape.len())?)?.add(&along(bias, 1, shape.len())?)
}

fn gelu_by_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

impl NnOps for Wrapped {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        let (x, mut kernel) = (self.inner(), weight.inner());
        let (mut bias, mut options) = (bias.map(Self::inner), options);
        match self.on.0 {
            Some(Fault::ConvDropsBias) => bias = None,
            Some(Fault::ConvPadsAlike) => options.pad_after = options.pad_before,
            Some(Fault::ConvFlipsTheKernel) => {
                let host = weight.host();
                let [height, width] = [host.shape[2] - 1, host.shape[3] - 1];
                let flipped = |i: &[usize]| host.at(&[i[0], i[1], height - i[2], width - i[3]]);
                kernel = weight.holding(&Array::from_fn(&host.shape, flipped))?.inner();
            }
            _ => {}
        }
        self.made(x.conv2d(&kernel, bias.as_ref(), options))
    }

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        let resized = self.inner().upsample_nearest(height, width)?;
        if !self.on.does(Fault::UpsampleFromTheCentre) {
            return self.made(Ok(resized));
        }
        let host = self.host();
        let [from_height, from_width] = [host.shape[2], host.shape[3]];
        let centre = |i: usize, from: usize, to: usize| (2 * i + 1) * from / (2 * to);
        self.holding(&Array::from_fn(&resized.shape(), |i| {
            host.at(&[i[0], i[1], centre(i[2], from_height, height), centre(i[3], from_width, width)])
        }))
    }

    fn embedding(&self, ids: &WrappedIndices) -> Result<Self> {
        let table = self.inner();
        let mut rows = ids.to_host()?;
        if self.on.does(Fault::EmbeddingClampsIds) {
            let most = table.shape()[0] as u32 - 1;
            rows.iter_mut().flatten().for_each(|id| *id = most.min(*id));
        }
        self.made(table.embedding(&NdIndices::from_host(&rows, &NdDevice)?))
    }

    fn gelu(&self) -> Result<Self> {
        if self.on.does(Fault::GeluByTanh) {
            return self.holding(&self.host().map(gelu_by_tanh));
        }
        self.made(self.inner().gelu())
    }

    fn silu(&self) -> Result<Self> {
        self.made(self.inner().silu())
    }

    fn quick_gelu(&self) -> Result<Self> {
        if self.on.does(Fault::QuickGeluIsCoarse) {
            return self.affine(1.7, 0.0)?.silu()?.affine(1.0 / 1.7, 0.0);
        }
        generic::quick_gelu(self)
    }

    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let (x, scale, shift) = (self.inner(), weight.inner(), bias.inner());
        let normed = x.layer_norm(&scale, &shift, epsilon)?;
        let axes = x.shape().len();
        let (centred, deviation) = centred(&x, axes - 1)?;
        let divisor = match self.on.0 {
            Some(Fault::LayerNormIsUnbiased) => {
                let n = x.shape()[axes - 1] as f64;
                deviation.affine((n / (n - 1.0)).sqrt(), 0.0)?
            }
            Some(Fault::LayerNormAddsEpsilonOutside) => deviation.affine(1.0, epsilon)?,
            _ => return self.made(Ok(normed)),
        };
        let normed = centred.div(&divisor)?.mul(&along(&scale, axes - 1, axes)?)?;
        self.made(normed.add(&along(&shift, axes - 1, axes)?))
    }

    fn group_norm(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let (x, scale, shift) = (self.inner(), weight.inner(), bias.inner());
        match self.on.0 {
            Some(Fault::GroupNormInterleaves) => {
                self.made(interleaved(&x, groups, [&scale, &shift], epsilon))
            }
            Some(Fault::GroupNormFixesEpsilon) => self.made(x.group_norm(groups, &scale, &shift, 1e-5)),
            _ => self.made(x.group_norm(groups, &scale, &shift, epsilon)),
        }
    }

    fn geglu(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let right = generic::geglu(self, weight, bias)?;
        if !self.on.does(Fault::GegluSwapsHalves) {
            return Ok(right);
        }
        let both = self.linear(weight, bias)?;
        let (axis, half) = (both.shape().len() - 1, right.shape()[right.shape().len() - 1]);
        both.narrow(axis, half, half)?.mul(&both.narrow(axis, 0, half)?.gelu()?)
    }
}

impl AttentionOps for Wrapped {
    fn attention(
        q: &Self,
        k: &Self,
        v: &Self,
        options: AttentionOptions<'_, Self>,
    ) -> Result<Attended<Self>> {
        let AttentionOptions { mut scale, mut bias, mut graph } = options;
        let even;
        match q.on.0 {
            Some(Fault::AttentionDropsScale) => {
                let [_, _, _, dim] = dims(q, "attention")?;
                scale = 1.0 / (dim as f64).sqrt();
            }
            Some(Fault::AttentionDropsKeyBias) => bias = bias.filter(|bias| bias.shape()[..3] != [1, 1, 1]),
            Some(Fault::AttentionAlwaysGivesAGraph) => {
                if matches!(graph, GraphRequest::None) {
                    graph = &GraphRequest::Lazy;
                }
            }
            Some(Fault::AttentionVotesEarly) => {
                if let GraphRequest::FirstVote(scores) = graph {
                    even = GraphRequest::FirstVote(scores.affine(0.0, 1.0)?);
                    graph = &even;
                }
            }
            _ => {}
        }
        let mut attended = generic::attention(q, k, v, AttentionOptions { scale, bias, graph })?;
        if let (true, Some(AttentionGraph::Streamed(streamed))) =
            (q.on.does(Fault::LseIsOff), &mut attended.graph)
        {
            streamed.lse = streamed.lse.affine(1.0, 1e-3)?;
        }
        Ok(attended)
    }

    fn votes(graph: &Streamed<Self>, scores: &Self) -> Result<Self> {
        let [_, _, m, _] = dims(&graph.q, "votes")?;
        match graph.q.on.0 {
            Some(Fault::VotesIgnoreScores) => generic::votes(graph, &scores.affine(0.0, 1.0 / m as f64)?),
            Some(Fault::VotesOfOneBlock) if m > 512 => {
                let part = |x: &Self| x.narrow(2, 0, 512);
                let first = Streamed { q: part(&graph.q)?, lse: part(&graph.lse)?, ..graph.clone() };
                generic::votes(&first, &part(scores)?)
            }
            _ => generic::votes(graph, scores),
        }
    }

    fn strongest(graph: &Streamed<Self>, partition: &Partition<Self>) -> Result<WrappedIndices> {
        match graph.q.on.0 {
            Some(Fault::StrongestOfTheColumn) => {
                let swapped = Streamed { q: graph.k.clone(), k: graph.q.clone(), ..graph.clone() };
                generic::strongest(&swapped, partition)
            }
            Some(Fault::StrongestTakesTheLast) => {
                let mut kept = partition.kept.to_host()?;
                kept.iter_mut().for_each(|row| row.reverse());
                let most = partition.kept.dims().1 as u32 - 1;
                let kept = WrappedIndices::from_host(&kept, &partition.kept.device())?;
                let turned = Partition { kept, pruned: partition.pruned.clone() };
                let mut places = generic::strongest(graph, &turned)?.to_host()?;
                places.iter_mut().flatten().for_each(|place| *place = most - *place);
                WrappedIndices::from_host(&places, &partition.kept.device())
            }
            _ => generic::strongest(graph, partition),
        }
    }

    fn block(graph: &Streamed<Self>, rows: &WrappedIndices, columns: &WrappedIndices) -> Result<Self> {
        match graph.q.on.0 {
            Some(Fault::BlockByRow) => generic::block(graph, rows, columns)?.permute(&[0, 2, 1]),
            Some(Fault::BlockOfTheFirstHead) => {
                let first = |x: &Self| x.narrow(1, 0, 1);
                let (q, k, lse) = (first(&graph.q)?, first(&graph.k)?, first(&graph.lse)?);
                generic::block(&Streamed { q, k, lse, scale: graph.scale }, rows, columns)
            }
            _ => generic::block(graph, rows, columns),
        }
    }

    fn top_k(graph: &Streamed<Self>, partition: &Partition<Self>, k: usize) -> Result<Donors<Self>> {
        let right = generic::top_k(graph, partition, k);
        let on = graph.q.on;
        let (batch, pruned) = partition.pruned.dims();
        let bent = |donors: &Donors<Self>, bend: &dyn Fn(&mut [u32])| {
            let mut rows = donors.kept.to_host()?;
            rows.iter_mut().for_each(|row| row.chunks_mut(k).for_each(bend));
            WrappedIndices::from_host(&rows, &on)
        };
        match on.0 {
            Some(Fault::TopKDescends) => {
                let right = right?;
                Ok(Donors { kept: bent(&right, &|list| list.reverse())?, ..right })
            }
            Some(Fault::TopKForgetsAttention) => {
                let right = right?;
                Ok(Donors { attention: right.attention.affine(0.0, 1.0 / k as f64)?, ..right })
            }
            Some(Fault::TopKIgnoresNan) => match right {
                Err(Error::NotFinite { .. }) => {
                    let rows = vec![(0..k as u32).collect::<Vec<_>>().repeat(pruned); batch];
                    let attention = Self::full(0.0, &[batch, pruned, k], graph.lse.dtype(), &on)?;
                    Ok(Donors { kept: WrappedIndices::from_host(&rows, &on)?, attention })
                }
                right => right,
            },
            // what follows the first 512 columns is taken from them
            Some(Fault::TopKOfOneBlock) if pruned > 512 => {
                let right = right?;
                let first = right.attention.narrow(1, 0, 512)?;
                let rest = right.attention.narrow(1, 0, pruned - 512)?;
                Ok(Donors { attention: Self::concat(&[&first, &rest], 1)?, ..right })
            }
            Some(Fault::TopKTakesTheLast) => {
                let mut kept = partition.kept.to_host()?;
                kept.iter_mut().for_each(|row| row.reverse());
                let most = partition.kept.dims().1 as u32 - 1;
                let turned = Partition {
                    kept: WrappedIndices::from_host(&kept, &on)?,
                    pruned: partition.pruned.clone(),
                };
                let turned = generic::top_k(graph, &turned, k)?;
                let kept = bent(&turned, &|list| {
                    list.iter_mut().for_each(|place| *place = most - *place);
                    list.reverse();
                })?;
                Ok(Donors { kept, ..turned })
            }
            _ => right,
        }
    }
}
