//! A summary as CSV: every figure in a column of its own, with all its digits.

use super::mean::Mean;
use super::metric::Metric;
use super::summary::{MetricRow, Summary, SummaryRow};
use crate::failure::{Failure, Outcome};
use crate::grid::plain;

/// The name of the rows over all prompts.
pub(super) const ALL: &str = "all";

impl Summary {
    /// The summary as CSV.
    pub(super) fn csv(&self) -> Outcome<String> {
        let mut keys: Vec<&str> = Vec::new();
        for key in self.rows.iter().filter_map(|row| row.varied.as_object()).flat_map(|varied| varied.keys())
        {
            if !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        let mut heads: Vec<String> = ["point", "label", "grid"].map(String::from).to_vec();
        heads.extend(keys.iter().map(|key| format!("varied.{key}")));
        heads.extend(self.by.clone());
        let costs = ["images", "tflop", "unpruned_tflop", "seconds_per_step"];
        let ends = ["seconds_per_step_low", "seconds_per_step_high", "seconds_per_step_n", "machine"];
        heads.extend(costs.into_iter().chain(ends).map(String::from));
        for Metric { key, .. } in &self.metrics {
            let parts = ["", "_low", "_high", "_n", "_infinite", "_front_flops", "_front_time"];
            heads.extend(parts.map(|part| format!("{key}{part}")));
            if self.baseline.is_some() {
                let parts = ["", "_low", "_high", "_n"].map(|part| format!("{key}_difference{part}"));
                let rates = ["_win_rate", "_win_rate_low", "_win_rate_high", "_wins", "_ties", "_losses"];
                heads.extend(parts.into_iter().chain(rates.map(|part| format!("{key}{part}"))));
            }
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        let failed = |error: &dyn std::fmt::Display| Failure::run(format!("CSV: {error}"));
        writer.write_record(&heads).map_err(|error| failed(&error))?;
        for row in &self.rows {
            writer.write_record(self.csv_row(row, &keys)).map_err(|error| failed(&error))?;
        }
        let bytes = writer.into_inner().map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map_err(|error| failed(&error))
    }

    fn csv_row(&self, row: &SummaryRow, keys: &[&str]) -> Vec<String> {
        let varied = |key: &&str| row.varied.get(*key).map_or(String::new(), plain);
        let mut cells = vec![row.point.clone(), row.label.clone(), row.grid.clone()];
        cells.extend(keys.iter().map(varied));
        cells.extend(self.by.is_some().then(|| row.group.clone().unwrap_or_else(|| ALL.into())));
        cells.push(row.images.to_string());
        cells.push(row.tflop.map_or(String::new(), |mean| mean.value.to_string()));
        cells.push(row.whole_tflop.to_string());
        cells.extend(mean_cells(row.seconds_per_step));
        cells.push(self.machine.clone().filter(|_| row.seconds_per_step.is_some()).unwrap_or_default());
        for MetricRow { mean, infinite, difference, front } in &row.metrics {
            cells.extend(mean_cells(*mean));
            cells.extend([infinite.to_string(), front.flops.to_string(), front.time.to_string()]);
            if self.baseline.is_some() {
                cells.extend(mean_cells(difference.and_then(|found| found.mean)));
                let rate = difference.map(|found| found.win_rate);
                cells.extend(mean_cells(rate).into_iter().take(3));
                let counts = difference.map(|found| [found.wins, found.ties, found.losses]);
                cells.extend(
                    counts.map_or([const { String::new() }; 3], |counts| counts.map(|n| n.to_string())),
                );
            }
        }
        cells
    }
}

/// A value, the ends of its interval, and the number of values.
fn mean_cells(mean: Option<Mean>) -> [String; 4] {
    let Some(Mean { value, interval, count }) = mean else {
        return [String::new(), String::new(), String::new(), "0".into()];
    };
    let ends =
        interval.map_or([const { String::new() }; 2], |(low, high)| [low.to_string(), high.to_string()]);
    let [low, high] = ends;
    [value.to_string(), low, high, count.to_string()]
}
