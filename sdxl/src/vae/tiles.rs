//! Decodes in overlapping tiles, and blends them as diffusers does. Tiles are joined on the host.

use atedm_core::backend::dims;
use atedm_core::{Error, Result, Tensor};

use crate::config::VaeConfig;

/// The size and overlap of tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TileOptions {
    /// Height and width of a tile, in image pixels.
    pub size: usize,
    /// The share of a tile that overlaps the tile before, from 0 to below 1.
    pub overlap: f64,
}

/// Checked sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles {
    /// Latents of a tile, in one dimension.
    pub(crate) latents: usize,
    /// Pixels of a tile, in one dimension.
    size: usize,
    overlap: f64,
    factor: usize,
}

impl TileOptions {
    /// diffusers' tiles for an AutoencoderTiny.
    pub(crate) const TINY: Self = Self { size: 512, overlap: 0.125 };

    /// diffusers' tiles for an AutoencoderKL of this sample size.
    pub(crate) fn kl(size: usize) -> Self {
        Self { size, overlap: 0.25 }
    }

    /// diffusers' tiles for an autoencoder.
    pub fn of(config: &VaeConfig) -> Self {
        match config {
            VaeConfig::Kl(kl) => Self::kl(kl.sample_size),
            VaeConfig::Tiny(_) => Self::TINY,
        }
    }

    /// Checks that an autoencoder with `factor` pixels per latent can decode in these tiles.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] naming size or overlap and what was expected.
    pub fn fits(&self, factor: usize) -> Result<()> {
        self.check(factor).map(drop)
    }

    /// The sizes for an autoencoder with `factor` pixels per latent.
    pub(crate) fn check(&self, factor: usize) -> Result<Tiles> {
        let latents = self.size / factor.max(1);
        if !(0.0..1.0).contains(&self.overlap) {
            return Err(Error::config(
                "tile overlap",
                format!("expected 0 to below 1, got {}", self.overlap),
            ));
        }
        if latents == 0 || (latents as f64 * (1.0 - self.overlap)) < 1.0 {
            let reason = format!("expected at least {factor} pixels beyond the overlap, got {}", self.size);
            return Err(Error::config("tile size", reason));
        }
        Ok(Tiles { latents, size: latents * factor, overlap: self.overlap, factor })
    }
}

