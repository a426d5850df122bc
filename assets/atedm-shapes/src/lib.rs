#![doc = include_str!("../README.md")]
//!
//! # The crate
//!
//! [`FILES`] is the model's folder as diffusers lays it out, [`write()`] puts it on the disk:
//!
//! ```
//! let folder = std::env::temp_dir().join(format!("atedm-shapes-{}", std::process::id()));
//! atedm_shapes::write(&folder)?;
//! assert!(folder.join("unet/diffusion_pytorch_model.safetensors").exists());
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! It has no features. The weights of the U-Net are cut in two: a package on crates.io holds 10 MiB at most. The second
//! part is the crate `atedm-shapes-unet`.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// A file of the model.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct File {
    /// Its path below the model's folder, with `/` between the parts.
    pub path: &'static str,
    /// Its content, in order.
    pub parts: &'static [&'static [u8]],
}

macro_rules! whole {
    ($path:literal) => {
        File { path: $path, parts: &[include_bytes!(concat!("../", $path))] }
    };
}

/// The beginning of the U-Net's weights.
static FIRST_PART: &[u8] = include_bytes!("../unet/diffusion_pytorch_model.safetensors.part-1");

/// All files that a pipeline reads, by path.
pub static FILES: &[File] = &[
    whole!("model_index.json"),
    whole!("scheduler/scheduler_config.json"),
    whole!("text_encoder/config.json"),
    whole!("text_encoder/model.safetensors"),
    whole!("text_encoder_2/config.json"),
    whole!("text_encoder_2/model.safetensors"),
    whole!("tokenizer/merges.txt"),
    whole!("tokenizer/special_tokens_map.json"),
    whole!("tokenizer/tokenizer_config.json"),
    whole!("tokenizer/vocab.json"),
    whole!("tokenizer_2/merges.txt"),
    whole!("tokenizer_2/special_tokens_map.json"),
    whole!("tokenizer_2/tokenizer_config.json"),
    whole!("tokenizer_2/vocab.json"),
    whole!("unet/config.json"),
    File {
        path: "unet/diffusion_pytorch_model.safetensors",
        parts: &[FIRST_PART, atedm_shapes_unet::SECOND_PART],
    },
    whole!("vae/config.json"),
    whole!("vae/diffusion_pytorch_model.safetensors"),
];

/// Writes all files into `folder`, which is made if it is missing.
///
/// # Errors
///
/// What the file system says. Files that were already written stay.
pub fn write(folder: &Path) -> io::Result<()> {
    for file in FILES {
        let path = folder.join(file.path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let mut open = fs::File::create(path)?;
        for part in file.parts {
            open.write_all(part)?;
        }
    }
    Ok(())
}
