//! Files that are read and written: nothing half-written is ever left behind.

mod atomic;
mod input;
mod latents;
mod masks;
mod metadata;
mod png;

pub(crate) use atomic::{NamedFile, OutputDir, OutputFile, check_distinct};
pub(crate) use input::{CONFIG_MOST, DATA_MOST, PROMPTS_MOST, read_bytes, read_from, read_text};
pub(crate) use latents::{LatentsFile, latents_bytes, read_latents};
pub(crate) use masks::{mask_metadata, masks_bytes, read_masks};
pub(crate) use metadata::{ImageFacts, text_chunks};
pub(crate) use png::{Picture, png_bytes, read_png};
