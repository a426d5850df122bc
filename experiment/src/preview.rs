//! Pictures of unfinished images, while a run makes them.

use std::path::PathBuf;

use atedm_core::Backend;
use atedm_sdxl::pipeline::{Images, Pipeline};
use atedm_sdxl::preview::Previewer;

use crate::failure::{Failure, Outcome};
use crate::files::Picture;

/// Which steps show pictures, and what takes them.
#[derive(Clone)]
pub struct Previews<'a> {
    /// A picture follows each step whose number, counted from 1, is a multiple of this. The last step shows none, as the image
    /// itself follows it.
    pub every: usize,
    /// The autoencoder that decodes the pictures. Without one, each latent becomes a pixel by a linear projection
    /// ([`Previewer::fitted`]).
    pub vae: Option<PathBuf>,
    /// Takes the pictures of a batch. A failure ends the run.
    pub show: &'a dyn Fn(Preview) -> Outcome,
}

/// The pictures of a batch after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Steps that are done in the full schedule.
    pub steps: usize,
    /// What each image of the batch becomes, as far as that step tells.
    pub pictures: Vec<Picture>,
}

impl Previews<'_> {
    /// Whether a picture follows step `index` of `total`, counted from 0.
    pub(crate) fn follows(&self, index: usize, total: usize) -> bool {
        let done = index + 1;
        done < total && done.is_multiple_of(self.every.max(1))
    }

    /// Prepares what turns latents into pictures.
    pub(crate) fn previewer<B: Backend>(&self, pipeline: &Pipeline<B>) -> Outcome<Previewer<B>> {
        let previewer = match &self.vae {
            Some(path) => Previewer::opened(path, pipeline),
            None => Previewer::fitted(pipeline),
        };
        previewer.map_err(|error| Failure::run(error).within("preview"))
    }
}

/// Every image as a picture.
///
/// # Errors
/// [`Failure::Run`] if an image is missing.
pub(crate) fn pictures_of(images: &Images) -> Outcome<Vec<Picture>> {
    let picture = |index: usize| {
        let rgb = images.rgb8(index).ok_or_else(|| Failure::run("the run decoded no image"))?;
        Ok(Picture { width: images.width, height: images.height, rgb })
    };
    (0..images.count).map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_step_but_the_last_shows_a_picture() {
        let shown = |every: usize| -> Vec<usize> {
            let previews = Previews { every, vae: None, show: &|_| Ok(()) };
            (0..6).filter(|index| previews.follows(*index, 6)).collect()
        };
        assert_eq!(
            (shown(1), shown(2), shown(3), shown(9)),
            (vec![0, 1, 2, 3, 4], vec![1, 3], vec![2], vec![])
        );
    }
}
