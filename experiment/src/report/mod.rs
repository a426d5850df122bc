//! One HTML page of a run's folder, with everything in it: tables, curves, images.

mod curves;
mod figures;
mod gallery;
mod html;
mod page;
mod tables;

pub use gallery::Shown;
pub use page::page;
