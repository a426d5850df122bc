//! Reads and writes files. No file is ever left half-written.

mod atomic;
mod decoded;
mod exif;
mod fit;
mod input;
mod latents;
mod masks;
mod metadata;
mod picture;
mod png;

pub use atomic::{NamedFile, OutputDir, OutputFile, check_distinct};
pub use input::{CONFIG_MOST, DATA_MOST, PROMPTS_MOST, read_bytes, read_from, read_text};
pub use latents::{LatentsFile, latents_bytes, read_latents};
pub use masks::{mask_metadata, masks_bytes, read_masks};
pub use metadata::{ImageFacts, text_chunks};
pub use picture::{Backdrop, Fitted, read_picture};
pub use png::{Picture, png_bytes, read_png};
