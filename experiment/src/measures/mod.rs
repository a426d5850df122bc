//! What a run's images measure: means with intervals, differences to a baseline, Pareto fronts, tables for papers.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use atedm_experiment::gathered::Gathered;
//! use atedm_experiment::measures::{Baseline, Directions, Format, Measures, Summary};
//!
//! # fn main() -> atedm_experiment::Outcome {
//! let run = Gathered::read(Path::new("fig10"))?;
//! let mut measures = Measures::of(&run);
//! measures.join(Path::new("clip.csv"), &Directions::new())?;
//! let summary = Summary::new(&measures, Some(&Baseline::Unpruned), None)?;
//! for row in &summary.rows {
//!     println!("{}: {:?} TFLOP", row.label, row.tflop.map(|mean| mean.value));
//! }
//! println!("{}", summary.table(Format::Latex)?);
//! # Ok(())
//! # }
//! ```

mod csv_table;
mod draws;
mod mean;
mod metric;
mod outside;
mod paired;
mod run;
mod summary;
mod table;
mod unit;

#[cfg(test)]
pub(crate) mod tests;

pub use mean::{Mean, REPLICATES};
pub use metric::{Better, Metric};
pub use outside::Directions;
pub use paired::{Difference, front};
pub use run::Measures;
pub use summary::{Baseline, MetricRow, OnFront, Summary, SummaryRow};
pub use table::Format;
pub use unit::Unit;
