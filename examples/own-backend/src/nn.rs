//! The five neural-network operations that have no generic body.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::{Indices, NnOps, Result};

use crate::{Flat, Lists};

impl NnOps for Flat {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        let shape = options.output_shape(&self.shape, &weight.shape, bias.map(|bias| &bias.shape[..]))?;
        let [_, inputs, kernel_height, kernel_width] = dims(weight, "conv2d")?;
        let [_, _, height, width] = dims(self, "conv2d")?;
        // where a pixel of the padded image lies in the image
        let inside = |out: usize, offset: usize, len: usize| {
            (out * options.stride + offset).checked_sub(options.pad_before).filter(|&place| place < len)
        };
        Ok(Self::from_fn(&shape, |i| {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias.data[i[1]]));
            for channel in 0..inputs {
                for dy in 0..kernel_height {
                    let Some(y) = inside(i[2], dy, height) else { continue };
                    for dx in 0..kernel_width {
                        let Some(x) = inside(i[3], dx, width) else { continue };
                        let factor = weight.at(&[i[1], channel, dy, dx]);
                        sum += f64::from(self.at(&[i[0], channel, y, x])) * f64::from(factor);
                    }
                }
            }
            sum as f32
        }))
    }

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        let [batch, channels, from_height, from_width] = dims(self, "upsample_nearest")?;
        Ok(Self::from_fn(&[batch, channels, height, width], |i| {
            self.at(&[i[0], i[1], i[2] * from_height / height, i[3] * from_width / width])
        }))
    }

    fn embedding(&self, ids: &Lists) -> Result<Self> {
        let [vocabulary, channels] = dims(self, "embedding")?;
        let (batch, length) = ids.dims();
        ids.expect("embedding", batch, vocabulary)?;
        Ok(Self::from_fn(&[batch, length, channels], |i| self.at(&[ids.0[i[0]][i[1]] as usize, i[2]])))
    }

    fn gelu(&self) -> Result<Self> {
        Ok(self.map(|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))))
    }

    fn silu(&self) -> Result<Self> {
        Ok(self.map(|x| x / (1.0 + (-x).exp())))
    }
}

/// The error function: its series near zero, the continued fraction of its complement farther out.
fn erf(x: f64) -> f64 {
    let size = x.abs();
    let value = if size < 2.0 {
        let (mut term, mut sum) = (size, size);
        for n in 1..40 {
            term *= -size * size / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        std::f64::consts::FRAC_2_SQRT_PI * sum
    } else {
        let tail = (1..=60).rev().fold(size, |tail, k| size + f64::from(k) / 2.0 / tail);
        1.0 - (-size * size).exp() / std::f64::consts::PI.sqrt() / tail
    };
    value.copysign(x)
}
