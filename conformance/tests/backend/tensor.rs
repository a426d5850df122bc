//! The reference's tensor in a wrapper that can do one operation wrongly.

use std::sync::{Arc, Mutex};

use atedm_conformance::host::Array;
use atedm_core::backend::generic;
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};
use atedm_core::{DType, Error, Indices, Partition, Result, Tensor};

use crate::faults::Fault;

/// The device of the tensors, and its fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct On(pub(crate) Option<Fault>);

impl On {
    pub(crate) fn does(self, fault: Fault) -> bool {
        self.0 == Some(fault)
    }
}

/// A tensor of the reference.
#[derive(Debug, Clone)]
pub(crate) struct Wrapped {
    // a cell, so that a fault can change it in place
    cell: Arc<Mutex<NdTensor>>,
    pub(crate) on: On,
}

/// Index lists of the reference.
#[derive(Debug, Clone)]
pub(crate) struct WrappedIndices {
    pub(crate) lists: NdIndices,
    on: On,
}

impl Wrapped {
    pub(crate) fn new(inner: NdTensor, on: On) -> Self {
        Self { cell: Arc::new(Mutex::new(inner)), on }
    }

    pub(crate) fn inner(&self) -> NdTensor {
        self.cell.lock().unwrap().clone()
    }

    pub(crate) fn made(&self, inner: Result<NdTensor>) -> Result<Self> {
        Ok(Self::new(inner?, self.on))
    }

    pub(crate) fn host(&self) -> Array {
        Array::read(&self.inner()).unwrap()
    }

    /// A tensor of this one's dtype.
    pub(crate) fn holding(&self, array: &Array) -> Result<Self> {
        self.made(array.upload(self.dtype(), &NdDevice))
    }

    pub(crate) fn lists(&self, lists: NdIndices) -> WrappedIndices {
        WrappedIndices { lists, on: self.on }
    }

    /// The other operand, changed to fit if the fault asks for that.
    fn operand(&self, other: &Self) -> Result<NdTensor> {
        let (mine, other) = (self.inner(), other.inner());
        let missing = mine.shape().len().saturating_sub(other.shape().len());
        match self.on.0 {
            Some(Fault::PromotesTheOther) => other.cast(mine.dtype()),
            Some(Fault::BroadcastsMissingAxes) => other.reshape(&[vec![1; missing], other.shape()].concat()),
            _ => Ok(other),
        }
    }

    /// Splits every row in the order of `order`, best first.
    fn split(
        &self,
        kept: usize,
        order: impl Fn(&[f64]) -> Vec<u32>,
        sorted: bool,
    ) -> Result<Partition<Self>> {
        let scores = self.host();
        let n = scores.shape[1];
        let row = |row: &[f64]| {
            let mut best = order(row);
            let mut rest = best.split_off(kept);
            rest.sort_unstable();
            if sorted {
                best.sort_unstable();
            }
            (best, rest)
        };
        let (kept, pruned): (Vec<_>, Vec<_>) = scores.data.chunks_exact(n).map(row).unzip();
        Ok(Partition {
            kept: WrappedIndices::from_host(&kept, &self.on)?,
            pruned: WrappedIndices::from_host(&pruned, &self.on)?,
        })
    }
}

fn best_first(row: &[f64], compare: impl Fn(usize, usize) -> std::cmp::Ordering) -> Vec<u32> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&i, &j| compare(i, j));
    order.into_iter().map(|i| i as u32).collect()
}

impl Indices for WrappedIndices {
    type Device = On;

    fn from_host(rows: &[Vec<u32>], on: &On) -> Result<Self> {
        Ok(Self { lists: NdIndices::from_host(rows, &NdDevice)?, on: *on })
    }

    fn to_host(&self) -> Result<Vec<Vec<u32>>> {
        self.lists.to_host()
    }

    fn device(&self) -> On {
        self.on
    }

    fn dims(&self) -> (usize, usize) {
        self.lists.dims()
    }

    fn gather(&self, at: &Self) -> Result<Self> {
        if !self.on.does(Fault::ComposesTheFirstList) {
            return generic::indices_gather(self, at);
        }
        let rows = self.to_host()?;
        let first = Self::from_host(&vec![rows[0].clone(); rows.len()], &self.on)?;
        generic::indices_gather(&first, at)
    }

