//! Checks whether an [`Architecture`] can be built.

use atedm_core::{Error, Result};

use super::{Architecture, Autoencoder, Text, UNet};

/// The largest size accepted. No model needs more, and larger sizes would only exhaust memory.
const MOST: usize = 1 << 16;
/// The largest number of levels accepted.
const LEVELS: usize = 8;

impl Architecture {
    /// Checks that all numbers fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field, relative to this table (`unet.groups`).
    pub fn check(&self) -> Result<()> {
        count("size", self.size, 1)?;
        count("context", self.context, 3)?;
        self.text.check()?;
        self.unet.check()?;
        self.vae.check()?;
        let coarsest = self.factor() << (self.unet.channels.len() - 1);
        if !self.size.is_multiple_of(coarsest) {
            let reason = format!(
                "expected a multiple of {coarsest} (the autoencoder's and the U-Net's levels halve the grid), got {}",
                self.size
            );
            return Err(Error::config("size", reason));
        }
        Ok(())
    }
}

impl Text {
    fn check(&self) -> Result<()> {
        for (name, values) in [("channels", self.channels), ("layers", self.layers), ("heads", self.heads)] {
            values.iter().try_for_each(|value| count(&format!("text.{name}"), *value, 1))?;
        }
        count("text.expansion", self.expansion, 1)?;
        count("text.projection", self.projection, 1)?;
        for (channels, heads) in self.channels.iter().zip(self.heads) {
            divides("text.heads", heads, *channels)?;
        }
        Ok(())
    }
}

impl UNet {
    fn check(&self) -> Result<()> {
        levels("unet.channels", &self.channels, 2)?;
        count("unet.layers", self.layers, 1)?;
        count("unet.head_channels", self.head_channels, 1)?;
        count("unet.groups", self.groups, 1)?;
        count("unet.size_channels", self.size_channels, 2)?;
        if self.depths.len() != self.channels.len() {
            let reason = format!(
                "expected one number for each of {} levels, got {}",
                self.channels.len(),
                self.depths.len()
            );
            return Err(Error::config("unet.depths", reason));
        }
        self.depths.iter().try_for_each(|depth| count("unet.depths", *depth, 0))?;
        if self.depths.last() == Some(&0) {
            let reason = "expected at least 1 at the last level: the middle has as many and needs one";
            return Err(Error::config("unet.depths", reason));
        }
        for (&channels, &depth) in self.channels.iter().zip(&self.depths) {
            divides("unet.groups", self.groups, channels)?;
            if depth > 0 {
                divides("unet.head_channels", self.head_channels, channels)?;
            }
        }
        for (name, value) in [
            ("unet.channels", self.channels.first().copied().unwrap_or(0)),
            ("unet.size_channels", self.size_channels),
        ] {
            if !value.is_multiple_of(2) {
                let reason = format!("expected an even number (sines and cosines), got {value}");
                return Err(Error::config(name, reason));
            }
        }
        Ok(())
    }
}

impl Autoencoder {
    fn check(&self) -> Result<()> {
        levels("vae.channels", &self.channels, 1)?;
        count("vae.layers", self.layers, 1)?;
        count("vae.groups", self.groups, 1)?;
        count("vae.latent_channels", self.latent_channels, 1)?;
        self.channels.iter().try_for_each(|channels| divides("vae.groups", self.groups, *channels))?;
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            let reason = format!("expected a number above 0, got {}", self.scaling_factor);
            return Err(Error::config("vae.scaling_factor", reason));
        }
        Ok(())
    }
}

fn count(field: &str, value: usize, least: usize) -> Result<()> {
    if (least..=MOST).contains(&value) {
        return Ok(());
    }
    Err(Error::config(field, format!("expected a whole number from {least} to {MOST}, got {value}")))
}

fn levels(field: &str, channels: &[usize], least: usize) -> Result<()> {
    if !(least..=LEVELS).contains(&channels.len()) {
        let reason = format!("expected {least} to {LEVELS} levels, got {}", channels.len());
        return Err(Error::config(field, reason));
    }
    channels.iter().try_for_each(|value| count(field, *value, 1))
}

fn divides(field: &str, divisor: usize, channels: usize) -> Result<()> {
    if channels.is_multiple_of(divisor) {
        return Ok(());
    }
    Err(Error::config(field, format!("{divisor} does not divide {channels} channels")))
}
