//! Unpruned pictures that others are compared with: of this process, else from the run's folder.

use std::collections::btree_map::{BTreeMap, Entry};
use std::path::Path;

use super::distance::{l2, psnr, ssim};
use super::record::Distances;
use crate::engine::FinishedImage;
use crate::failure::{Failure, Outcome};
use crate::files::{LatentsFile, Picture, read_latents, read_png};

/// Where an unpruned image lies.
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
    pub picture: Picture,
    pub latents: LatentsFile,
}

impl Reference {
    /// Reads both files, which must be of the size of another image of the run.
    pub fn read(id: &str, files: ReferenceFiles<'_>, like: &FinishedImage<'_>) -> Outcome<Self> {
        let picture = read_png(files.picture, like.picture.size())?;
        Ok(Self { id: id.into(), picture, latents: read_latents(files.latents, like.latents.shape)? })
    }

    /// How far another picture of the same size is from this one.
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

/// The unpruned images of the prompt at work, with which the others are compared.
#[derive(Debug, Default)]
pub struct References {
    by_place: BTreeMap<usize, Reference>,
}

impl References {
    /// How far an image is from the unpruned one, which is made before it; `read` finds one that this process did not make, by
    /// its id. `None` for images that are compared with none.
    ///
    /// # Errors
    /// What `read` reports, and [`Failure::Run`] for pictures of two sizes.
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

    /// Keeps an image if others are compared with it.
    pub fn keep(&mut self, image: &FinishedImage<'_>) {
        if image.point.is_reference {
            self.forget_but(&image.prompt.id);
            let (picture, latents) = (image.picture.clone(), image.latents.clone());
            self.by_place.insert(image.place, Reference { id: image.id(), picture, latents });
        }
    }

    /// Another prompt's images are not needed any more.
    fn forget_but(&mut self, prompt: &str) {
        self.by_place.retain(|_, reference| reference.id.ends_with(&format!("/{prompt}")));
    }
}

/// The error for an unpruned image that is nowhere.
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
