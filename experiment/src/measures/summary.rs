//! The figures of every point, as typed rows.

use serde_json::Value;

use super::mean::Mean;
use super::metric::Metric;
use super::paired::{Difference, front};
use super::run::Measures;
use super::unit::Unit;
use crate::failure::{Failure, Outcome};
use crate::gathered::Gathered;
use crate::record::{PointInfo, PromptLine, Record};

/// What points are compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Baseline {
    /// One point, by its id.
    Point(String),
    /// For each point, the unpruned point of the same sampling.
    Unpruned,
}

impl Baseline {
    /// A baseline by its name: the id or label of a point, or `unpruned`.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the points that there are.
    pub fn named(run: &Gathered, name: &str) -> Outcome<Self> {
        match run.point_named(name) {
            Ok(point) => Ok(Self::Point(point.id.clone())),
            Err(_) if name == "unpruned" => Ok(Self::Unpruned),
            Err(failure) => Err(failure),
        }
    }

    /// The id of the point that a point is compared with; `None` for the baseline itself.
    fn of<'a>(&'a self, point: &'a PointInfo) -> Option<&'a str> {
        let other = match self {
            Self::Point(id) => Some(id.as_str()),
            Self::Unpruned => point.reference.as_deref(),
        };
        other.filter(|other| *other != point.id)
    }
}

/// The figures of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The measures. Every row has them in this order.
    pub metrics: Vec<Metric>,
    /// The unit in which tables show FLOPs.
    pub unit: Unit,
    /// The machine whose times are shown.
    pub machine: Option<String>,
    /// What the differences are to; `None` if there are none.
    pub baseline: Option<Baseline>,
    /// The prompts' property that splits the rows: `category`.
    pub by: Option<String>,
    /// A row for each point. With `by`, these rows are over all prompts, and rows of each value of the property follow.
    pub rows: Vec<SummaryRow>,
}

/// The figures of a point.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SummaryRow {
    /// The point's id.
    pub point: String,
    /// The point's readable name.
    pub label: String,
    /// The name of its grid entry.
    pub grid: String,
    /// The keys that the entry varies, with this point's values.
    pub varied: Value,
    /// The value of the property that splits the rows; `None` for all prompts.
    pub group: Option<String>,
    /// The number of finished images.
    pub images: usize,
    /// TFLOP of a U-Net evaluation, the mean over images.
    pub tflop: Option<Mean>,
    /// TFLOP of the unpruned model.
    pub whole_tflop: f64,
    /// Seconds per denoising step, the median over the images that [`Summary::machine`] made.
    pub seconds_per_step: Option<Mean>,
    /// In the order of [`Summary::metrics`].
    pub metrics: Vec<MetricRow>,
}

/// A measure of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MetricRow {
    /// The mean of the finite values.
    pub mean: Option<Mean>,
    /// The number of infinite values, as of the PSNR of equal pictures. The mean leaves them out.
    pub infinite: usize,
    /// The comparison with the baseline. `None` without a baseline, and for the baseline itself.
    pub difference: Option<Difference>,
    /// Whether no other point of the same rows is cheaper and better.
    pub front: OnFront,
}

/// On which Pareto fronts a point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OnFront {
    /// Of the measure against FLOPs.
    pub flops: bool,
    /// Of the measure against time.
    pub time: bool,
}

impl Summary {
    /// The figures of all points. `by` is a property of prompts, `category` for example.
    ///
    /// # Errors
    /// [`Failure::Usage`] if no prompt has the property.
    pub fn new(measures: &Measures<'_>, baseline: Option<&Baseline>, by: Option<&str>) -> Outcome<Self> {
        let run = measures.run();
        let all: Vec<&PromptLine> = run.prompts.iter().collect();
        let mut rows = rows(measures, baseline, None, &all);
        if let Some(key) = by {
            for (group, prompts) in groups(run, key)? {
                rows.extend(self::rows(measures, baseline, Some(&group), &prompts));
            }
        }
        Ok(Self {
            metrics: measures.metrics().to_vec(),
            unit: Unit::of(run),
            machine: measures.machine().map(str::to_string),
            baseline: baseline.cloned(),
            by: by.map(str::to_string),
            rows,
        })
    }
}

