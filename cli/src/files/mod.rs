//! Files that are read and written: nothing half-written is ever left behind.

mod atomic;
mod latents;
mod masks;
mod metadata;
mod png;

pub(crate) use atomic::{NamedFile, OutputDir, OutputFile, check_distinct};
pub(crate) use latents::{LatentsFile, latents_bytes, read_latents};
pub(crate) use masks::{mask_metadata, masks_bytes, read_masks};
pub(crate) use metadata::{ImageFacts, text_chunks};
pub(crate) use png::{Picture, png_bytes, read_png};
