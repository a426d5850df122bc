//! Small drawings: text on pictures, mask overlays, contact sheets and charts.

mod chart;
mod overlay;
mod sheet;
mod text;

pub(crate) use chart::{Base, Chart, Form, Mark as ChartMark, Series};
pub(crate) use overlay::{Mask, enlarge, overlay};
pub(crate) use sheet::{Cell, Sheet};
