//! A square picture in memory.

/// An 8-bit RGB picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a side.
    pub side: usize,
    /// `side * side` pixels by rows, each red, green, blue.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The picture in -1..=1, by channels: `[3, side, side]`.
    pub fn to_signed(&self) -> Vec<f32> {
        let channel = |channel| self.rgb.iter().skip(channel).step_by(3);
        (0..3).flat_map(|which| channel(which).map(|&value| f32::from(value) / 127.5 - 1.0)).collect()
    }
}
