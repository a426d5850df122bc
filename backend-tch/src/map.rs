//! The attention map, recomputed in libtorch's operations, and fused attention with its log-sum-exp.
//!
//! # One vote
//! With `A_ij = exp(q_i·k_j·scale − lse_i)`, a vote is `u_j = Σ_i A_ij s_i`. On the CPU, blocks of rows of the map
//! are computed and consumed, so nothing of size `m x n` is stored. The same holds for inputs that the GPU's kernel
//! does not support. On a GPU a vote is one call of fused attention with the roles swapped:
//! `ln u_j = logsumexp_i (k_j·q_i·scale + ln s_i − lse_i)`. The kernel takes its bias only in the tokens' dtype,
//! and bf16 biases are off by up to 27 %. The bias is therefore split into three pieces in the tokens' dtype, 24
//! bits in all. They are three more dimensions of the queries, against ones in the keys.

use tch::{Kind, Tensor as Raw};

use crate::error::TorchResult;

/// The number of map entries in memory at once. A block stays in the CPU's caches. A GPU needs larger blocks.
const CPU_BLOCK: usize = 1 << 21;
const GPU_BLOCK: usize = 1 << 26;

/// Whether libtorch has a fused kernel for these that returns the log-sum-exp. On a GPU it has none for f64, and it
/// needs rows of whole 16 bytes.
pub(crate) fn fused_takes(operands: &[&Raw]) -> bool {
    let whole = |x: &&Raw| {
        let size = x.f_kind().map_or(0, Kind::elt_size_in_bytes);
        (2..=4).contains(&size)
            && x.size().last().is_some_and(|&dim| (dim as usize * size).is_multiple_of(16))
    };
    operands.iter().all(|x| !x.device().is_cuda() || whole(x))
}

/// The result of fused attention.
pub(crate) struct Fused {
    /// The output, `[b, h, m, dim]`.
    pub(crate) output: Raw,
    /// The log-sum-exp, `[b, h, m]` in the accumulator dtype.
    pub(crate) lse: Raw,
    /// The first vote `[b, h, n]`, if the kernel cast it.
    pub(crate) first_vote: Option<Raw>,
}

/// libtorch's fused attention with its log-sum-exp.
pub(crate) fn fused(q: &Raw, k: &Raw, v: &Raw, scale: f64) -> TorchResult<Fused> {
    // the kernels need contiguous rows of `dim`; the other axes may have any strides
    let rows = |x: &Raw| if x.stride().last() == Some(&1) { Ok(x.shallow_clone()) } else { x.f_contiguous() };
    let (q, k, v) = (&rows(q)?, &rows(k)?, &rows(v)?);
    let bias: Option<&Raw> = None;
    if !q.device().is_cuda() {
        let (output, lse) =
            Raw::f_internal_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, false, bias, scale)?;
        return Ok(Fused { output, lse, first_vote: None });
    }
    let (output, lse, _, _) =
        Raw::f_internal_scaled_dot_product_efficient_attention(q, k, v, bias, true, 0.0, false, scale)?;
    // the kernel pads the rows of the log-sum-exp to a multiple of 32
    Ok(Fused { output, lse: lse.f_narrow(2, 0, q.size4()?.2)?, first_vote: None })
}

/// A map as its sources: queries `[b, h, m, dim]`, keys `[b, h, n, dim]` and log-sum-exp `[b, h, m]`.
pub(crate) struct Map<'a> {
    pub(crate) q: &'a Raw,
    pub(crate) k: &'a Raw,
    pub(crate) lse: &'a Raw,
    pub(crate) scale: f64,
}

