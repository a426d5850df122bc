//! Unpruned pictures that others are compared with: of this process, else from the run's folder.

use std::path::Path;

use super::distance::{l2, psnr, ssim};
use super::record::Distances;
use crate::failure::{Failure, Outcome};
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

    /// How far another picture of the same size is from this one.
    pub(crate) fn distances(&self, picture: &Picture, latents: &LatentsFile) -> Outcome<Distances> {
        let [own, other] = [&self.picture, picture].map(|picture| (picture.width, picture.height));
        if own != other {
            return Err(Failure::run(format!(
                "{}: expected the unpruned picture to have {} x {} pixels, got {} x {}",
                self.id, other.0, other.1, own.0, own.1
            )));
        }
        let (latent_l2, latent_l2_relative) = l2(&latents.values, &self.latents.values);
        Ok(Distances {
            to: self.id.clone(),
            psnr: psnr(picture, &self.picture),
            ssim: ssim(picture, &self.picture),
            latent_l2,
            latent_l2_relative,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_two_sizes_have_no_distance() {
        let latents = LatentsFile { shape: [1, 1, 1, 1], values: vec![1.0] };
        let picture = Picture::filled(8, 8, [9; 3]);
        let reference =
            Reference { id: "none/fox".into(), picture: picture.clone(), latents: latents.clone() };
        assert_eq!(reference.distances(&picture, &latents).unwrap().psnr, None);
        let error = reference.distances(&Picture::filled(8, 16, [9; 3]), &latents).unwrap_err();
        assert_eq!(
            error.to_string(),
            "none/fox: expected the unpruned picture to have 8 x 16 pixels, got 8 x 8"
        );
    }
}
