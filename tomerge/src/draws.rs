//! The source of random destinations and noise.

use atedm_core::plugin::{Row, Site};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_mt::Mt;
use serde::{Deserialize, Serialize};

use crate::grid::Cells;

/// The generator that draws. The names are those of the program's `--rng`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Generator {
    /// Torch's CPU generator. A method's own program draws the same numbers if it calls `torch.manual_seed(seed)`
    /// just before its first draw. One stream serves the whole run, so a draw depends on all earlier draws.
    #[default]
    Torch,
    /// ChaCha8, with seed, evaluation, block and layer as its key. A draw depends on nothing else.
    ChaCha,
}

/// The draws of one run.
#[derive(Debug, Clone)]
pub(crate) enum Draws {
    Torch(Box<Torch>),
    ChaCha(u64),
}

/// Torch's generator, with the second normal number of a pair while it waits.
#[derive(Debug, Clone)]
pub(crate) struct Torch {
    words: Mt,
    waiting: Option<f64>,
}

impl Draws {
    pub(crate) fn new(generator: Generator, seed: u64) -> Self {
        match generator {
            // Only the low 32 bits count, as in torch.
            Generator::Torch => Self::Torch(Box::new(Torch { words: Mt::new(seed as u32), waiting: None })),
            Generator::ChaCha => Self::ChaCha(seed),
        }
    }

    /// `count` numbers below `below`. All images of the batch share them.
    pub(crate) fn below(&mut self, below: usize, count: usize, site: &Site<'_>) -> Vec<u32> {
        let below = below.max(1) as u32;
        match self {
            // Torch's `randint` for small ranges takes the remainder of a word.
            Self::Torch(torch) => (0..count).map(|_| torch.words.next_u32() % below).collect(),
            Self::ChaCha(seed) => {
                let mut words = ChaCha8Rng::from_seed(key(*seed, site));
                (0..count).map(|_| words.next_u32() % below).collect()
            }
        }
    }

    /// The destination within each cell; all images of the batch share them. `None` means the first token. As in
    /// tomesd, that is also the case for torch's draws with an odd number of rows.
    pub(crate) fn offsets(&mut self, cells: &Cells, site: &Site<'_>) -> Option<Vec<u32>> {
        let odd = site.rows.len() % 2 == 1 && matches!(self, Self::Torch(_));
        (!odd).then(|| self.below(cells.cell_size(), cells.destinations(), site))
    }

    /// A permutation of `0..count` for one image.
    pub(crate) fn permutation(&mut self, count: usize, site: &Site<'_>, image: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        // Torch's `randperm` for fewer than about 200 million numbers.
        let mut shuffle = |next: &mut dyn FnMut() -> u32| {
            for at in 0..count.saturating_sub(1) {
                order.swap(at, at + next() as usize % (count - at));
            }
        };
        match self {
            Self::Torch(torch) => shuffle(&mut || torch.words.next_u32()),
            Self::ChaCha(seed) => {
                let mut words = ChaCha8Rng::from_seed(key(*seed, site));
                // Each image has its own stream. The three streams after it are for noise.
                words.set_stream(image << 2);
                shuffle(&mut || words.next_u32());
            }
        }
        order
    }

    /// `count` standard normal numbers for each row of the batch, row after row.
    pub(crate) fn normals(&mut self, count: usize, site: &Site<'_>) -> Vec<f32> {
        match self {
            Self::Torch(torch) => torch.randn(site.rows.len() * count),
            Self::ChaCha(seed) => {
                let of_row = |row: &Row| {
                    let mut words = ChaCha8Rng::from_seed(key(*seed, site));
                    // Each row has its own stream, so its noise does not depend on its batch.
                    words.set_stream((row.image << 2) + 1 + row.branch as u64);
                    let mut uniforms = || f64::from(words.next_u32()) / 4_294_967_296.0;
                    let pairs = (0..count.div_ceil(2)).flat_map(|_| box_muller(uniforms(), uniforms()));
                    pairs.take(count).map(|normal| normal as f32).collect::<Vec<_>>()
                };
                site.rows.iter().flat_map(of_row).collect()
            }
        }
    }
}

impl Torch {
    /// `torch.randn(count)` in f32, within rounding. Torch's vector code uses its own polynomials.
    fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.one() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        values.as_chunks_mut::<16>().0.iter_mut().for_each(sixteen);
        // Numbers beyond a multiple of 16 stay uniform at first. Torch then draws the last 16 afresh.
        if let (false, Some(last)) = (count.is_multiple_of(16), values.last_chunk_mut::<16>()) {
            last.fill_with(|| self.uniform());
            sixteen(last);
        }
        values
    }

    /// A number in `[0, 1)` with 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.words.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// A number in `[0, 1)` with 53 bits, from two words. The high word comes first.
    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.words.next_u32()), u64::from(self.words.next_u32()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// One normal number. The two of a pair come one after the other.
    fn one(&mut self) -> f64 {
        if let Some(waiting) = self.waiting.take() {
            return waiting;
        }
        let (angle, radius) = (self.uniform_f64(), self.uniform_f64());
        let [first, second] = box_muller(radius, angle);
        self.waiting = Some(second);
        first
    }
}

/// Makes two standard normal numbers of two uniform ones in `[0, 1)`: `√(−2 ln(1 − u)) (cos 2πv, sin 2πv)`.
fn box_muller(u: f64, v: f64) -> [f64; 2] {
    let (radius, angle) = ((-2.0 * (-u).ln_1p()).sqrt(), std::f64::consts::TAU * v);
    [radius * angle.cos(), radius * angle.sin()]
}

