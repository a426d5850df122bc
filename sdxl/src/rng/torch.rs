//! `torch.manual_seed(seed)` and `torch.randn` on the CPU in f32.

use atedm_core::Result;

use super::NoiseSource;
use super::mt19937::Mt19937;
use super::normal::box_muller_16;

/// Torch's CPU generator, bit for bit as torch computes on x86 machines with AVX2.
///
/// Torch has two ways to make normals, and which one it takes depends on the tensor's size:
/// - below 16 values: Box–Muller in double precision from 53-bit uniforms; the sine's half waits in the generator
///   for the next such call;
/// - from 16 values: 24-bit uniforms fill the whole tensor first, then blocks of 16 are turned into normals in
///   place (value `j` with `j + 8`); when 16 does not divide the size, the *last* 16 are drawn afresh.
///
/// Torch without AVX2 (other processors, or `ATEN_CPU_CAPABILITY=default`) draws the same uniforms but takes the C
/// library's logarithm, sine and cosine: its normals differ from these in the last bits (by some 1e-7).
/// In half precision torch draws other uniforms altogether; this generator always gives the f32 values.
#[derive(Debug, Clone)]
pub struct TorchRng {
    engine: Mt19937,
    waiting: Option<f64>,
}

impl TorchRng {
    /// `torch.Generator().manual_seed(seed)`. Only the low 32 bits count, as in torch.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed), waiting: None }
    }

    /// `torch.randn(count)`: standard normals.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.scalar_normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        let (blocks, rest) = values.as_chunks_mut::<16>();
        blocks.iter_mut().for_each(box_muller_16);
        let whole = rest.is_empty();
        if let (false, Some(last)) = (whole, values.last_chunk_mut::<16>()) {
            last.fill_with(|| self.uniform());
            box_muller_16(last);
        }
        values
    }

    /// 24 bits in `[0, 1)`.
    fn uniform(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// 53 bits in `[0, 1)`.
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
}
