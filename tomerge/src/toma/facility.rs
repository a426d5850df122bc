//! Greedy facility location. It chooses destinations so that every token is close to one of them.
//!
//! ```text
//! gain(j) = Σ_i max(0, c_ij − m_i)        m_i: similarity of i to the nearest destination so far
//! ```
//! The sum is submodular: a gain never grows. An old gain is therefore an upper bound. Only candidates whose bound is
//! still the highest are computed again (lazy greedy, Minoux 1978). The choice equals that of the plain greedy search.
//!
//! Ties are common: two tokens that are close only to each other have equal gains. Rounding must not break them,
//! because it differs between backends. Three rules prevent this. A token's similarity to itself counts as 1, a
//! pair's similarity is read once, and sums are in f64, where they are exact.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use atedm_core::{Error, Result};

/// A candidate, with its gain from an earlier round.
struct Candidate {
    gain: f64,
    place: u32,
    round: usize,
}

impl Ord for Candidate {
    /// Orders by higher gain, then by lower place.
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

/// Chooses `count` of `size` tokens, ascending. It greedily maximises the sum of every token's similarity to the
/// nearest of them. `similarity` is `[size, size]`, row-major; only the part above its diagonal counts. Among equal
/// gains the lower index is chosen.
///
/// # Errors
/// [`Error::NotFinite`] when a similarity is not finite. [`Error::Shape`] when `similarity` is not `[size, size]`
/// or `count` is above `size`.
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
    // This lies below every cosine, so the first gain counts every token.
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

    /// The same choice without bounds.
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
        // directions in a plane at multiples of a small angle, so that many are equal
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
