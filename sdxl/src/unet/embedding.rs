//! The conditioning vector: time, guidance, pooled text, sizes and crops.

use atedm_core::backend::dims;
use atedm_core::{AttentionOps, DType, Error, NnOps, Result, Weights};

use crate::config::UNetConfig;
use crate::layers::{Bias, Linear};

/// The sinusoidal embedding of `values` (diffusers' `get_timestep_embedding`): `channels` numbers for each value, row after row.
/// The numbers are `sin` and `cos` of `value · 10000^(−i / (channels/2 − shift))`.
///
/// The angle is an f32, as in diffusers. The functions are evaluated in f64 and rounded.
pub(crate) fn sinusoids(values: &[f32], channels: usize, config: &UNetConfig) -> Vec<f32> {
    let half = channels / 2;
    let divisor = (half as f64 - config.frequency_shift) as f32;
    let frequency = |i: usize| {
        let exponent = -(10_000f64.ln() as f32) * i as f32 / divisor;
        f64::from(exponent).exp() as f32
    };
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut out = Vec::with_capacity(values.len() * channels);
    for &value in values {
        let angles = frequencies.iter().map(|f| f64::from(value * f));
        let sines = angles.clone().map(|a| a.sin() as f32);
        let cosines = angles.map(|a| a.cos() as f32);
        if config.flip_sin_to_cos {
            out.extend(cosines.chain(sines));
        } else {
            out.extend(sines.chain(cosines));
        }
    }
    out
}

/// Linear, SiLU, linear: diffusers' `TimestepEmbedding`.
#[derive(Debug)]
struct Mlp<T> {
    linear_1: Linear<T>,
    linear_2: Linear<T>,
}

impl<T: NnOps> Mlp<T> {
    fn load(weights: &Weights<T>, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(&weights.scope("linear_1"), inputs, outputs, Bias::With)?,
            linear_2: Linear::load(&weights.scope("linear_2"), outputs, outputs, Bias::With)?,
        })
    }

    fn forward(&self, x: &T) -> Result<T> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }
}

/// What an evaluation is conditioned on, besides the text's tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions<'a, T> {
    /// The timestep of each row.
    pub(crate) timesteps: &'a [f64],
    /// Pooled text `[b, pooled channels]`, in the model's dtype.
    pub(crate) pooled: &'a T,
    /// Six sizes for each row.
    pub(crate) time_ids: &'a [[f32; 6]],
    /// The guidance embedding, if the model takes one.
    pub(crate) timestep_cond: Option<&'a T>,
}

/// The two embeddings, which are added.
#[derive(Debug)]
pub(crate) struct Embedding<T> {
    time: Mlp<T>,
    guidance: Option<Linear<T>>,
    added: Mlp<T>,
}

impl<T: AttentionOps> Embedding<T> {
    pub(crate) fn load(weights: &Weights<T>, config: &UNetConfig) -> Result<Self> {
        let base = config.base_channels();
        let time = weights.scope("time_embedding");
        let guidance = config
            .guidance_channels
            .map(|channels| Linear::load(&time.scope("cond_proj"), channels, base, Bias::Without));
        Ok(Self {
            time: Mlp::load(&time, base, config.time_channels)?,
            guidance: guidance.transpose()?,
            added: Mlp::load(&weights.scope("add_embedding"), config.added_channels, config.time_channels)?,
        })
    }

    /// The conditioning vector `[b, time channels]` after the SiLU with which every resnet would begin.
    pub(crate) fn forward(&self, config: &UNetConfig, input: &Conditions<'_, T>) -> Result<T> {
        let [batch, _] = dims(input.pooled, "U-Net pooled text")?;
        let (dtype, device) = (input.pooled.dtype(), input.pooled.device());
        let base = config.base_channels();
        let timesteps: Vec<f32> = input.timesteps.iter().map(|&timestep| timestep as f32).collect();
        let waves = sinusoids(&timesteps, base, config);
        let mut time = T::from_f32(&waves, &[batch, base], dtype, &device)?;
        match (&self.guidance, input.timestep_cond) {
            (_, None) => {}
            (Some(project), Some(guidance)) => time = time.add(&project.forward(guidance)?)?,
            (None, Some(_)) => {
                let reason = "the U-Net has none (time_cond_proj_dim is null), but a guidance embedding came";
                return Err(Error::config("timestep_cond", reason));
            }
        }
        let time = self.time.forward(&time)?;

        let ids: Vec<f32> = input.time_ids.iter().flatten().copied().collect();
        let waves = sinusoids(&ids, config.size_channels, config);
        // As in diffusers, pooled text and sizes meet in f32 and are rounded together.
        let sizes =
            T::from_f32(&waves, &[batch, 6 * config.size_channels], DType::F32, &device)?.cast(dtype)?;
        let added = self.added.forward(&T::concat(&[input.pooled, &sizes], 1)?)?;
        time.add(&added)?.silu()
    }
}

#[cfg(test)]
mod tests {
    use super::sinusoids;
    use crate::config::UNetConfig;

    #[test]
    fn cosines_come_first_and_frequencies_fall_to_one_ten_thousandth() {
        let config = UNetConfig::sdxl_base();
        let waves = sinusoids(&[0.0, 3.0], 4, &config);
        let low = 3.0f64 * 10_000f64.powf(-0.5);
        let expected = [1.0, 1.0, 0.0, 0.0, 3f64.cos(), low.cos(), 3f64.sin(), low.sin()];
        for (got, expected) in waves.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} {expected}");
        }
        let flipped = UNetConfig { flip_sin_to_cos: false, ..config };
        assert_eq!(sinusoids(&[0.0], 4, &flipped), [0.0, 0.0, 1.0, 1.0]);
    }
}