    fn complement(&self, n: usize) -> Result<Self> {
        let rest: Self = generic::indices_complement(self, n)?;
        if !self.on.does(Fault::ComplementDescends) {
            return Ok(rest);
        }
        let mut rows = rest.to_host()?;
        rows.iter_mut().for_each(|row| row.reverse());
        Self::from_host(&rows, &self.on)
    }

    fn inverse(&self) -> Result<Self> {
        let inverse = generic::indices_inverse(self)?;
        Ok(if self.on.does(Fault::InverseDoesNothing) { self.clone() } else { inverse })
    }

    fn reshape(&self, batch: usize, count: usize) -> Result<Self> {
        let right: Self = generic::indices_reshape(self, batch, count)?;
        if !self.on.does(Fault::ReshapesListsByColumns) {
            return Ok(right);
        }
        let (rows, columns) = (self.to_host()?, self.dims().1);
        let flat: Vec<u32> = (0..columns).flat_map(|i| rows.iter().map(move |row| row[i])).collect();
        let rows: Vec<Vec<u32>> = flat.chunks(count.max(1)).map(<[u32]>::to_vec).collect();
        Self::from_host(&rows, &self.on)
    }
}

impl Tensor for Wrapped {
    type Device = On;
    type Indices = WrappedIndices;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], on: &On) -> Result<Self> {
        let size = shape.iter().product::<usize>() * stored.size_in_bytes();
        let bytes =
            if on.does(Fault::BytesAreNotCounted) { bytes.get(..size).unwrap_or(bytes) } else { bytes };
        Ok(Self::new(NdTensor::from_bytes(bytes, stored, shape, &NdDevice)?, *on))
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        self.inner().to_bytes()
    }

    fn full(value: f64, shape: &[usize], dtype: DType, on: &On) -> Result<Self> {
        Ok(Self::new(NdTensor::full(value, shape, dtype, &NdDevice)?, *on))
    }

    fn dtype(&self) -> DType {
        self.inner().dtype()
    }

    fn shape(&self) -> Vec<usize> {
        self.inner().shape()
    }

    fn device(&self) -> On {
        self.on
    }

    fn cast(&self, to: DType) -> Result<Self> {
        if self.on.does(Fault::CastDoesNothing) { Ok(self.clone()) } else { self.made(self.inner().cast(to)) }
    }

    fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if !self.on.does(Fault::ReshapesByColumns) {
            return self.made(self.inner().reshape(shape));
        }
        let reversed = |len: usize| -> Vec<usize> { (0..len).rev().collect() };
        let back: Vec<usize> = shape.iter().rev().copied().collect();
        let inner = self.inner().permute(&reversed(self.shape().len()))?.reshape(&back)?;
        self.made(inner.permute(&reversed(shape.len())))
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        let permuted = self.inner().permute(axes)?;
        if !self.on.does(Fault::PermuteInverts) {
            return self.made(Ok(permuted));
        }
        let mut inverse = vec![0; axes.len()];
        axes.iter().enumerate().for_each(|(place, &axis)| inverse[axis] = place);
        self.made(self.inner().permute(&inverse))
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let part = self.inner().narrow(axis, start, len);
        match self.on.0 {
            Some(Fault::NarrowStartsAtZero) => part.and(self.made(self.inner().narrow(axis, 0, len))),
            Some(Fault::NarrowPanics) => Ok(Self::new(part.unwrap(), self.on)),
            _ => self.made(part),
        }
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let mut inner: Vec<NdTensor> = parts.iter().map(|part| part.inner()).collect();
        let on = parts.first().map_or(On(None), |part| part.on);
        if on.does(Fault::ConcatSwapsParts) {
            inner.reverse();
        }
        Ok(Self::new(NdTensor::concat(&inner.iter().collect::<Vec<_>>(), axis)?, on))
    }

    fn add(&self, other: &Self) -> Result<Self> {
        let sum = self.inner().add(&self.operand(other)?)?;
        // the stream of the suite's block
        let is_stream = self.shape() == [2, 35, 16] && other.shape() == [2, 35, 16];
        let lost = is_stream && self.on.does(Fault::AddLosesTheResidual);
        if lost { Ok(other.clone()) } else { self.made(Ok(sum)) }
    }

    fn sub(&self, other: &Self) -> Result<Self> {
        self.made(self.inner().sub(&self.operand(other)?))
    }

    fn mul(&self, other: &Self) -> Result<Self> {
        self.made(self.inner().mul(&self.operand(other)?))
    }

    fn div(&self, other: &Self) -> Result<Self> {
        self.made(self.inner().div(&self.operand(other)?))
    }

    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        let result = self.inner().affine(scale, shift)?;
        if self.on.does(Fault::AffineInPlace) {
            *self.cell.lock().unwrap() = result.clone();
        }
        self.made(Ok(result))
    }

    fn exp(&self) -> Result<Self> {
        self.made(self.inner().exp())
    }

    fn ln(&self) -> Result<Self> {
        let x = self.inner();
        self.made(if self.on.does(Fault::LnIsClamped) { x.clamp_min(1e-30)?.ln() } else { x.ln() })
    }

    fn sqrt(&self) -> Result<Self> {
        self.made(self.inner().sqrt())
    }

    fn clamp_min(&self, least: f64) -> Result<Self> {
        if self.on.does(Fault::ClampDropsNan) {
            return self.holding(&self.host().map(|x| x.max(least)));
        }
        self.made(self.inner().clamp_min(least))
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        let (left, right) = (self.inner(), other.inner());
        let axes = left.shape().len();
        match self.on.0 {
            Some(Fault::MatmulBroadcasts) if axes == 3 && right.shape().first() == Some(&1) => {
                let repeated = vec![&right; left.shape()[0]];
                self.made(left.matmul(&NdTensor::concat(&repeated, 0)?))
            }
            Some(Fault::MatmulDropsTheLastTerm) if axes >= 2 && left.shape()[axes - 1] > 1 => {
                left.matmul(&right)?;
                let inner = left.shape()[axes - 1] - 1;
                self.made(left.narrow(axes - 1, 0, inner)?.matmul(&right.narrow(axes - 2, 0, inner)?))
            }
            _ => self.made(left.matmul(&right)),
        }
    }

    fn softmax(&self) -> Result<Self> {
        let x = self.inner();
        match self.on.0 {
            Some(Fault::SoftmaxOverflows) => {
                let raised = x.exp()?;
                self.made(raised.div(&raised.sum(x.shape().len() - 1)?))
            }
            Some(Fault::SoftmaxOfTheFirstAxis) => {
                let raised = x.exp()?;
                self.made(raised.div(&raised.sum(0)?))
            }
            _ => self.made(x.softmax()),
        }
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        let sum = self.inner().sum(axis)?;
        if !self.on.does(Fault::SumDropsTheAxis) {
            return self.made(Ok(sum));
        }
        let mut shape = sum.shape();
        shape.remove(axis);
        self.made(sum.reshape(&shape))
    }

    fn max(&self, axis: usize) -> Result<Self> {
        let max = self.inner().max(axis)?;
        self.made(if self.on.does(Fault::MaxStartsAtZero) { max.clamp_min(0.0) } else { Ok(max) })
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        let x = self.inner();
        if self.on.does(Fault::SplitTakesNone) && kept == 0 && x.shape().len() == 2 {
            return self.split(0, |row| best_first(row, |i, j| i.cmp(&j)), true);
        }
        if self.on.does(Fault::NanIsLowest) && x.shape().len() == 2 {
            return self.split(kept, |row| best_first(row, |i, j| row[j].total_cmp(&row[i])), true);
        }
        let Partition { kept: stay, pruned: go } = x.split_top_k(kept)?;
        let at_random = |i: usize| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
        let descending = |row: &[f64], i: usize, j: usize| row[j].partial_cmp(&row[i]).unwrap();
        match self.on.0 {
            Some(Fault::TieKeepsTheHigher) => {
                self.split(kept, |row| best_first(row, |i, j| descending(row, i, j).then(j.cmp(&i))), true)
            }
            Some(Fault::TieByChance) => {
                let by = |i: usize, j: usize| at_random(i).cmp(&at_random(j));
                self.split(kept, |row| best_first(row, |i, j| descending(row, i, j).then(by(i, j))), true)
            }
            Some(Fault::NegativeZeroIsLess) => {
                self.split(kept, |row| best_first(row, |i, j| row[j].total_cmp(&row[i])), true)
            }
            Some(Fault::KeptByScore) => {
                self.split(kept, |row| best_first(row, |i, j| descending(row, i, j)), false)
            }
            Some(Fault::InfinityIsAnError) if self.host().data.iter().any(|x| x.is_infinite()) => {
                Err(Error::NotFinite { what: "a score".into() })
            }
            Some(Fault::SplitOfTheFirstRow) => {
                let first = |lists: NdIndices| {
                    let rows = lists.to_host()?;
                    WrappedIndices::from_host(&vec![rows[0].clone(); rows.len()], &self.on)
                };
                Ok(Partition { kept: first(stay)?, pruned: first(go)? })
            }
            _ => Ok(Partition { kept: self.lists(stay), pruned: self.lists(go) }),
        }
    }

    fn argmax_rows(&self) -> Result<WrappedIndices> {
        let x = self.inner();
        match self.on.0 {
            Some(Fault::ArgmaxIgnoresNan) => {
                let quiet = self.host().map(|x| if x.is_nan() { f64::NEG_INFINITY } else { x });
                Ok(self.lists(self.holding(&quiet)?.inner().argmax_rows()?))
            }
            Some(Fault::ArgmaxTakesTheLast) => {
                let best = x.argmax_rows()?;
                let host = self.host();
                let last = |b: usize, column: usize, best: u32| {
                    let value = |row: usize| host.at(&[b, row, column]);
                    (0..host.shape[1]).rev().find(|&row| value(row) == value(best as usize)).unwrap() as u32
                };
                let rows = best.to_host()?.into_iter().enumerate();
                let rows: Vec<Vec<u32>> = rows
                    .map(|(b, row)| row.into_iter().enumerate().map(|(c, best)| last(b, c, best)).collect())
                    .collect();
                WrappedIndices::from_host(&rows, &self.on)
            }
            _ => Ok(self.lists(x.argmax_rows()?)),
        }
    }

    fn gather(&self, axis: usize, at: &WrappedIndices) -> Result<Self> {
        let x = self.inner();
        let most = x.shape().get(axis).map_or(0, |&len| len.saturating_sub(1)) as u32;
        let bent = |bend: &dyn Fn(u32) -> u32| {
            let mut rows = at.lists.to_host()?;
            rows.iter_mut().flatten().for_each(|entry| *entry = bend(*entry));
            NdIndices::from_host(&rows, &NdDevice)
        };
        let at = match self.on.0 {
            Some(Fault::GatherIsOffByOne) => bent(&|entry| if entry < most { entry + 1 } else { entry })?,
            Some(Fault::GatherClampsEntries) => bent(&|entry| entry.min(most))?,
            Some(Fault::GatherTakesTheFirstList) => {
                let rows = at.lists.to_host()?;
                NdIndices::from_host(&vec![rows[0].clone(); rows.len()], &NdDevice)?
            }
            _ => at.lists.clone(),
        };
        self.made(x.gather(axis, &at))
    }

    fn scatter_into(&self, base: &Self, at: &WrappedIndices) -> Result<Self> {
        let replaced = generic::scatter_into(self, base, at)?;
        if !self.on.does(Fault::ScatterAdds) {
            return Ok(replaced);
        }
        let zeros = base.affine(0.0, 0.0)?;
        base.add(&generic::scatter_into(self, &zeros, at)?)
    }

    fn segment_mean(&self, segments: &WrappedIndices, count: usize) -> Result<Self> {
        let means = generic::segment_mean(self, segments, count)?;
        if !self.on.does(Fault::SegmentMeanSums) {
            return Ok(means);
        }
        let rows = segments.to_host()?;
        let size = |b: usize, segment: usize| rows[b].iter().filter(|&&s| s as usize == segment).count();
        let means = means.host();
        self.holding(&Array::from_fn(&means.shape, |i| means.at(i) * size(i[0], i[1]) as f64))
    }
}
