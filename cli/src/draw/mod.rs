//! Small drawings: text on pictures, mask overlays, contact sheets and line charts.

mod chart;
mod overlay;
mod sheet;
mod text;

pub(crate) use chart::{Chart, Series};
pub(crate) use overlay::{Mask, enlarge, overlay};
pub(crate) use sheet::{Cell, Sheet};
