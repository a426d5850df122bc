//! An opened checkpoint whose weights are not loaded, and the sizes that fit it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use atedm_core::plugin::Grid;
use atedm_core::reference::NdTensor;
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::Decoding;
use atedm_sdxl::schedulers::SamplerRegistry;
use atedm_sdxl::vae::TileOptions;

use crate::extension::Extension;
use crate::failure::{Failure, Outcome};
use crate::inputs::{Inputs, of_checkpoint};
use crate::method::{ControlSteps, GUIDANCE_SCALE, Workload};
use crate::parts::{Parts, name_of};
use crate::texts::Texts;

/// The longest side accepted, in pixels.
pub const LONGEST_SIDE: usize = 1 << 15;

/// A picture's size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Size {
    /// The grid of latents that an autoencoder with this factor decodes to a picture of this size.
    pub fn latents(self, factor: usize) -> Grid {
        Grid::new(self.height / factor, self.width / factor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.width, self.height)
    }
}

/// An optional number of pixels from the user, with the key or flag that sets it.
#[derive(Debug, Clone, Copy)]
pub struct AskedPixels<'a> {
    /// The key, for messages.
    pub key: &'a str,
    /// The number; `None` means the checkpoint's own.
    pub pixels: Option<usize>,
}

/// An optional width and height from the user.
#[derive(Debug, Clone, Copy)]
pub struct AskedSize<'a> {
    /// Width in pixels.
    pub width: AskedPixels<'a>,
    /// Height in pixels.
    pub height: AskedPixels<'a>,
}

impl AskedSize<'_> {
    /// The requested width and height, or `own`. Each must be a multiple of 8 that the autoencoder's `factor` can make.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the key of a wrong side.
    pub fn or_own(self, factor: usize, own: Option<usize>) -> Outcome<Size> {
        Ok(Size { width: self.width.or_own(factor, own)?, height: self.height.or_own(factor, own)? })
    }
}

impl AskedPixels<'_> {
    fn or_own(self, factor: usize, own: Option<usize>) -> Outcome<usize> {
        let Self { key, pixels: asked } = self;
        let Some(pixels) = asked.or(own) else {
            return Err(Failure::usage(format!(
                "{key}: expected a number of pixels: the checkpoint names no size"
            )));
        };
        if asked.is_none() && pixels > LONGEST_SIDE {
            return Err(Failure::usage(format!(
                "{key}: expected a number of pixels up to {LONGEST_SIDE}: the checkpoint's own sample_size makes {pixels}"
            )));
        }
        if pixels % 8 != 0 || pixels < factor.max(8) || pixels > LONGEST_SIDE {
            let least = factor.max(8);
            return Err(Failure::usage(format!(
                "{key}: expected a multiple of 8 from {least} to {LONGEST_SIDE}, got {pixels}"
            )));
        }
        Ok(pixels)
    }
}

/// An opened checkpoint. Its configurations are read; its weights are not.
pub struct Model {
    /// The configurations and the paths of the files.
    pub checkpoint: Checkpoint,
    name: String,
    parts: Parts,
    texts: Texts,
    samplers: SamplerRegistry<NdTensor>,
    /// An object that must live as long as the files may be read.
    held: Option<Box<dyn Any + Send>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Model {
    /// Opens a folder that diffusers wrote, or a single safetensors file. Results use its name.
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file that is missing or broken.
    pub fn open(folder: &Path) -> Outcome<Self> {
        Self::named(folder, name_of(folder), OpenOptions::default())
    }

    /// Like [`Model::open`], with another name in results, and with files that replace parts of the checkpoint.
    ///
    /// # Errors
    /// The errors of [`Model::open`]. [`Failure::Run`] naming a file of `options` that is missing, broken or does not fit.
    pub fn named(folder: &Path, name: impl Into<String>, options: OpenOptions) -> Outcome<Self> {
        let parts = Parts::of(&options);
        let checkpoint = Checkpoint::open(folder, options).map_err(Failure::run)?;
        let texts = Texts::of(&checkpoint)?;
        let samplers = SamplerRegistry::with_builtins();
        Ok(Self { checkpoint, parts, texts, name: name.into(), samplers, held: None })
    }

    /// Adds an extension's samplers and prompt syntaxes to the known ones.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a name is taken.
    pub fn extended(mut self, extension: &impl Extension) -> Outcome<Self> {
        extension.samplers(&mut self.samplers)?;
        self.texts = self.texts.extended(extension)?;
        Ok(self)
    }

    /// Stores `what` as long as the model lives, such as the guard of a temporary folder.
    #[must_use]
    pub fn holding(mut self, what: impl Any + Send) -> Self {
        self.held = Some(Box::new(what));
        self
    }

    /// The model's name in results.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files that replace parts of the checkpoint, as results name them.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The words of its textual inversions, each with the hash of its file.
    pub fn embeddings(&self) -> BTreeMap<String, String> {
        let named = self.checkpoint.embeddings().iter();
        named.map(|embedding| (embedding.word().to_string(), embedding.hash().to_string())).collect()
    }

    /// What reads prompts for this model.
    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The requested width and height in pixels, or the checkpoint's own.
    ///
    /// # Errors
    /// The errors of [`AskedSize::or_own`].
    pub fn size(&self, asked: AskedSize<'_>) -> Outcome<Size> {
        let factor = self.checkpoint.vae().factor();
        let own = self.checkpoint.unet().sample_size.map(|latents| latents * factor);
        asked.or_own(factor, own)
    }

    /// Checks that the autoencoder can decode in tiles of this size.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the key.
    pub fn check_tiles(&self, asked: AskedPixels<'_>) -> Outcome {
        let vae = self.checkpoint.vae();
        let Decoding::Tiled(Some(tiles)) = decoding(asked.pixels, TileOptions::of(vae)) else {
            return Ok(());
        };
        let fits = tiles.fits(vae.factor());
        fits.map_err(|error| Failure::from(error).within(asked.key))
    }

    /// The hash of the checkpoint's content.
    ///
    /// # Errors
    /// [`Failure::Run`] naming a file that cannot be read.
    pub fn inputs(&self) -> Outcome<Inputs> {
        Ok(of_checkpoint(Some(self.checkpoint.identity().map_err(Failure::run)?)))
    }

    /// The properties that token counts and costs depend on, at this size. The run is guided if the U-Net allows it.
    pub fn workload(&self, size: Size, steps: usize) -> Workload<'_> {
        Workload {
            unet: self.checkpoint.unet(),
            latents: size.latents(self.checkpoint.vae().factor()),
            text: self.texts.chunk(),
            steps,
            scheduler: self.checkpoint.scheduler(),
            samplers: &self.samplers,
            sampler: None,
            guided: self.checkpoint.unet().is_guided(GUIDANCE_SCALE),
            control: ControlSteps::ALL,
        }
    }
}

/// Decodes whole images, or tiles of this many pixels with the overlap of the autoencoder's `own` tiles.
pub(crate) fn decoding(tiles: Option<usize>, own: TileOptions) -> Decoding {
    match tiles {
        Some(size) => Decoding::Tiled(Some(TileOptions { size, ..own })),
        None => Decoding::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_overlap_as_the_autoencoders_own() {
        for overlap in [0.25, 0.125] {
            let tiles = decoding(Some(64), TileOptions { size: 512, overlap });
            assert_eq!(tiles, Decoding::Tiled(Some(TileOptions { size: 64, overlap })));
        }
        assert_eq!(decoding(None, TileOptions { size: 512, overlap: 0.25 }), Decoding::Whole);
    }
}