/// An image on the host: `planes` (batch · channels) of `height` × `width`.
struct Picture {
    planes: usize,
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Picture {
    fn of<T: Tensor>(image: &T) -> Result<Self> {
        let [b, c, height, width] = dims(image, "VAE tile")?;
        Ok(Self { planes: b * c, height, width, values: image.to_f32()? })
    }

    fn row(&self, plane: usize, y: usize) -> &[f32] {
        let start = (plane * self.height + y) * self.width;
        &self.values[start..start + self.width]
    }

    fn at(&mut self, plane: usize, y: usize, x: usize) -> &mut f32 {
        &mut self.values[(plane * self.height + y) * self.width + x]
    }
}

fn mix(before: f32, now: f32, share: f64) -> f32 {
    before * (1.0 - share) as f32 + now * share as f32
}

/// diffusers' `AutoencoderKL.tiled_decode`. The top and left edges of each tile are blended with the tiles above and to
/// the left, which are already blended. Then each tile is cut to its stride, and all are laid side by side.
pub(crate) fn blend_in_sequence<T: Tensor>(
    latents: &T,
    tiles: &Tiles,
    decode: impl Fn(&T) -> Result<T>,
) -> Result<T> {
    let [batch, _, height, width] = dims(latents, "VAE tiles")?;
    let stride = (tiles.latents as f64 * (1.0 - tiles.overlap)) as usize;
    // diffusers rounds the overlap on each side separately. For odd tiles, that gives an image of another size.
    let limit = stride * tiles.factor;
    let extent = tiles.size - limit;

    let mut above: Vec<Picture> = Vec::new();
    let mut rows: Vec<Vec<Picture>> = Vec::new();
    for y in (0..height).step_by(stride) {
        let strip = latents.narrow(2, y, tiles.latents.min(height - y))?;
        let mut row: Vec<Picture> = Vec::new();
        for (j, x) in (0..width).step_by(stride).enumerate() {
            let tile = decode(&strip.narrow(3, x, tiles.latents.min(width - x))?)?;
            let mut tile = Picture::of(&tile)?;
            if let Some(upper) = above.get(j) {
                blend_down(upper, &mut tile, extent);
            }
            if let Some(left) = row.last() {
                blend_right(left, &mut tile, extent);
            }
            row.push(tile);
        }
        let cut = |tile: &Picture| crop(tile, limit);
        if !above.is_empty() {
            rows.push(above.iter().map(cut).collect());
        }
        above = row;
    }
    rows.push(above.iter().map(|tile| crop(tile, limit)).collect());
    lay_out(&rows, batch, latents)
}

fn blend_down(upper: &Picture, tile: &mut Picture, extent: usize) {
    let extent = extent.min(upper.height).min(tile.height);
    for plane in 0..tile.planes {
        for y in 0..extent {
            let before = upper.row(plane, upper.height - extent + y);
            let share = y as f64 / extent as f64;
            for (x, value) in before.iter().enumerate().take(tile.width) {
                let now = tile.at(plane, y, x);
                *now = mix(*value, *now, share);
            }
        }
    }
}

fn blend_right(left: &Picture, tile: &mut Picture, extent: usize) {
    let extent = extent.min(left.width).min(tile.width);
    for plane in 0..tile.planes {
        for y in 0..tile.height.min(left.height) {
            let before = &left.row(plane, y)[left.width - extent..];
            for (x, value) in before.iter().enumerate() {
                let now = tile.at(plane, y, x);
                *now = mix(*value, *now, x as f64 / extent as f64);
            }
        }
    }
}

fn crop(tile: &Picture, limit: usize) -> Picture {
    let (height, width) = (tile.height.min(limit), tile.width.min(limit));
    let rows = (0..tile.planes).flat_map(|plane| (0..height).map(move |y| (plane, y)));
    let values = rows.flat_map(|(plane, y)| tile.row(plane, y)[..width].iter().copied()).collect();
    Picture { planes: tile.planes, height, width, values }
}

fn lay_out<T: Tensor>(rows: &[Vec<Picture>], batch: usize, like: &T) -> Result<T> {
    let first = rows.first().and_then(|row| row.first());
    let planes = first.map_or(0, |tile| tile.planes);
    let height: usize = rows.iter().filter_map(|row| row.first()).map(|tile| tile.height).sum();
    let width: usize = rows.first().map_or(0, |row| row.iter().map(|tile| tile.width).sum());
    let mut values = Vec::with_capacity(planes * height * width);
    for plane in 0..planes {
        for row in rows {
            for y in 0..row.first().map_or(0, |tile| tile.height) {
                row.iter().for_each(|tile| values.extend_from_slice(tile.row(plane, y)));
            }
        }
    }
    T::from_f32(&values, &[batch, planes / batch.max(1), height, width], like.dtype(), &like.device())
}

/// diffusers' `AutoencoderTiny._tiled_decode`. Each tile is laid over the earlier ones with a weight that rises
/// linearly over its top and left overlap.
pub(crate) fn blend_by_mask<T: Tensor>(
    latents: &T,
    tiles: &Tiles,
    decode: impl Fn(&T) -> Result<T>,
) -> Result<T> {
    let [batch, _, height, width] = dims(latents, "VAE tiles")?;
    let blend = (tiles.latents as f64 * tiles.overlap) as usize;
    let stride = tiles.latents - blend;
    let factor = tiles.factor;
    let ramp = |i: usize, first: bool| {
        // With an overlap of at most one pixel, diffusers divides by zero or less. Then there is nothing to blend.
        let reach = (blend * factor).saturating_sub(1);
        if first || reach == 0 { 1.0 } else { (i as f32 / reach as f32).min(1.0) }
    };
    let (full_height, full_width) = (height * factor, width * factor);
    let mut out: Option<Picture> = None;
    for y in (0..height).step_by(stride) {
        let strip = latents.narrow(2, y, tiles.latents.min(height - y))?;
        for x in (0..width).step_by(stride) {
            let tile = Picture::of(&decode(&strip.narrow(3, x, tiles.latents.min(width - x))?)?)?;
            let planes = tile.planes;
            let out = out.get_or_insert_with(|| Picture {
                planes,
                height: full_height,
                width: full_width,
                values: vec![0.0; planes * full_height * full_width],
            });
            for plane in 0..planes {
                for i in 0..tile.height {
                    for (j, value) in tile.row(plane, i).iter().enumerate() {
                        let mask = ramp(i, y == 0) * ramp(j, x == 0);
                        let there = out.at(plane, y * factor + i, x * factor + j);
                        *there = mask * value + (1.0 - mask) * *there;
                    }
                }
            }
        }
    }
    let out = out.ok_or_else(|| Error::shape("VAE tiles", "latents that are not empty", [height, width]))?;
    let shape = [batch, out.planes / batch.max(1), full_height, full_width];
    T::from_f32(&out.values, &shape, latents.dtype(), &latents.device())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use atedm_core::reference::{NdDevice, NdTensor};
    use atedm_core::{DType, NnOps};

    use super::*;

    type Blend = fn(&NdTensor, &Tiles, &dyn Fn(&NdTensor) -> Result<NdTensor>) -> Result<NdTensor>;

    const BOTH: [Blend; 2] = [|x, t, d| blend_in_sequence(x, t, d), |x, t, d| blend_by_mask(x, t, d)];

    fn latents(height: usize, width: usize) -> NdTensor {
        let values: Vec<f32> = (0..2 * height * width).map(|i| (i as f32 * 0.7).sin()).collect();
        NdTensor::from_f32(&values, &[1, 2, height, width], DType::F32, &NdDevice).unwrap()
    }

    /// A decoder that works on each pixel separately gives the same image in tiles as at once.
    #[test]
    fn a_local_decoder_leaves_no_seams() {
        let double = |x: &NdTensor| {
            let [_, _, h, w] = dims(x, "test")?;
            x.upsample_nearest(2 * h, 2 * w)
        };
        for blend in BOTH {
            for (height, width) in [(5, 5), (8, 3), (13, 21), (16, 16), (1, 40)] {
                for (size, overlap) in [(16, 0.25), (10, 0.0), (12, 0.5), (11, 0.3), (6, 0.25)] {
                    let tiles = TileOptions { size, overlap }.check(2).unwrap();
                    let x = latents(height, width);
                    let got = blend(&x, &tiles, &double).unwrap();
                    let expected = double(&x).unwrap();
                    assert_eq!(got.shape(), expected.shape());
                    for (a, b) in got.to_f32().unwrap().iter().zip(expected.to_f32().unwrap()) {
                        assert!((a - b).abs() <= 1e-6, "{a} {b}");
                    }
                }
            }
        }
    }

    /// Tiles with constants 0, 1, 2 in a row show the ramps between them, pixel by pixel.
    #[test]
    fn edges_are_ramps() {
        let count = Cell::new(0.0);
        let constant = |x: &NdTensor| {
            let value = count.replace(count.get() + 1.0);
            NdTensor::full(value, &x.shape(), DType::F32, &NdDevice)
        };
        let tiles = TileOptions { size: 8, overlap: 0.5 }.check(1).unwrap();
        let x = NdTensor::full(0.0, &[1, 1, 1, 16], DType::F32, &NdDevice).unwrap();
        let row = |blend: Blend| {
            count.set(0.0);
            blend(&x, &tiles, &constant).unwrap().to_f32().unwrap()
        };
        // Every tile begins 4 after the one before. The share of the new one is 0, 1/4, 2/4, 3/4 …
        let sequence = [0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75];
        assert_eq!(row(BOTH[0]), sequence);
        // … or 0, 1/3, 2/3, 1 over the earlier tile.
        let third = |from: f32, i: usize| from + i as f32 / 3.0;
        for (i, value) in row(BOTH[1]).into_iter().enumerate() {
            let expected = match i {
                0..4 => 0.0,
                4..16 => third((i / 4) as f32 - 1.0, i % 4),
                _ => unreachable!(),
            };
            assert!((value - expected).abs() < 1e-6, "{i}: {value} {expected}");
        }
    }

    #[test]
    fn sizes_are_checked() {
        for (size, overlap) in [(0, 0.25), (7, 0.25), (16, 1.0), (16, -0.5), (16, f64::NAN), (8, 0.5)] {
            assert!(TileOptions { size, overlap }.check(8).is_err(), "{size} {overlap}");
        }
    }
}