impl Map<'_> {
    /// The shape `[b, h, m, n]`.
    pub(crate) fn dims(&self) -> TorchResult<[i64; 4]> {
        let (b, h, m, _) = self.q.size4()?;
        Ok([b, h, m, self.k.size4()?.2])
    }

    /// `x` `[b, h, rows, ..]` as matrices `[b · h, rows, ..]` in the accumulator dtype.
    fn stacked(&self, x: &Raw) -> TorchResult<Raw> {
        let size = x.size();
        let mut stacked = vec![size[0] * size[1]];
        stacked.extend_from_slice(&size[2..]);
        x.f_to_kind(self.lse.f_kind()?)?.f_reshape(stacked)
    }

    /// The number of rows in a block, for rows of `entries` entries.
    fn block(&self, entries: i64) -> i64 {
        let limit = if self.q.device().is_cuda() { GPU_BLOCK } else { CPU_BLOCK };
        (limit as i64 / entries.max(1)).max(1)
    }

    /// `Aᵀ s`, in blocks of rows of all heads.
    pub(crate) fn votes_by_blocks(&self, scores: &Raw) -> TorchResult<Raw> {
        let [b, h, m, n] = self.dims()?;
        let (q, keys) = (self.stacked(self.q)?, self.stacked(self.k)?.f_transpose(1, 2)?);
        let shifts = self.stacked(self.lse)?.f_neg()?.f_unsqueeze(2)?;
        let scores = self.stacked(scores)?.f_unsqueeze(1)?;
        let mut votes = Raw::f_zeros([b * h, 1, n], (self.lse.f_kind()?, self.lse.device()))?;
        let rows = self.block(b * h * n);
        for start in (0..m).step_by(rows as usize) {
            let len = rows.min(m - start);
            let (part, shift) = (q.f_narrow(1, start, len)?, shifts.f_narrow(1, start, len)?);
            let block = shift.f_baddbmm(&part, &keys, 1.0, self.scale)?.f_exp_()?;
            votes = votes.f_baddbmm(&scores.f_narrow(2, start, len)?, &block, 1.0, 1.0)?;
        }
        votes.f_reshape([b, h, n])
    }

    /// Whether a vote on these scores can be one call of fused attention. It needs a GPU, and all scores must have
    /// logarithms.
    pub(crate) fn swaps(&self, scores: &Raw) -> TorchResult<bool> {
        let fits = self.q.device().is_cuda() && fused_takes(&[self.q, self.k]) && self.scale > 0.0;
        Ok(fits && scores.f_min()?.f_double_value(&[])? >= 0.0)
    }

    /// `Aᵀ s` as the log-sum-exp of fused attention with the roles swapped. Scores must be at least 0, and the scale above 0.
    pub(crate) fn votes_by_swapped_roles(&self, scores: &Raw) -> TorchResult<Raw> {
        const MORE: i64 = 8;
        let kind = self.q.f_kind()?;
        let [b, h, m, n] = self.dims()?;
        let dim = self.q.size4()?.3;
        // a score of 0 has no logarithm; 1e-37 in its place is nothing beside the others
        let mut rest = scores.f_clamp_min(1e-37)?.f_log()?.f_sub(self.lse)?.f_mul_scalar(1.0 / self.scale)?;
        let zeros = |rows: i64, columns: i64| Raw::f_zeros([b, h, rows, columns], (kind, self.q.device()));
        let mut columns = vec![self.q.shallow_clone()];
        for _ in 0..3 {
            let piece = rest.f_to_kind(kind)?;
            rest = rest.f_sub(&piece.f_to_kind(self.lse.f_kind()?)?)?;
            columns.push(piece.f_unsqueeze(3)?);
        }
        columns.push(zeros(m, MORE - 3)?);
        let keys = Raw::f_cat(&columns, 3)?;
        let ones = Raw::f_ones([b, h, n, 3], (kind, self.q.device()))?;
        let queries = Raw::f_cat(&[self.k.shallow_clone(), ones, zeros(n, MORE - 3)?], 3)?;
        // the output is not used, so few values are best, but the CPU's kernel needs as many as there are keys
        let values =
            if keys.device().is_cuda() { keys.f_narrow(3, dim, MORE)? } else { keys.shallow_clone() };
        fused(&queries, &keys, &values, self.scale)?.lse.f_exp()
    }

    /// For each column the row with the largest head mean, in blocks of columns: `[b, n]`. `None` for a NaN.
    ///
    /// Rows are padded to whole tiles of any matrix product. Otherwise a product might compute the last rows of a
    /// matrix with another kernel. It would then round equal rows differently, and there would be no ties.
    pub(crate) fn strongest_rows(&self) -> TorchResult<Option<Raw>> {
        const TILE: i64 = 192;
        let [b, h, m, n] = self.dims()?;
        let padding = [0, 0, 0, (TILE - m % TILE) % TILE];
        let q = self.stacked(self.q)?.f_constant_pad_nd(padding)?;
        let shifts = self.stacked(self.lse)?.f_neg()?.f_unsqueeze(2)?.f_constant_pad_nd(padding)?;
        let keys = self.stacked(self.k)?.f_transpose(1, 2)?;
        let columns = self.block(b * h * m);
        let (mut at, mut highest) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(columns as usize) {
            let len = columns.min(n - start);
            let block = shifts.f_baddbmm(&q, &keys.f_narrow(2, start, len)?, 1.0, self.scale)?.f_exp_()?;
            let mean = block.f_narrow(1, 0, m)?.f_unflatten(0, [b, h])?.f_mean_dim(1, false, None)?;
            let (values, rows) = mean.f_max_dim(1, false)?;
            at.push(rows);
            highest.push(values);
        }
        let nan = Raw::f_cat(&highest, 1)?.f_isnan()?.f_any()?.f_int64_value(&[])? != 0;
        if nan { Ok(None) } else { Raw::f_cat(&at, 1).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Runs the GPU's computation on the CPU's kernel. It is exact, although the bias travels in the tokens' dtype.
    #[test]
    fn swapped_roles_give_the_votes_of_the_blocks() {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            for (m, n) in [(65, 65), (300, 77), (40, 1100)] {
                let of =
                    |rows| (Raw::randn([2, 3, rows, 64], (Kind::Float, Device::Cpu)) * 2.0).to_kind(kind);
                let (q, k) = (of(m), of(n));
                let lse = fused(&q, &k, &k, 0.125).unwrap().lse;
                let map = Map { q: &q, k: &k, lse: &lse, scale: 0.125 };
                let scores = Raw::rand([2, 3, m], (Kind::Float, Device::Cpu)) / m as f64;
                let _ = scores.narrow(2, 3, 2).zero_();
                let blocks = map.votes_by_blocks(&scores).unwrap();
                let swapped = map.votes_by_swapped_roles(&scores).unwrap();
                assert_eq!(swapped.size(), [2, 3, n]);
                let off = ((swapped - &blocks) / &blocks).abs().max().double_value(&[]);
                // one piece fewer is off by up to 4e-4; libtorch's own exponential in half dtypes is off by about 1e-5
                let allowed = if kind == Kind::Float { 2e-5 } else { 1e-4 };
                assert!(off < allowed, "{kind:?} {m} {n}: {off}");
            }
        }
    }

    #[test]
    fn rows_of_odd_bytes_are_not_for_the_gpu_kernel() {
        let of = |dim: i64, kind| Raw::zeros([1, 1, 2, dim], (kind, Device::Cpu));
        // on the CPU the kernel supports all of them
        assert!(fused_takes(&[&of(5, Kind::Half), &of(5, Kind::Double)]));
    }
}