/// Turns 16 uniform numbers into 16 normal ones, in place. Number `j` pairs with `j + 8`.
fn sixteen(block: &mut [f32; 16]) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        [*a, *b] = box_muller(f64::from(*a), f64::from(*b)).map(|normal| normal as f32);
    }
}

/// Everything on which a draw depends, as the generator's 32-byte key.
fn key(seed: u64, site: &Site<'_>) -> [u8; 32] {
    let [part, stage, index] = site.block.numbers();
    let mut key = *b"atedm token merging draws v1\0\0\0\0";
    key[..8].iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, seed)| *byte ^= seed);
    let place = [part, site.step.evaluation as u32, stage, index, site.layer as u32];
    for (word, place) in key[8..].chunks_exact_mut(4).zip(place) {
        word.iter_mut().zip(place.to_le_bytes()).for_each(|(byte, place)| *byte ^= place);
    }
    key
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::{BlockId, Branch, Grid, Step};

    use super::*;

    fn site(layer: usize, rows: &[Row]) -> Site<'_> {
        Site {
            block: BlockId::whole(),
            layer,
            depth: 2,
            step: Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 },
            grid: Grid::new(4, 4),
            tokens: 16,
            protected: (0, 0),
            rows,
        }
    }

    /// `torch.manual_seed(7); torch.randint(4, (12,))` of torch 2.11.
    #[test]
    fn torch_draws() {
        let rows = Row::singles(1);
        let mut draws = Draws::new(Generator::Torch, 7);
        let first = draws.below(4, 5, &site(0, &rows));
        let second = draws.below(4, 7, &site(1, &rows));
        assert_eq!([first, second].concat(), TORCH_SEED_7);
    }

    /// `torch.manual_seed(7); torch.randperm(10), torch.randperm(5)` of torch 2.11.
    #[test]
    fn torch_permutations() {
        let rows = Row::singles(1);
        let mut draws = Draws::new(Generator::Torch, 7);
        assert_eq!(draws.permutation(10, &site(0, &rows), 0), [5, 0, 3, 4, 1, 7, 9, 6, 8, 2]);
        assert_eq!(draws.permutation(5, &site(0, &rows), 1), [1, 3, 0, 2, 4]);
    }

    #[test]
    fn own_permutations_depend_on_the_image_and_the_place() {
        let rows = Row::singles(1);
        let of = |layer, image| Draws::new(Generator::ChaCha, 7).permutation(40, &site(layer, &rows), image);
        let mut sorted = of(0, 3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..40).collect::<Vec<u32>>());
        assert_eq!(of(0, 3), of(0, 3));
        assert_ne!(of(0, 3), of(0, 4));
        assert_ne!(of(0, 3), of(1, 3));
    }

    #[test]
    fn own_draws_depend_on_the_place_alone() {
        let rows = Row::singles(1);
        let at = |seed, layer| Draws::new(Generator::ChaCha, seed).below(4, 64, &site(layer, &rows));
        let mut draws = Draws::new(Generator::ChaCha, 7);
        draws.below(4, 3, &site(0, &rows));
        assert_eq!(draws.below(4, 64, &site(1, &rows)), at(7, 1));
        assert_ne!(at(7, 1), at(7, 0));
        assert_ne!(at(7, 1), at(8, 1));
        assert!(at(7, 0).iter().all(|&draw| draw < 4));
    }

    /// `torch.manual_seed(7); torch.randn(2, 10), torch.randn(1, 5), torch.randn(1, 4)` of torch 2.11.
    #[test]
    fn torch_noise() {
        let mut draws = Draws::new(Generator::Torch, 7);
        for (rows, count, expected) in
            [(2, 10, &TORCH_NORMALS[..20]), (1, 5, &TORCH_NORMALS[20..25]), (1, 4, &TORCH_NORMALS[25..])]
        {
            let rows = Row::singles(rows);
            let noise = draws.normals(count, &site(0, &rows));
            assert_eq!(noise.len(), expected.len());
            for (got, expected) in noise.iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} is not {expected}");
            }
        }
    }

    #[test]
    fn own_noise_is_normal_and_depends_on_the_row_not_on_its_batch() {
        let noise = |rows: &[Row], layer| Draws::new(Generator::ChaCha, 7).normals(1001, &site(layer, rows));
        let halves = [Branch::Uncond, Branch::Cond].map(|branch| Row { image: 5, branch });
        let both = noise(&halves, 0);
        assert_eq!(both[..1001], noise(&halves[..1], 0));
        assert_eq!(both[1001..], noise(&halves[1..], 0));
        assert_ne!(both[..1001], both[1001..]);
        assert_ne!(both, noise(&halves, 1));
        let mean = |power: i32| both.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / 2002.0;
        assert!(mean(1).abs() < 0.1 && (mean(2) - 1.0).abs() < 0.15 && (mean(4) - 3.0).abs() < 1.0);
    }

    const TORCH_NORMALS: [f64; 29] = [
        -0.820135, 0.395631, 0.898908, -1.388404, 0.198445, 0.782073, 1.039108, -0.724511, -0.848909,
        -1.216929, -0.081022, 1.361485, -2.061478, 0.674101, -1.323346, -1.359769, -0.866702, -0.564007,
        -2.056463, -0.356723, 2.450541, 2.025602, 1.779155, -0.917931, -0.457819, -0.724473, 1.279878,
        -0.994066, 1.814973,
    ];
    const TORCH_SEED_7: [u32; 12] = [3, 0, 1, 2, 3, 3, 3, 3, 0, 1, 2, 3];
}