/// The prompts by their value of a property, sorted by value. Prompts without it are in none.
fn groups<'a>(run: &'a Gathered, key: &str) -> Outcome<Vec<(String, Vec<&'a PromptLine>)>> {
    let of = |prompt: &PromptLine| prompt.groups.get(key).cloned();
    let mut names: Vec<String> = run.prompts.iter().filter_map(of).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        let mut known: Vec<&str> =
            run.prompts.iter().flat_map(|prompt| prompt.groups.keys().map(String::as_str)).collect();
        known.sort_unstable();
        known.dedup();
        let known = if known.is_empty() { "they have none".into() } else { known.join(", ") };
        return Err(Failure::usage(format!(
            "expected a property of the run's prompts ({known}), got {key:?}"
        )));
    }
    let members = |name: String| {
        let prompts = run.prompts.iter().filter(|prompt| prompt.groups.get(key) == Some(&name)).collect();
        (name, prompts)
    };
    Ok(names.into_iter().map(members).collect())
}

/// A row for each point, over some prompts.
fn rows(
    measures: &Measures<'_>,
    baseline: Option<&Baseline>,
    group: Option<&str>,
    prompts: &[&PromptLine],
) -> Vec<SummaryRow> {
    let points = &measures.run().info.points;
    let mut rows: Vec<SummaryRow> =
        points.iter().map(|point| row(measures, baseline, group, prompts, point)).collect();
    for (index, metric) in measures.metrics().iter().enumerate() {
        let value = |row: &SummaryRow| row.metrics.get(index).and_then(|found| found.mean);
        let against = |cost: fn(&SummaryRow) -> Option<Mean>| {
            let at = |mean: Option<Mean>| mean.map_or(f64::NAN, |mean| mean.value);
            let places: Vec<(f64, f64)> = rows.iter().map(|row| (at(cost(row)), at(value(row)))).collect();
            front(&places, metric.better)
        };
        let (flops, time) = (against(|row| row.tflop), against(|row| row.seconds_per_step));
        for ((row, flops), time) in rows.iter_mut().zip(flops).zip(time) {
            if let Some(found) = row.metrics.get_mut(index) {
                found.front = OnFront { flops, time };
            }
        }
    }
    rows
}

fn row(
    measures: &Measures<'_>,
    baseline: Option<&Baseline>,
    group: Option<&str>,
    prompts: &[&PromptLine],
    point: &PointInfo,
) -> SummaryRow {
    let run = measures.run();
    let images = prompts.iter().filter_map(|prompt| run.image(&point.id, &prompt.id));
    let records: Vec<&Record> = images.map(|image| &image.record).collect();
    let metric = |(index, metric): (usize, &Metric)| {
        let value = |point: &str, prompt: &&PromptLine| measures.value(index, point, &prompt.id);
        let own: Vec<f64> = match measures.whole(index, &point.id).filter(|_| group.is_none()) {
            Some(whole) => vec![whole],
            None => prompts.iter().filter_map(|prompt| value(&point.id, prompt)).collect(),
        };
        let other = baseline.and_then(|baseline| baseline.of(point));
        let pairs = |other: &str| {
            let pair = |prompt: &&PromptLine| Some((value(&point.id, prompt)?, value(other, prompt)?));
            let pairs: Vec<(f64, f64)> = prompts.iter().filter_map(pair).collect();
            Difference::of(pairs, metric.better)
        };
        MetricRow {
            mean: Mean::of(own.iter().copied()),
            infinite: own.iter().filter(|value| value.is_infinite()).count(),
            difference: other.and_then(pairs),
            front: OnFront::default(),
        }
    };
    SummaryRow {
        point: point.id.clone(),
        label: point.label.clone(),
        grid: point.grid.clone(),
        varied: point.varied.clone(),
        group: group.map(str::to_string),
        images: records.len(),
        tflop: Mean::of(records.iter().map(|record| record.flops.mean_tflop)),
        whole_tflop: point.whole_tflop,
        seconds_per_step: Mean::median_of(
            records.iter().filter_map(|record| measures.seconds_per_step(record)),
        ),
        metrics: measures.metrics().iter().enumerate().map(metric).collect(),
    }
}
