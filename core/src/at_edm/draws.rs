//! Random numbers of scorers and selectors. They depend on the place in the run alone, so a run repeats bit by bit.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::plugin::{Branch, Row, Site};

/// A generator for one place in a run: evaluation, block and layer. With a row, also for that row's image and half of guidance.
pub(super) fn generator(seed: u64, site: &Site<'_>, row: Option<&Row>) -> ChaCha8Rng {
    let [part, stage, index] = site.block.numbers();
    let branch: u8 = match row.map(|row| row.branch) {
        Some(Branch::Single) => 0,
        Some(Branch::Cond) => 1,
        Some(Branch::Uncond) => 2,
        None => 3,
    };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&row.map_or(0, |row| row.image).to_le_bytes());
    key[16..20].copy_from_slice(&(site.step.evaluation as u32).to_le_bytes());
    key[20..22].copy_from_slice(&[part as u8, branch]);
    key[22..26].copy_from_slice(&(site.layer as u32).to_le_bytes());
    key[26..28].copy_from_slice(&(stage as u16).to_le_bytes());
    key[28..30].copy_from_slice(&(index as u16).to_le_bytes());
    key[30..32].copy_from_slice(&((stage >> 16) as u16).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// A number in `[0, 1)`. It has 24 bits, which fill an f32's mantissa, so it is exact.
pub(super) fn uniform(generator: &mut ChaCha8Rng) -> f32 {
    (generator.next_u32() >> 8) as f32 / (1 << 24) as f32
}
