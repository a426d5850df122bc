//! Unpruned pictures that others are compared with: of this process, else from the run's folder.

use std::path::Path;

use super::distance::{l2, psnr, ssim};
use super::record::Distances;
use crate::failure::Outcome;
use crate::files::{LatentsFile, Picture, read_latents, read_png};

/// A picture with its latents.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    /// Its record's id.
    pub(crate) id: String,
    pub(crate) picture: Picture,
    pub(crate) latents: LatentsFile,
}

impl Reference {
    /// Reads both files, which must be of the size of another image of the run.
    pub(crate) fn read(
        id: &str,
        (picture, latents): (&Path, &Path),
        (like, shape): (&Picture, [usize; 4]),
    ) -> Outcome<Self> {
        let picture = read_png(picture, (like.width, like.height))?;
        Ok(Self { id: id.into(), picture, latents: read_latents(latents, shape)? })
    }

    /// How far another picture is from this one.
    pub(crate) fn distances(&self, picture: &Picture, latents: &LatentsFile) -> Distances {
        let (latent_l2, latent_l2_relative) = l2(&latents.values, &self.latents.values);
        Distances {
            to: self.id.clone(),
            psnr: psnr(picture, &self.picture),
            ssim: ssim(picture, &self.picture),
            latent_l2,
            latent_l2_relative,
        }
    }
}
