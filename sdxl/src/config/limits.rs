//! The largest numbers that a configuration may hold: far beyond any model's, and small enough that counting and listing what
//! they describe takes neither long nor much memory. They are checked before anything is made of them.

use atedm_core::Result;

use super::Fields;

/// Channels of anything.
pub(super) const CHANNELS: usize = 1 << 16;
/// Resnets or blocks of one stage.
pub(super) const LAYERS: usize = 64;
/// Transformer layers of one attention block.
pub(super) const DEPTH: usize = 256;
/// Transformer layers of a whole U-Net.
pub(super) const ALL_DEPTHS: usize = 4096;
/// A convolution's kernel, along one side.
pub(super) const KERNEL: usize = 63;
/// Layers of a text encoder.
pub(super) const TEXT_LAYERS: usize = 256;
/// Tokens of a prompt: a text encoder's attention map is made whole.
pub(super) const CONTEXT: usize = 4096;

/// Refuses values of `name` above `most`.
pub(super) fn at_most(fields: &Fields, name: &str, values: &[usize], most: usize) -> Result<()> {
    match values.iter().find(|value| **value > most) {
        Some(value) => Err(fields.error(name, format!("expected at most {most}, got {value}"))),
        None => Ok(()),
    }
}
