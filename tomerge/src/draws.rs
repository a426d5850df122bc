//! Where random destinations come from.

use atedm_core::plugin::{Site, Stage};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_mt::Mt;
use serde::{Deserialize, Serialize};

/// Which generator draws; the names are those of the program's `--rng`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Generator {
    /// Torch's CPU generator: what tomesd draws when `torch.manual_seed(seed)` comes just before its first call. One
    /// stream for the whole run, so that a draw depends on all before it.
    #[default]
    Torch,
    /// ChaCha8, keyed by seed, evaluation, block and layer: a draw depends on nothing else.
    ChaCha,
}

/// Draws of one run.
#[derive(Debug, Clone)]
pub(crate) enum Draws {
    Torch(Box<Mt>),
    ChaCha(u64),
}

impl Draws {
    pub(crate) fn new(generator: Generator, seed: u64) -> Self {
        match generator {
            // Only the low 32 bits count, as in torch.
            Generator::Torch => Self::Torch(Box::new(Mt::new(seed as u32))),
            Generator::ChaCha => Self::ChaCha(seed),
        }
    }

    /// `count` numbers below `below`, for the whole batch alike.
    pub(crate) fn below(&mut self, below: usize, count: usize, site: &Site<'_>) -> Vec<u32> {
        let below = below.max(1) as u32;
        match self {
            // Torch's `randint` for small ranges: a word's remainder.
            Self::Torch(words) => (0..count).map(|_| words.next_u32() % below).collect(),
            Self::ChaCha(seed) => {
                let mut words = ChaCha8Rng::from_seed(key(*seed, site));
                (0..count).map(|_| words.next_u32() % below).collect()
            }
        }
    }

    /// `count` uniform numbers in `[0, 1)`, for the whole batch alike.
    pub(crate) fn uniform(&mut self, count: usize, site: &Site<'_>) -> Vec<f32> {
        let unit = |word: u32| (word & 0x00ff_ffff) as f32 / (1 << 24) as f32;
        match self {
            Self::Torch(words) => (0..count).map(|_| unit(words.next_u32())).collect(),
            Self::ChaCha(seed) => {
                let mut words = ChaCha8Rng::from_seed(key(*seed, site));
                (0..count).map(|_| unit(words.next_u32())).collect()
            }
        }
    }
}

/// All that a draw depends on, as the generator's 32-byte key.
fn key(seed: u64, site: &Site<'_>) -> [u8; 32] {
    let stage: u8 = match site.block.stage {
        Stage::Down => 0,
        Stage::Mid => 1,
        Stage::Up => 2,
    };
    let mut key = *b"atedm token merging draws v1\0\0\0\0";
    key[..8].iter_mut().zip(seed.to_le_bytes()).for_each(|(byte, seed)| *byte ^= seed);
    let place = [
        u32::from(stage),
        site.step.evaluation as u32,
        site.block.stage_index as u32,
        site.block.index as u32,
        site.layer as u32,
    ];
    for (word, place) in key[8..].chunks_exact_mut(4).zip(place) {
        word.iter_mut().zip(place.to_le_bytes()).for_each(|(byte, place)| *byte ^= place);
    }
    key
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::{BlockId, Grid, Row, Step};

    use super::*;

    fn site(layer: usize, rows: &[Row]) -> Site<'_> {
        Site {
            block: BlockId::whole(),
            layer,
            depth: 2,
            step: Step { index: 0, total: 1, evaluation: 0, sigma: 1.0 },
            grid: Grid { height: 4, width: 4 },
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

    const TORCH_SEED_7: [u32; 12] = [3, 0, 1, 2, 3, 3, 3, 3, 0, 1, 2, 3];
}
