//! The list of files beside the folder, and the two parts of the U-Net's weights put together.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use atedm_shapes::FILES;
use sha2::{Digest, Sha256};

/// What is in the folder for readers and for the crate, not for a pipeline.
const OF_THE_CRATE: [&str; 4] = ["src", "examples", "tests", "target"];

#[test]
fn the_list_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                if !OF_THE_CRATE.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if folder != root || name == "model_index.json" {
                found.push(name.trim_end_matches(".part-1").to_string());
            }
        }
    }
    found.sort();
    assert_eq!(found, FILES.iter().map(|file| file.path).collect::<Vec<_>>());
}

/// The hash of the file that was trained, before it was cut.
#[test]
fn both_parts_are_the_file_that_was_cut() {
    let file = FILES.iter().find(|file| file.path == "unet/diffusion_pytorch_model.safetensors").unwrap();
    let hash: String = Sha256::digest(file.parts.concat()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "b4771c1540eb1ea236ed2d92d0f1949d8c82eb7e7efd43b5b99eacc740f52bc8");
}
