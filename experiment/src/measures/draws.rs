//! Exponential draws, the same as NumPy's.
//!
//! `atedm_evaluation` draws its bootstrap weights with `numpy.random.default_rng(0).standard_exponential`. With the same draws,
//! the library and the Python package give the same intervals. The generator is PCG64 (O'Neill, PCG: A family of simple fast
//! space-efficient statistically good algorithms for random number generation, 2014). The transform is the ziggurat (Marsaglia
//! and Tsang, The ziggurat method for generating random variables, 2000).

use std::sync::LazyLock;

/// State and increment of NumPy's `PCG64(0)`.
const STATE: u128 = 35_399_562_948_360_463_058_890_781_895_381_311_971;
const INCREMENT: u128 = 87_136_372_517_582_989_555_478_159_403_783_844_777;
const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// Layers of the ziggurat.
const LAYERS: usize = 256;
/// Where the tail begins.
const TAIL: f64 = 7.697_117_470_131_05;
/// The area of a layer.
const AREA: f64 = 0.003_949_659_822_581_557;
/// A draw has 53 bits.
const UNIT: f64 = (1u64 << 53) as f64;

/// The layers: which draws are accepted at once, the width of a layer, and the density at its edge.
struct Ziggurat {
    accepted: [u64; LAYERS],
    width: [f64; LAYERS],
    density: [f64; LAYERS],
}

static ZIGGURAT: LazyLock<Ziggurat> = LazyLock::new(|| {
    let mut table = Ziggurat { accepted: [0; LAYERS], width: [0.0; LAYERS], density: [1.0; LAYERS] };
    let base = AREA / (-TAIL).exp();
    table.accepted[0] = (TAIL / base * UNIT) as u64;
    table.width[0] = base / UNIT;
    let mut edge = TAIL;
    for layer in (1..LAYERS).rev() {
        table.width[layer] = edge / UNIT;
        table.density[layer] = (-edge).exp();
        let next = -(AREA / edge + (-edge).exp()).ln();
        // the topmost layer has no inner part
        table.accepted[layer] = if layer == 1 { 0 } else { (next / edge * UNIT) as u64 };
        edge = next;
    }
    table
});

/// NumPy's `default_rng(0)`.
pub(super) struct Draws {
    state: u128,
}

impl Draws {
    /// The stream from its beginning.
    pub(super) fn new() -> Self {
        Self { state: STATE }
    }

    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// A uniform value in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / UNIT
    }

    /// A draw from Exp(1).
    pub(super) fn exponential(&mut self) -> f64 {
        let Ziggurat { accepted, width, density } = &*ZIGGURAT;
        loop {
            let bits = self.bits() >> 3;
            let layer = (bits & 0xFF) as usize;
            let bits = bits >> 8;
            let value = bits as f64 * width[layer];
            if bits < accepted[layer] {
                return value;
            }
            if layer == 0 {
                return TAIL - (-self.uniform()).ln_1p();
            }
            let height = (density[layer - 1] - density[layer]) * self.uniform() + density[layer];
            if height < (-value).exp() {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `default_rng(0).standard_exponential(100_000)`: the first six, and the sum. A wrong branch would shift the stream.
    #[test]
    fn draws_are_those_of_numpy() {
        let mut draws = Draws::new();
        let values: Vec<f64> = (0..100_000).map(|_| draws.exponential()).collect();
        for (value, expected) in values.iter().zip(FIRST) {
            assert!((value / expected - 1.0).abs() < 1e-12, "{value} {expected}");
        }
        let sum: f64 = values.iter().sum();
        assert!((sum / SUM - 1.0).abs() < 1e-12, "{sum} {SUM}");
    }

    const FIRST: [f64; 6] = [
        0.679_931_903_968_909_6,
        1.019_597_101_465_864_7,
        0.019_806_662_589_055_352,
        0.002_269_326_681_228_182_3,
        0.550_342_872_639_048_2,
        1.629_940_434_658_385_2,
    ];
    const SUM: f64 = 99_723.513_982_392_67;
}
