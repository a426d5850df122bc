//! The largest numbers that a configuration may hold. They are far above those of any model. They are also small enough
//! that counting and listing the described parts needs little time and memory. The limits are checked before anything
//! is built.

use atedm_core::Result;

use super::Fields;

/// Channels of any layer.
pub(super) const CHANNELS: usize = 1 << 16;
/// Resnets or blocks of one stage.
pub(super) const LAYERS: usize = 64;
/// Transformer layers of one attention block.
pub(super) const DEPTH: usize = 256;
/// Transformer layers of a whole U-Net.
pub(super) const ALL_DEPTHS: usize = 4096;
/// A convolution's kernel, in one dimension.
pub(super) const KERNEL: usize = 63;
/// Layers of a text encoder.
pub(super) const TEXT_LAYERS: usize = 256;
/// Tokens of a prompt. A text encoder stores its whole attention map.
pub(super) const CONTEXT: usize = 4096;

/// Refuses values of `name` above `most`.
pub(super) fn at_most(fields: &Fields, name: &str, values: &[usize], most: usize) -> Result<()> {
    match values.iter().find(|value| **value > most) {
        Some(value) => Err(fields.error(name, format!("expected at most {most}, got {value}"))),
        None => Ok(()),
    }
}
