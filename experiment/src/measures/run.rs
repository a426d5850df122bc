//! The measures of a run's images: those of its records, and those of files.

use std::collections::BTreeMap;
use std::path::Path;

use super::metric::{DISTANCES, Metric};
use super::outside::{Column, Directions, read, whole_id};
use crate::failure::{Failure, Outcome};
use crate::gathered::Gathered;
use crate::record::{Provenance, Record};

/// The measures of a run's images.
#[derive(Debug)]
pub struct Measures<'a> {
    run: &'a Gathered,
    metrics: Vec<Metric>,
    outside: Vec<Column>,
    machine: Option<String>,
}

impl<'a> Measures<'a> {
    /// The distances that the run's records have.
    #[must_use]
    pub fn of(run: &'a Gathered) -> Self {
        let mut machines: BTreeMap<String, usize> = BTreeMap::new();
        for image in run.records.values() {
            *machines.entry(machine_of(&image.record.provenance)).or_default() += 1;
        }
        // of those with the most images, the first by name
        let most = machines.into_iter().rev().max_by_key(|(_, images)| *images);
        let metrics = DISTANCES.iter().map(|distance| distance.metric()).collect();
        Self { run, metrics, outside: Vec::new(), machine: most.map(|(name, _)| name) }
    }

    /// Adds the measures of a `.csv`, `.tsv` or `.jsonl` file with columns `point` and `prompt`. Every other column is a
    /// measure. Its direction is in its name, as in `lpips:lower`, or in `directions`. Without `prompt`, a value is of a point as
    /// a whole.
    ///
    /// # Errors
    /// One line with the file and the line: an unknown point or prompt, a line that occurs twice, a value that is not a finite
    /// number, a column without a direction, or one that another file or the run has.
    pub fn join(&mut self, path: &Path, directions: &Directions) -> Outcome {
        for column in read(path, directions, self.run)? {
            let same = |name: &str| name.eq_ignore_ascii_case(&column.metric.key);
            if self.metrics.iter().any(|metric| same(&metric.key) || same(&metric.name)) {
                let reason =
                    format!("column {}: expected a measure that is not there yet", column.metric.key);
                return Err(Failure::usage(reason).within(path.display()));
            }
            self.metrics.push(column.metric.clone());
            self.outside.push(column);
        }
        Ok(())
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> &'a Gathered {
        self.run
    }

    /// All measures, in the order of tables.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The machine that made most images. Times are of its images only.
    #[must_use]
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// The value of a measure, by its place in [`Measures::metrics`], for the ids of a point and a prompt. The PSNR of an image
    /// that equals the unpruned one is infinite.
    #[must_use]
    pub fn value(&self, metric: usize, point: &str, prompt: &str) -> Option<f64> {
        match DISTANCES.get(metric) {
            Some(distance) => distance.value(&self.run.image(point, prompt)?.record),
            None => {
                let column = self.outside.get(metric - DISTANCES.len())?;
                column.values.get(&format!("{point}/{prompt}")).copied()
            }
        }
    }

    /// The value of a measure for a point as a whole, if a file has one.
    #[must_use]
    pub fn whole(&self, metric: usize, point: &str) -> Option<f64> {
        self.outside.get(metric.checked_sub(DISTANCES.len())?)?.values.get(&whole_id(point)).copied()
    }

    /// The seconds per step of an image, if it was made on [`Measures::machine`].
    pub(super) fn seconds_per_step(&self, record: &Record) -> Option<f64> {
        let here = self.machine.as_deref() == Some(machine_of(&record.provenance).as_str());
        here.then_some(record.times.seconds_per_step)
    }
}

/// The GPU, or else the processor and the number of its threads.
fn machine_of(by: &Provenance) -> String {
    match &by.gpu {
        Some(gpu) => gpu.clone(),
        None if by.device == "cpu" => format!("{}, {} threads", by.cpu, by.threads),
        None => format!("{}, {}", by.device, by.cpu),
    }
}
