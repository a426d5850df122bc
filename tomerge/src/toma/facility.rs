//! Greedy facility location: destinations that all others are close to.
//!
//! ```text
//! gain(j) = Σ_i max(0, c_ij − m_i)        m_i: similarity of i to the nearest destination so far
//! ```
//!
//! The sum is submodular: a gain never grows. So a stale gain is an upper bound, and only the candidates whose bound
//! is still the highest are computed again (lazy greedy, Minoux 1978); the choice is that of the plain greedy search.
//!
//! Ties are common, as two tokens that are near each other alone gain the same. That rounding may not break them, each
//! on another backend in its own way, a token's similarity to itself counts as 1, that of a pair is read once, and sums
//! are in f64, where they are exact.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use atedm_core::{Error, Result};

/// A candidate with a gain that was true in some round.
struct Candidate {
    gain: f64,
    place: u32,
    round: usize,
}

impl Ord for Candidate {
    /// The higher gain first, then the lower place.
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.place.cmp(&self.place))
    }
}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Candidate {}

/// `count` of `size` tokens, ascending, that maximise, greedily, the sum of every token's similarity to the nearest of
/// them; `similarity` is `[size, size]`, row-major; what is above its diagonal counts. With equal gains the lower index
/// is taken.
///
/// # Errors
/// [`Error::NotFinite`] when a similarity is not, [`Error::Shape`] when it is not `[size, size]` or `count` above `size`.
pub(crate) fn choose_destinations(similarity: &[f32], size: usize, count: usize) -> Result<Vec<u32>> {
    if similarity.len() != size * size || count > size {
        let expected = format!("[{size}, {size}] similarities and at most {size} of them");
        return Err(Error::shape("facility location", expected, [similarity.len(), count]));
    }
    if !similarity.iter().all(|value| value.is_finite()) {
        return Err(Error::NotFinite { what: "a similarity of tokens".into() });
    }
    let mut similarity = similarity.to_vec();
    for row in 0..size {
        similarity[row * size + row] = 1.0;
        for column in 0..row {
            similarity[row * size + column] = similarity[column * size + row];
        }
    }
    // Below every cosine, so that the first gain counts every token.
    let mut nearest = vec![-1.0f32; size];
    let gain_of = |place: u32, nearest: &[f32]| -> f64 {
        let row = &similarity[place as usize * size..][..size];
        row.iter()
            .zip(nearest)
            .map(|(&value, &nearest)| (f64::from(value) - f64::from(nearest)).max(0.0))
            .sum()
    };
    let mut heap: BinaryHeap<Candidate> =
        (0..size as u32).map(|place| Candidate { gain: gain_of(place, &nearest), place, round: 0 }).collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let Some(mut best) = heap.pop() else { break };
        if best.round < chosen.len() {
            best.gain = gain_of(best.place, &nearest);
            best.round = chosen.len();
            heap.push(best);
            continue;
        }
        let row = &similarity[best.place as usize * size..][..size];
        nearest.iter_mut().zip(row).for_each(|(nearest, value)| *nearest = nearest.max(*value));
        chosen.push(best.place);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same without bounds.
    fn plain(similarity: &[f32], size: usize, count: usize) -> Vec<u32> {
        let mut chosen: Vec<u32> = Vec::new();
        while chosen.len() < count {
            let nearest =
                |i: usize| chosen.iter().map(|&j| similarity[j as usize * size + i]).fold(-1.0f32, f32::max);
            let gain = |j: usize| -> f64 {
                (0..size)
                    .map(|i| (f64::from(similarity[j * size + i]) - f64::from(nearest(i))).max(0.0))
                    .sum()
            };
            let mut best = (f64::NEG_INFINITY, 0);
            for j in (0..size).filter(|j| !chosen.contains(&(*j as u32))) {
                if gain(j) > best.0 {
                    best = (gain(j), j as u32);
                }
            }
            chosen.push(best.1);
        }
        chosen.sort_unstable();
        chosen
    }

    fn cosines(size: usize, seed: u32) -> Vec<f32> {
        // directions in a plane, at angles that are multiples of a small step: many are equal
        let angle = |i: usize| ((i as u32 + 3).wrapping_mul(seed * 2 + 1) % 41) as f32 * 0.15;
        (0..size * size).map(|k| (angle(k / size) - angle(k % size)).cos()).collect()
    }

    #[test]
    fn lazy_is_plain_greedy() {
        for (size, seed) in [(1, 1), (7, 2), (16, 3), (30, 4), (64, 5)] {
            let similarity = cosines(size, seed);
            for count in [1, 2, size / 3, size / 2, size] {
                let count = count.clamp(1, size);
                assert_eq!(
                    choose_destinations(&similarity, size, count).unwrap(),
                    plain(&similarity, size, count),
                    "{count} of {size}"
                );
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        assert!(choose_destinations(&[1.0; 4], 2, 3).is_err());
        assert!(choose_destinations(&[1.0; 3], 2, 1).is_err());
        assert!(matches!(
            choose_destinations(&[1.0, f32::NAN, 1.0, 1.0], 2, 1),
            Err(Error::NotFinite { .. })
        ));
    }
}
