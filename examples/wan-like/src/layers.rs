//! Linear layers and norms.

use atedm_core::{NnOps, Result, Weights};

/// A linear layer with a bias.
#[derive(Debug, Clone)]
pub struct Linear<T> {
    weight: T,
    bias: T,
}

impl<T: NnOps> Linear<T> {
    /// Loads a layer from `inputs` to `outputs` channels.
    pub fn load(weights: &Weights<T>, inputs: usize, outputs: usize) -> Result<Self> {
        Self::load_shaped(weights, &[outputs, inputs])
    }

    /// Loads a layer whose weight is stored in another shape. The first axis of that shape is the outputs.
    pub fn load_shaped(weights: &Weights<T>, shape: &[usize]) -> Result<Self> {
        let [outputs, inputs] = [shape[0], shape[1..].iter().product()];
        // some libraries pack it for their fastest product
        let weight = weights.tensor("weight", shape)?.reshape(&[outputs, inputs])?.linear_weight()?;
        Ok(Self { weight, bias: weights.tensor("bias", &[outputs])? })
    }

    /// `[.., inputs]` → `[.., outputs]`.
    pub fn forward(&self, x: &T) -> Result<T> {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// A layer norm over channels.
#[derive(Debug, Clone)]
pub struct LayerNorm<T> {
    weight: T,
    bias: T,
    epsilon: f64,
}

impl<T: NnOps> LayerNorm<T> {
    /// Loads a norm with learnt weight and bias.
    pub fn load(weights: &Weights<T>, channels: usize, epsilon: f64) -> Result<Self> {
        let [weight, bias] = ["weight", "bias"].map(|name| weights.tensor(name, &[channels]));
        Ok(Self { weight: weight?, bias: bias?, epsilon })
    }

    /// A norm without weights, of the dtype and on the device of `like`.
    pub fn plain(like: &T, channels: usize, epsilon: f64) -> Result<Self> {
        let all = |value| T::full(value, &[channels], like.dtype(), &like.device());
        Ok(Self { weight: all(1.0)?, bias: all(0.0)?, epsilon })
    }

    /// `[.., channels]`, each row with mean 0 and variance 1.
    pub fn forward(&self, x: &T) -> Result<T> {
        x.layer_norm(&self.weight, &self.bias, self.epsilon)
    }
}

/// A root-mean-square norm over all heads' channels together.
#[derive(Debug, Clone)]
pub struct RmsNorm<T> {
    weight: T,
    epsilon: f64,
}

impl<T: NnOps> RmsNorm<T> {
    /// Loads a norm.
    pub fn load(weights: &Weights<T>, channels: usize, epsilon: f64) -> Result<Self> {
        Ok(Self { weight: weights.tensor("weight", &[channels])?.reshape(&[1, 1, channels])?, epsilon })
    }

    /// `x / sqrt(mean(x²) + ε) * weight` for `[b, n, channels]`.
    pub fn forward(&self, x: &T) -> Result<T> {
        let size = x.mul(x)?.mean(2)?.affine(1.0, self.epsilon)?.sqrt()?;
        x.div(&size)?.mul(&self.weight)
    }
}

/// GELU in the tanh approximation, `x σ(2u)` with `u = √(2/π) (x + 0.044715 x³)`.
pub fn gelu_tanh<T: NnOps>(x: &T) -> Result<T> {
    let cubic = x.mul(x)?.affine(0.044715, 1.0)?.mul(x)?;
    let scale = -2.0 * (2.0 / std::f64::consts::PI).sqrt();
    x.div(&cubic.affine(scale, 0.0)?.exp()?.affine(1.0, 1.0)?)
}

/// A norm's shift and scale, and a sublayer's gate, each `[b, 1, channels]`.
#[derive(Debug, Clone)]
pub struct Modulation<T> {
    /// Added after the norm.
    pub shift: T,
    /// The factor after the norm, minus one.
    pub scale: T,
    /// Multiplied with the sublayer's output.
    pub gate: T,
}

/// `x * (1 + scale) + shift`.
pub fn modulate<T: NnOps>(x: &T, shift: &T, scale: &T) -> Result<T> {
    x.mul(&scale.affine(1.0, 1.0)?)?.add(shift)
}
