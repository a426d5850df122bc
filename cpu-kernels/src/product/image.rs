//! Images as right operands: a column for each output pixel, a depth of `(dy, dx, channel)`.
//!
//! A band of lines of the image is copied once, with the zeros around it, and as words. The columns of a panel are then runs
//! of words at fixed distances, so the matrix of all columns never exists.

use std::arch::x86_64::{_mm512_mask_storeu_epi32, _mm512_maskz_loadu_epi32};
use std::ops::Range;

use super::operands::{Geometry, Numbers};
use super::pack::{COLUMNS, Panel, Span, Word, words};
use crate::Threads;
use crate::lanes::{LANES, numbers};
use crate::memory::Spare;
use crate::threads::parallel;

/// The largest number of words of a band: 16 MiB.
const BAND: usize = 4 << 20;

/// Memory of the last band.
static SPARE: Spare<u32> = Spare::new();

/// Some lines of the output, and the words that they read.
#[derive(Debug)]
pub(crate) struct Band {
    geometry: Geometry,
    /// `[lines, channel words, width]`.
    words: Vec<u32>,
    channels: usize,
    width: usize,
    /// The number of output pixels.
    pub(crate) pixels: usize,
}

/// Equal parts of the output's lines, so that the words of each fit a band: first line and number of lines.
pub(crate) fn bands(geometry: Geometry, word: Word) -> impl Iterator<Item = (usize, usize)> {
    let (_, height, _) = geometry.output;
    let line = word.count(geometry.input.0) * width(geometry) * geometry.stride;
    let parts = height.div_ceil((BAND / line).max(1)).max(1);
    let len = height.div_ceil(parts);
    (0..height).step_by(len).map(move |first| (first, len.min(height - first)))
}

/// The columns of the image that the output reads, with the zeros around it.
fn width(geometry: Geometry) -> usize {
    (geometry.output.2 - 1) * geometry.stride + geometry.kernel.1
}

impl Band {
    /// Copies what `len` lines of the output from `first` on read of an image `[channels, height, width]`.
    ///
    /// # Safety
    /// The machine must have AVX-512.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn new(
        threads: &dyn Threads,
        image: Numbers<'_>,
        geometry: Geometry,
        word: Word,
        (first, len): (usize, usize),
    ) -> Self {
        let Geometry { input: (channels, height, across), kernel, stride, before, .. } = geometry;
        let (lines, width) = ((len - 1) * stride + kernel.0, width(geometry));
        let count = word.count(channels);
        let mut copy = SPARE.take();
        copy.resize(count * lines * width, 0);
        let source = |channel: usize, y: usize| image.part((channel * height + y) * across, across);
        parallel(
            threads,
            copy.chunks_mut(count * width).enumerate(),
            || (),
            |(), (line, rows)| {
                let y = (first * stride + line).wrapping_sub(before);
                for (at, to) in rows.chunks_mut(width).enumerate() {
                    let (zeros, to) = to.split_at_mut(before.min(width));
                    zeros.fill(0);
                    if y >= height {
                        to.fill(0);
                    } else if word == Word::Single {
                        let row = source(at, y);
                        words(row.part(0, across.min(to.len())), word, to);
                    } else {
                        let second = (2 * at + 1 < channels).then(|| source(2 * at + 1, y));
                        // SAFETY: the caller's promise.
                        #[allow(unsafe_code)]
                        unsafe {
                            interleave(source(2 * at, y), second, to);
                        }
                    }
                }
            },
        );
        Self { geometry, words: copy, channels: count, width, pixels: len * geometry.output.2 }
    }

    /// Packs output pixels from `first` on as the columns of a panel. Columns beyond the last pixel hold any numbers.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn pack(&self, panel: &mut Panel, first: usize, span: Span) {
        let Geometry { output: (_, _, across), kernel, stride, .. } = self.geometry;
        let by_line = self.channels * self.width;
        // runs of pixels of one line: first column of the panel, number of columns, place of the first word
        let mut runs = [(0, 0, 0); COLUMNS];
        let (mut count, mut at) = (0, 0);
        while at < COLUMNS && first + at < self.pixels {
            let (y, x) = ((first + at) / across, (first + at) % across);
            let len = (across - x).min(COLUMNS - at);
            runs[count] = (at, len, y * stride * by_line + x * stride);
            (count, at) = (count + 1, at + len);
        }
        let taps = kernel.0 * kernel.1;
        let (mut tap, mut channel) = (span.first / self.channels, span.first % self.channels);
        let mut rest = panel;
        while !rest.is_empty() {
            if tap >= taps {
                numbers(rest.as_flattened_mut()).fill(0);
                return;
            }
            // all channels of this place of the kernel that are left
            let (part, after) = rest.split_at_mut(rest.len().min(self.channels - channel));
            let start = tap / kernel.1 * by_line + channel * self.width + tap % kernel.1;
            for &(at, len, offset) in &runs[..count] {
                copy(part, at..at + len, &self.words[start + offset..], (self.width, stride));
            }
            (rest, tap, channel) = (after, tap + 1, 0);
        }
    }
}

impl Drop for Band {
    fn drop(&mut self) {
        SPARE.keep(&mut self.words);
    }
}

/// Copies one run of columns for all rows of a panel: every `stride`-th word. The words of the next row begin `by_row` words
/// further.
#[inline]
#[target_feature(enable = "avx512f")]
fn copy(panel: &mut Panel, columns: Range<usize>, from: &[u32], (by_row, stride): (usize, usize)) {
    for first in columns.clone().step_by(LANES) {
        let len = LANES.min(columns.end - first);
        let from = from[(first - columns.start) * stride..].chunks(by_row);
        if stride == 1 {
            // registers are copied without a call
            let mask = u16::MAX >> (LANES - len);
            for (row, from) in panel.iter_mut().zip(from) {
                let to = &mut numbers(row)[first..][..len];
                assert!(from.len() >= len, "a run inside the words");
                // SAFETY: the mask has a bit for every word of `to`, and `from` has as many.
                #[allow(unsafe_code)]
                unsafe {
                    let words = _mm512_maskz_loadu_epi32(mask, from.as_ptr().cast());
                    _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), mask, words);
                }
            }
        } else {
            for (row, from) in panel.iter_mut().zip(from) {
                let to = &mut numbers(row)[first..][..len];
                to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Pairs of two channels. A missing second channel is zero, and so is what lies beyond the rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn interleave(low: Numbers<'_>, high: Option<Numbers<'_>>, to: &mut [u32]) {
    let (Numbers::Bf16(low), high) = (low, high) else {
        return;
    };
    let len = low.len().min(to.len());
    let (to, rest) = to.split_at_mut(len);
    rest.fill(0);
    match high {
        Some(Numbers::Bf16(high)) => {
            let both = low.iter().zip(high);
            to.iter_mut()
                .zip(both)
                .for_each(|(to, (&low, &high))| *to = u32::from(low) | u32::from(high) << 16);
        }
        _ => to.iter_mut().zip(low).for_each(|(to, &low)| *to = u32::from(low)),
    }
}
