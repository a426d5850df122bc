//! Seeded draws, the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The purpose of a stream of draws. Streams of different purposes are independent. The numbers are part of the key, so no feature may
/// change them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Scene = 0,
    Single = 1,
    Caption = 2,
    #[cfg(feature = "emoji")]
    EmojiScene = 3,
    #[cfg(feature = "emoji")]
    EmojiSingle = 4,
    Pair = 5,
    #[cfg(feature = "emoji")]
    EmojiPair = 6,
}

/// A stream of draws that belongs to one index of one seed.
pub(crate) struct Draws(ChaCha8Rng);

impl Draws {
    /// The key is made of seed, purpose and variant. The index selects ChaCha's stream, so any index is available at
    /// once.
    pub(crate) fn new(seed: u64, purpose: Purpose, variant: u8, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8] = purpose as u8;
        key[9] = variant;
        key[16..].copy_from_slice(b"at-edm's scenes.");
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self(rng)
    }

    /// A whole number below `count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        ((u64::from(self.0.next_u32()) * count as u64) >> 32) as usize
    }

    /// One of `choices`.
    pub(crate) fn one_of<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N)]
    }

    /// Uniform in `low..high`, in steps of 2^-24 of the range.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.0.next_u32() >> 8) as f32 / (1 << 24) as f32)
    }

    /// True in `percent` of 100 draws.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
