//! Quality against FLOPs, and against the values that a grid entry varies.

use serde_json::Value;

use super::figures::{METRICS, Mean, PointFigures};
use super::html::figure;
use super::tables::Unit;
use crate::draw::{Base, Chart, ChartMark, Form, Series};
use crate::failure::Outcome;
use crate::gathered::Gathered;
use crate::record::PointInfo;

/// A point with its figures.
type Measured<'a> = (&'a PointInfo, &'a PointFigures);

/// All curves of a run; none if no image is finished.
pub(super) fn curves(run: &Gathered, figures: &[PointFigures]) -> Outcome<String> {
    let points: Vec<Measured<'_>> = run.info.points.iter().zip(figures).collect();
    let unit = Unit::of(run);
    let tflop = |(_, figures): &Measured<'_>| figures.tflop.map(|mean| mean.value * unit.factor);
    let x_label = format!("{} of a U-Net evaluation (mean over steps and images)", unit.name);
    let mut parts = Vec::new();
    let mut add = |title: String, x_label: &str, series: Vec<Series>, y_label: &str| -> Outcome {
        if !series.is_empty() {
            let chart = Chart {
                title: title.clone(),
                x_label: x_label.into(),
                y_label: y_label.into(),
                base: Base::Lowest,
                series,
            };
            parts.push(figure(&chart.to_svg()?, &title));
        }
        Ok(())
    };
    let distance =
        |index: usize| move |(_, figures): &Measured<'_>| figures.distances.get(index).copied().flatten();
    for (index, metric) in METRICS.iter().enumerate() {
        let title = format!("{} against FLOPs ({})", metric.name, metric.better);
        add(title, &x_label, by_grid(&points, tflop, distance(index), own_words), metric.axis)?;
    }
    let pace = |(_, figures): &Measured<'_>| figures.seconds_per_step;
    add("Time against FLOPs".into(), &x_label, by_grid(&points, tflop, pace, own_words), "seconds a step")?;
    for key in numeric_axes(&points) {
        let varied = |(point, _): &Measured<'_>| point.varied.get(&key).and_then(Value::as_f64);
        for (index, metric) in METRICS.iter().enumerate() {
            let title = format!("{} against {key} ({})", metric.name, metric.better);
            add(title, &key, by_grid(&points, varied, distance(index), |_| String::new()), metric.axis)?;
        }
    }
    Ok(parts.concat())
}

/// The part of the label that distinguishes a point in its grid entry.
fn own_words(point: &PointInfo) -> String {
    point.label.strip_prefix(point.grid.as_str()).unwrap_or(&point.label).trim().to_string()
}

/// One series per grid entry, with points from left to right.
fn by_grid(
    points: &[Measured<'_>],
    x: impl Fn(&Measured<'_>) -> Option<f64>,
    y: impl Fn(&Measured<'_>) -> Option<Mean>,
    label: impl Fn(&PointInfo) -> String,
) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for (point, _) in points {
        if series.iter().all(|series| series.name != point.grid) {
            // an entry has the same colour in all charts
            let (name, colour) = (point.grid.clone(), series.len());
            series.push(Series { name, marks: Vec::new(), form: Form::Dots, colour });
        }
    }
    for measured in points {
        let (Some(x), Some(mean)) = (x(measured), y(measured)) else { continue };
        let (point, _) = measured;
        let label = label(point);
        let mark = ChartMark { at: (x, mean.value), interval: mean.interval, label };
        if let Some(series) = series.iter_mut().find(|series| series.name == point.grid) {
            series.marks.push(mark);
        }
    }
    series.retain(|series| !series.marks.is_empty());
    for series in &mut series {
        series.marks.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    }
    series
}

/// Keys with numeric values that a grid entry varies alone. There must be at least two values.
fn numeric_axes(points: &[Measured<'_>]) -> Vec<String> {
    let mut axes: Vec<String> = Vec::new();
    for (point, _) in points {
        let Some((key, value)) =
            point.varied.as_object().filter(|v| v.len() == 1).and_then(|v| v.iter().next())
        else {
            continue;
        };
        let others = points.iter().filter(|(other, _)| other.grid == point.grid);
        let many =
            others.filter(|(other, _)| other.varied.get(key).is_some_and(Value::is_number)).count() > 1;
        if value.is_number() && many && !axes.contains(key) {
            axes.push(key.clone());
        }
    }
    axes
}
