//! Writes one HTML page for a run's folder, with everything in it: tables, curves, images.

mod curves;
mod figures;
mod gallery;
mod html;
mod page;
mod series;
mod tables;

use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::members::inside;

pub use curves::charts;
pub use gallery::Shown;
pub use page::page;

/// The default path of a folder's page.
///
/// # Errors
/// [`Failure::Run`](crate::Failure::Run) if that path is a link, because it could lead out of the folder.
pub fn place(folder: &Path) -> Outcome<PathBuf> {
    inside(folder, "report.html")
}
