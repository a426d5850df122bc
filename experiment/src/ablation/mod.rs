//! A configuration's images in a folder. One machine or several make the images that are missing.

mod archive;
mod run;
mod stock;
mod written;

pub use archive::Before;
pub use run::{Ablated, Ablation};
pub use written::Written;
