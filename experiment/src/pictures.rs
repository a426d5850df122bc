//! The unpruned pictures for comparison, from this process or from the run's folder.

use std::collections::btree_map::{BTreeMap, Entry};
use std::path::Path;

use super::distance::{l2, psnr, ssim};
use super::record::Distances;
use crate::engine::FinishedImage;
use crate::failure::{Failure, Outcome};
use crate::files::{LatentsFile, Picture, read_latents, read_png};

/// The files of an unpruned image.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceFiles<'a> {
    /// The picture.
    pub picture: &'a Path,
    /// Its final latents.
    pub latents: &'a Path,
}

/// A picture with its latents.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Its record's id.
    pub id: String,
    /// The picture.
    pub picture: Picture,
    /// Its final latents.
    pub latents: LatentsFile,
}

impl Reference {
    /// Reads both files. They must have the size of `like`, another image of the run.
    pub fn read(id: &str, files: ReferenceFiles<'_>, like: &FinishedImage<'_>) -> Outcome<Self> {
        let picture = read_png(files.picture, like.picture.size())?;
        Ok(Self { id: id.into(), picture, latents: read_latents(files.latents, like.latents.shape)? })
    }

    /// The distances of another picture of the same size to this one.
    pub fn distances(&self, picture: &Picture, latents: &LatentsFile) -> Outcome<Distances> {
        let [own, other] = [&self.picture, picture].map(Picture::size);
        if own != other {
            return Err(Failure::run(format!(
                "{}: expected the unpruned picture to have {other} pixels, got {own}",
                self.id
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

/// The unpruned images of the current prompt, with which the others are compared.
#[derive(Debug, Default)]
pub struct References {
    by_place: BTreeMap<usize, Reference>,
}

impl References {
    /// The distances of an image to the unpruned one; `None` if the image is not compared. The unpruned image is made
    /// first. If another process made it, `read` finds it by its id.
    ///
    /// # Errors
    /// The errors of `read`, and [`Failure::Run`] for pictures of two sizes.
    pub fn distances(
        &mut self,
        image: &FinishedImage<'_>,
        read: impl FnOnce(&str) -> Outcome<Reference>,
    ) -> Outcome<Option<Distances>> {
        let (Some(place), Some(point)) = (image.point.reference, &image.point.info.reference) else {
            return Ok(None);
        };
        self.forget_but(&image.prompt.id);
        let reference = match self.by_place.entry(place) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(read(&format!("{point}/{}", image.prompt.id))?),
        };
        reference.distances(&image.picture, &image.latents).map(Some)
    }

    /// Stores an image if others are compared with it.
    pub fn keep(&mut self, image: &FinishedImage<'_>) {
        if image.point.is_reference {
            self.forget_but(&image.prompt.id);
            let (picture, latents) = (image.picture.clone(), image.latents.clone());
            self.by_place.insert(image.place, Reference { id: image.id(), picture, latents });
        }
    }

    /// Drops the images of other prompts.
    fn forget_but(&mut self, prompt: &str) {
        self.by_place.retain(|_, reference| reference.id.ends_with(&format!("/{prompt}")));
    }
}

/// The error for an unpruned image that does not exist.
pub fn missing(id: &str) -> Failure {
    Failure::run(format!("{id}: expected this image before those compared with it"))
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
