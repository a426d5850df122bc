//! Rotary positions: pairs of a head's channels turn by angles that belong to a token's coordinates.

use candle_core::{D, Device, Result, Tensor};

const THETA: f64 = 10_000.0;

/// The table `[tokens, head channels]` of tokens at `coordinates`: cosines in the first half, sines in the second.
///
/// `axes` says how many channels turn with each coordinate.
pub fn table(axes: &[usize; 3], coordinates: &[[usize; 3]], device: &Device) -> Result<Tensor> {
    let channels: usize = axes.iter().sum();
    let mut rows = Vec::with_capacity(coordinates.len() * channels);
    for token in coordinates {
        let angles = || {
            axes.iter().zip(token).flat_map(|(&dim, &coordinate)| {
                let angle = move |pair: usize| coordinate as f64 / THETA.powf((2 * pair) as f64 / dim as f64);
                (0..dim / 2).map(angle)
            })
        };
        rows.extend(angles().map(|angle| angle.cos() as f32).chain(angles().map(|angle| angle.sin() as f32)));
    }
    Tensor::from_vec(rows, (coordinates.len(), channels), device)
}

/// The coordinates of an image's tokens, row by row: (0, row, column).
pub fn of_image(height: usize, width: usize) -> Vec<[usize; 3]> {
    (0..height * width).map(|token| [0, token / width, token % width]).collect()
}

/// The coordinates of the text's tokens: all are at the origin.
pub fn of_text(tokens: usize) -> Vec<[usize; 3]> {
    vec![[0; 3]; tokens]
}

/// Turns `[batch, heads, tokens, channels]` by a table `[tokens, channels]` or, where each batch row has tokens of its
/// own, `[batch, tokens, channels]`.
pub fn rotate(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    let half = table.dim(D::Minus1)? / 2;
    let part = |start| table.narrow(D::Minus1, start, half)?.to_dtype(x.dtype())?.contiguous();
    candle_nn::rotary_emb::rope_i(x, &part(0)?, &part(half)?)
}
