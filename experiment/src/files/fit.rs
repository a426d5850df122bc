//! Scales a picture until it covers a size, and cuts what protrudes: Pillow's `ImageOps.fit` with Lanczos3.
//!
//! ```text
//! box      the middle part of the picture with the ratio of the size
//! pixel    Σ w(k) picture(k),   w(k) = L((k + ½ − c) / s),  c its centre in the box,  s = max(1, pixels of the box for one)
//! L(x)     sinc(x) sinc(x / 3) for |x| < 3
//! ```

use std::f64::consts::PI;

use super::png::Picture;
use crate::model::Size;

/// Half the width of the filter.
const SUPPORT: f64 = 3.0;

/// The picture at this size.
pub(super) fn fitted(picture: &Picture, size: Size) -> Picture {
    if picture.size() == size {
        return picture.clone();
    }
    let (wide, high) = (picture.width as f64, picture.height as f64);
    let ratio = size.width as f64 / size.height as f64;
    let (width, height) = if wide / high >= ratio { (ratio * high, high) } else { (wide, wide / ratio) };
    let across = taps(picture.width, (wide - width) / 2.0, width, size.width);
    let down = taps(picture.height, (high - height) / 2.0, height, size.height);
    let line = 3 * size.width;
    let mut rows = vec![0.0; line * picture.height];
    for (from, to) in picture.rgb.chunks_exact(3 * picture.width).zip(rows.chunks_exact_mut(line)) {
        for (pixel, tap) in to.chunks_exact_mut(3).zip(&across) {
            for (near, weight) in from.chunks_exact(3).skip(tap.first).zip(&tap.weights) {
                pixel.iter_mut().zip(near).for_each(|(sum, value)| *sum += weight * f32::from(*value));
            }
        }
    }
    let mut rgb = Vec::with_capacity(line * size.height);
    for tap in &down {
        let mut sums = vec![0.0; line];
        for (near, weight) in rows.chunks_exact(line).skip(tap.first).zip(&tap.weights) {
            sums.iter_mut().zip(near).for_each(|(sum, value)| *sum += weight * value);
        }
        rgb.extend(sums.into_iter().map(|sum: f32| sum.round().clamp(0.0, 255.0) as u8));
    }
    Picture { width: size.width, height: size.height, rgb }
}

/// The weights of the pixels that make one pixel, along one axis.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

/// One tap for each of `count` pixels, from a box of an axis of `length` pixels.
fn taps(length: usize, start: f64, extent: f64, count: usize) -> Vec<Tap> {
    let step = extent / count as f64;
    let scale = step.max(1.0);
    let tap = |index: usize| {
        let centre = start + (index as f64 + 0.5) * step;
        let first = (centre - SUPPORT * scale + 0.5).max(0.0) as usize;
        let last = ((centre + SUPPORT * scale + 0.5) as usize).min(length);
        let weights: Vec<f64> =
            (first..last).map(|place| lanczos((place as f64 + 0.5 - centre) / scale)).collect();
        let sum: f64 = weights.iter().sum();
        Tap { first, weights: weights.into_iter().map(|weight| (weight / sum) as f32).collect() }
    };
    (0..count).map(tap).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if x.abs() < SUPPORT { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}
