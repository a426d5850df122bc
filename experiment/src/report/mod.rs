//! One HTML page of a run's folder, with everything in it: tables, curves, images.

mod curves;
mod figures;
mod gallery;
mod html;
mod page;
mod tables;

use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::members::inside;

pub use gallery::Shown;
pub use page::page;

/// Where a folder's page lies, unless somebody wants it elsewhere.
///
/// # Errors
/// [`Failure::Run`](crate::Failure::Run) if a link lies there, which could lead out of the folder.
pub fn place(folder: &Path) -> Outcome<PathBuf> {
    inside(folder, "report.html")
}
