//! Small drawings: text on pictures, mask overlays, contact sheets and charts.

mod chart;
mod overlay;
mod sheet;
mod text;

pub(crate) use chart::escaped;
pub use chart::{Base, Chart, Form, Mark as ChartMark, Series, View};
pub use overlay::{Mask, enlarge, overlay};
pub use sheet::{Cell, Sheet, SheetRow};
