//! `torch.manual_seed(seed)` and `torch.randn(…, dtype=…)` on the CPU.

use atedm_core::{DType, Result};
use half::{bf16, f16};

use super::NoiseSource;
use super::mt19937::Mt19937;
use super::normal::{box_muller, box_muller_f64, box_muller_rounded, in_pairs_of_16};

/// Torch's CPU generator, bit for bit as torch computes on x86 machines with AVX2.
///
/// Torch has two ways to make normals. The size of the tensor decides:
/// - Below 16 values: Box–Muller in double precision from 53-bit uniforms, whatever the dtype. The sine's half stays in
///   the generator for the next such call.
/// - From 16 values: uniforms fill the whole tensor first. They have as many bits as the dtype's significand (24 in
///   f32, 11 in f16, 8 in bf16, 53 in f64). Then blocks of 16 become normals in place (value `j` with `j + 8`). If 16
///   does not divide the size, the *last* 16 values are drawn again.
///
/// Torch without AVX2 (other processors, or `ATEN_CPU_CAPABILITY=default`) draws the same uniforms, but uses the C
/// library's logarithm, sine and cosine. Its normals differ from these in the last bits (by about 1e-7). In half
/// precision, every step of Box–Muller is rounded, so the values do not depend on the processor. Values of f64 are
/// returned rounded to f32.
#[derive(Debug, Clone)]
pub struct TorchRng {
    engine: Mt19937,
    waiting: Option<f64>,
    dtype: DType,
}

impl TorchRng {
    /// `torch.Generator().manual_seed(seed)`, drawing in f32. As in torch, only the low 32 bits count.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed), waiting: None, dtype: DType::F32 }
    }

    /// The same generator, but drawing in `dtype`.
    #[must_use]
    pub fn drawing(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// `torch.randn(count)` in the generator's dtype: standard normals.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        self.randn_in(count, self.dtype)
    }

    /// `torch.randn(count, dtype=dtype)`.
    pub(crate) fn randn_in(&mut self, count: usize, dtype: DType) -> Vec<f32> {
        let in_f16 = |value: f32| f16::from_f32(value).to_f32();
        let in_bf16 = |value: f32| bf16::from_f32(value).to_f32();
        match dtype {
            DType::F16 if count < 16 => self.scalars(count, in_f16),
            DType::BF16 if count < 16 => self.scalars(count, in_bf16),
            _ if count < 16 => self.scalars(count, |value| value),
            DType::F16 => self.filled(count, Self::uniform::<11>, |a, b| box_muller_rounded(a, b, in_f16)),
            DType::BF16 => self.filled(count, Self::uniform::<8>, |a, b| box_muller_rounded(a, b, in_bf16)),
            DType::F64 => {
                let values = self.filled(count, Self::uniform_f64, box_muller_f64);
                values.into_iter().map(|value| value as f32).collect()
            }
            _ => self.filled(count, Self::uniform::<24>, box_muller),
        }
    }

    fn scalars(&mut self, count: usize, round: impl Fn(f32) -> f32) -> Vec<f32> {
        (0..count).map(|_| round(self.scalar_normal() as f32)).collect()
    }

    /// Makes at least 16 values: all uniforms first, then pairs of normals.
    fn filled<V: Copy>(
        &mut self,
        count: usize,
        uniform: impl Fn(&mut Self) -> V,
        pair: impl Fn(V, V) -> (V, V) + Copy,
    ) -> Vec<V> {
        let mut values: Vec<V> = (0..count).map(|_| uniform(self)).collect();
        let (blocks, rest) = values.as_chunks_mut::<16>();
        blocks.iter_mut().for_each(|block| in_pairs_of_16(block, pair));
        let whole = rest.is_empty();
        if let (false, Some(last)) = (whole, values.last_chunk_mut::<16>()) {
            last.fill_with(|| uniform(self));
            in_pairs_of_16(last, pair);
        }
        values
    }

    /// A uniform in `[0, 1)` from the low `BITS` bits of a draw.
    fn uniform<const BITS: u32>(&mut self) -> f32 {
        let count = 1u32 << BITS;
        (self.engine.next_u32() & (count - 1)) as f32 * (1.0 / count as f32)
    }

    /// A uniform in `[0, 1)` with 53 bits.
    fn uniform_f64(&mut self) -> f64 {
        const BITS: u64 = 1 << 53;
        (self.engine.next_u64() & (BITS - 1)) as f64 * (1.0 / BITS as f64)
    }

    fn scalar_normal(&mut self) -> f64 {
        if let Some(value) = self.waiting.take() {
            return value;
        }
        let u1 = self.uniform_f64();
        let u2 = self.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let angle = std::f64::consts::TAU * u1;
        self.waiting = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

impl NoiseSource for TorchRng {
    fn standard_normal(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.randn(shape.iter().product()))
    }

    fn standard_normal_in(&mut self, shape: &[usize], dtype: DType) -> Result<Vec<f32>> {
        Ok(self.randn_in(shape.iter().product(), dtype))
    }
}
