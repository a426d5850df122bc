//! The checkpoint that `--model` names, else the one that is built in, and sizes that go with it.

use std::path::{Path, PathBuf};

use atedm_core::plugin::Grid;
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::Decoding;
use atedm_sdxl::tokenizer::ClipTokenizer;
use atedm_sdxl::vae::TileOptions;

use crate::builtin::{self, Unpacked};
use crate::experiment::inputs::{Inputs, of_checkpoint};
use crate::failure::{Failure, Outcome};
use crate::method::Workload;
use crate::sample::decoding;
use crate::tell;

/// Longest side accepted, in pixels.
pub(crate) const LONGEST_SIDE: usize = 1 << 15;

/// An opened checkpoint: its configurations are read, its weights are not.
pub(crate) struct Model {
    pub(crate) checkpoint: Checkpoint,
    name: String,
    tokenizers: [ClipTokenizer; 2],
    /// The built-in model's files, which have to be there as long as they may be read.
    _unpacked: Option<Unpacked>,
}

impl Model {
    /// Opens a folder or, with the cargo feature `hub`, fetches a hub id; opens the built-in model if none is named. Of a hub id's
    /// files those of `variant` are fetched, where there are any.
    pub(crate) fn open(typed: Option<&str>, variant: Option<&str>) -> Outcome<Self> {
        let (folder, name, unpacked) = match typed.filter(|typed| !builtin::is_meant(typed)) {
            Some(typed) => (folder_of(typed, variant)?, named(typed), None),
            None => {
                let unpacked = builtin::unpack()?;
                (unpacked.folder(), unpacked.name().to_string(), Some(unpacked))
            }
        };
        let in_file = |error: atedm_core::Error| Failure::run(error);
        let checkpoint = Checkpoint::open(&folder, OpenOptions::default()).map_err(in_file)?;
        let tokenizers = checkpoint.tokenizers().map_err(in_file)?;
        Ok(Self { checkpoint, tokenizers, name, _unpacked: unpacked })
    }

    /// As the user named it, without the folders above it; of the built-in one its name and hash.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Width and height in pixels: as asked for, else the checkpoint's own.
    pub(crate) fn size(&self, width: Option<usize>, height: Option<usize>) -> Outcome<(usize, usize)> {
        self.size_of([("--width", width), ("--height", height)])
    }

    /// [`Model::size`], under the names by which width and height were asked for.
    pub(crate) fn size_of(&self, asked: [(&str, Option<usize>); 2]) -> Outcome<(usize, usize)> {
        let factor = self.checkpoint.vae().factor();
        let own = self.checkpoint.unet().sample_size.map(|latents| latents * factor);
        pixels(factor, own, asked)
    }

    /// That the autoencoder can decode in tiles of so many pixels, asked for under this name.
    pub(crate) fn check_tiles(&self, asked: (&str, Option<usize>)) -> Outcome {
        let (name, pixels) = asked;
        let vae = self.checkpoint.vae();
        let Decoding::Tiled(Some(tiles)) = decoding(pixels, TileOptions::of(vae)) else { return Ok(()) };
        let fits = tiles.fits(vae.factor());
        fits.map_err(|error| Failure::from(error).within(name))
    }

    /// What the checkpoint is, by its content.
    pub(crate) fn inputs(&self) -> Outcome<Inputs> {
        Ok(of_checkpoint(Some(self.checkpoint.identity().map_err(Failure::run)?)))
    }

    /// What counts and costs depend on, at this size.
    pub(crate) fn workload(&self, (width, height): (usize, usize), steps: usize) -> Workload<'_> {
        let factor = self.checkpoint.vae().factor();
        let latents = Grid::new(height / factor, width / factor);
        Workload {
            unet: self.checkpoint.unet(),
            latents,
            text: self.tokenizers[0].length(),
            steps,
            scheduler: self.checkpoint.scheduler(),
            sampler: None,
        }
    }

    /// Warns of prompts that do not fit the text encoders, before anything runs.
    pub(crate) fn warn_of_long_prompts<'a>(&self, prompts: impl Iterator<Item = &'a String>) -> Outcome {
        for prompt in prompts {
            for (number, tokenizer) in self.tokenizers.iter().enumerate() {
                let (cut, context) = (tokenizer.encode(prompt)?.cut, tokenizer.length());
                if cut > 0 {
                    let encoder = number + 1;
                    tell::warning(format_args!(
                        "text encoder {encoder} takes {context} tokens: the last {cut} of {prompt:?} are cut off"
                    ));
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Width and height: as asked for under these flags, else `own`; each a multiple of 8 that the autoencoder's `factor` can make.
pub(crate) fn pixels(
    factor: usize,
    own: Option<usize>,
    asked: [(&str, Option<usize>); 2],
) -> Outcome<(usize, usize)> {
    let side = |(flag, asked): (&str, Option<usize>)| {
        let Some(pixels) = asked.or(own) else {
            return Err(Failure::usage(format!(
                "{flag}: expected a number of pixels: the checkpoint names no size"
            )));
        };
        if asked.is_none() && pixels > LONGEST_SIDE {
            return Err(Failure::usage(format!(
                "{flag}: expected a number of pixels up to {LONGEST_SIDE}: the checkpoint's own sample_size makes {pixels}"
            )));
        }
        if pixels % 8 != 0 || pixels < factor.max(8) || pixels > LONGEST_SIDE {
            let least = factor.max(8);
            return Err(Failure::usage(format!(
                "{flag}: expected a multiple of 8 from {least} to {LONGEST_SIDE}, got {pixels}"
            )));
        }
        Ok(pixels)
    };
    let [width, height] = asked;
    Ok((side(width)?, side(height)?))
}

/// A folder without those above it; a hub id as it is.
fn named(typed: &str) -> String {
    let path = Path::new(typed);
    let name = path.file_name().and_then(|name| name.to_str()).filter(|_| path.exists());
    name.unwrap_or(typed).to_string()
}

#[cfg(feature = "hub")]
fn folder_of(typed: &str, variant: Option<&str>) -> Outcome<PathBuf> {
    use atedm_sdxl::hub::{HubSettings, is_hub_id, snapshot};
    if is_hub_id(typed) {
        return Ok(snapshot(typed, variant, &HubSettings::from_environment())?);
    }
    Ok(PathBuf::from(typed))
}

#[cfg(not(feature = "hub"))]
fn folder_of(typed: &str, _variant: Option<&str>) -> Outcome<PathBuf> {
    let path = Path::new(typed);
    let like_a_hub_id = typed.split('/').count() == 2
        && typed.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if !path.exists() && like_a_hub_id {
        let reason = "no such folder, and for a hub id this build lacks the cargo feature `hub`";
        return Err(Failure::file(path, reason));
    }
    Ok(path.to_path_buf())
}
