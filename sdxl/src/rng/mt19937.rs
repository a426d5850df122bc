//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded as torch does.

const WORDS: usize = 624;
const MIDDLE: usize = 397;
const MATRIX_A: u32 = 0x9908_b0df;
const UPPER: u32 = 0x8000_0000;
const LOWER: u32 = 0x7fff_ffff;

/// The generator's state: 624 words, and how many of them have been used.
#[derive(Debug, Clone)]
pub(super) struct Mt19937 {
    words: [u32; WORDS],
    used: usize,
}

impl Mt19937 {
    /// Knuth's initialization from the low 32 bits of `seed`. Torch ignores the high bits.
    pub(super) fn new(seed: u64) -> Self {
        let mut words = [0u32; WORDS];
        let mut last = seed as u32;
        for (j, word) in words.iter_mut().enumerate() {
            if j > 0 {
                last = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(j as u32);
            }
            *word = last;
        }
        Self { words, used: WORDS }
    }

    /// The next 32 bits.
    pub(super) fn next_u32(&mut self) -> u32 {
        if self.used == WORDS {
            self.twist();
        }
        let mut y = self.words[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Two draws; the first is the high half.
    pub(super) fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    fn twist(&mut self) {
        for j in 0..WORDS {
            let mixed = (self.words[j] & UPPER) | (self.words[(j + 1) % WORDS] & LOWER);
            let carried = if mixed & 1 == 1 { MATRIX_A } else { 0 };
            self.words[j] = self.words[(j + MIDDLE) % WORDS] ^ (mixed >> 1) ^ carried;
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published check value: the 10000th output for seed 5489.
    #[test]
    fn ten_thousandth_word() {
        let mut rng = Mt19937::new(5489);
        let last = (0..10_000).map(|_| rng.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
