//! Unpruned pictures that others are compared with: of this process, else from the run's folder.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::distance::{l2, psnr, ssim};
use super::record::Distances;
use crate::failure::{Failure, Outcome};
use crate::files::{LatentsFile, Picture, read_latents};

/// A picture with its latents.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    /// Its record's id.
    pub(crate) id: String,
    pub(crate) picture: Picture,
    pub(crate) latents: LatentsFile,
}

impl Reference {
    /// Reads both files.
    pub(crate) fn read(id: &str, picture: &Path, latents: &Path, shape: [usize; 4]) -> Outcome<Self> {
        Ok(Self { id: id.into(), picture: read_png(picture)?, latents: read_latents(latents, shape)? })
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

/// An 8-bit RGB picture, as this program writes them.
pub(crate) fn read_png(path: &Path) -> Outcome<Picture> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let failed = |error: png::DecodingError| Failure::file(path, format!("expected a PNG picture: {error}"));
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(failed)?;
    if reader.output_color_type() != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(Failure::file(path, "expected a PNG picture in 8-bit RGB"));
    }
    let size =
        reader.output_buffer_size().ok_or_else(|| Failure::file(path, "expected a smaller picture"))?;
    let mut rgb = vec![0; size];
    let frame = reader.next_frame(&mut rgb).map_err(failed)?;
    Ok(Picture { width: frame.width as usize, height: frame.height as usize, rgb })
}
