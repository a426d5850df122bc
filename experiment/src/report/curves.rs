//! Quality against FLOPs, against time, and against the numbers that grid entries vary.

use serde_json::Value;

use super::html::figure;
use super::series::{Group, groups, groups_along, numbers};
use crate::draw::{Base, Chart, ChartMark, Form, Series, View};
use crate::gathered::Gathered;
use crate::grid::plain;
use crate::measures::{Mean, OnFront, Summary, SummaryRow};
use crate::record::PointInfo;

/// The horizontal value of a point.
type Across<'a> = &'a dyn Fn(&SummaryRow) -> Option<f64>;
/// The vertical value of a point, and whether a ring marks it.
type Up<'a> = &'a dyn Fn(&SummaryRow) -> Option<(Mean, bool)>;
/// Whether a point is on a front.
type Front = fn(OnFront) -> bool;

/// The charts of a run: each measure against FLOPs, against time and against the numbers that grid entries vary, and the time
/// against FLOPs. A chart without points is left out. The summary is one over all prompts.
#[must_use]
pub fn charts(run: &Gathered, summary: &Summary) -> Vec<Chart> {
    let points = &run.info.points;
    let drawn = Drawn { points, rows: &summary.rows };
    let lines = groups(points);
    let flops = |row: &SummaryRow| row.tflop.map(|mean| mean.value * summary.unit.factor);
    let time = |row: &SummaryRow| row.seconds_per_step.map(|mean| mean.value);
    let flops_label = format!("{} of a U-Net evaluation", summary.unit.name);
    let machine = summary.machine.as_ref().map_or(String::new(), |machine| format!(", {machine}"));
    let time_label = format!("median seconds per step{machine}");
    let costs: [(&str, &str, Across<'_>, Front); 2] = [
        ("FLOPs", &flops_label, &flops, |front| front.flops),
        ("time", &time_label, &time, |front| front.time),
    ];
    let mut charts = Vec::new();
    for (place, metric) in summary.metrics.iter().enumerate() {
        for (name, label, cost, front) in costs {
            let title = format!("{} against {name} ({})", metric.name, metric.better);
            let value = |row: &SummaryRow| {
                let found = row.metrics.get(place)?;
                Some((found.mean?, front(found.front)))
            };
            charts.extend(drawn.chart(title, [label, &metric.axis], &lines, cost, &value));
        }
    }
    let pace = |row: &SummaryRow| row.seconds_per_step.map(|mean| (mean, false));
    let axes = [flops_label.as_str(), "seconds per step"];
    charts.extend(drawn.chart("Time against FLOPs".into(), axes, &lines, &flops, &pace));
    for key in numbers(points) {
        let lines = groups_along(points, &key);
        let varied = |row: &SummaryRow| row.varied.get(&key).and_then(Value::as_f64);
        for (place, metric) in summary.metrics.iter().enumerate() {
            let value = |row: &SummaryRow| Some((row.metrics.get(place)?.mean?, false));
            let title = format!("{} against {key} ({})", metric.name, metric.better);
            charts.extend(drawn.chart(title, [&key, &metric.axis], &lines, &varied, &value));
        }
    }
    charts
}

/// The charts as elements of the page. Their titles are the captions.
pub(super) fn curves(run: &Gathered, summary: &Summary) -> String {
    let element = |chart: Chart| {
        let untitled = Chart { title: String::new(), ..chart.clone() };
        figure([View::Wide, View::Narrow].map(|view| untitled.to_svg(view)), &chart.title)
    };
    charts(run, summary).into_iter().map(element).collect()
}

/// What all charts share.
struct Drawn<'a> {
    points: &'a [PointInfo],
    rows: &'a [SummaryRow],
}

impl Drawn<'_> {
    /// A chart with a line for each group; `None` if no point has both values.
    fn chart(
        &self,
        title: String,
        axes: [&str; 2],
        lines: &[Group],
        x: Across<'_>,
        y: Up<'_>,
    ) -> Option<Chart> {
        let series = lines.iter().map(|group| self.series(group, x, y, axes[0]));
        let series: Vec<Series> = series.filter(|series| !series.marks.is_empty()).collect();
        let [x_label, y_label] = axes.map(String::from);
        (!series.is_empty()).then_some(Chart { title, x_label, y_label, base: Base::Lowest, series })
    }

    /// A group as a series. Labels tell the number that the line follows, unless the axis tells it.
    fn series(&self, group: &Group, x: Across<'_>, y: Up<'_>, axis: &str) -> Series {
        let along = group.along.as_deref().filter(|key| *key != axis);
        let mark = |place: &usize| {
            let (row, point) = (self.rows.get(*place)?, self.points.get(*place)?);
            let (x, (mean, front)) = (x(row)?, y(row)?);
            let label = match (along, &group.along) {
                (Some(key), _) => point.varied.get(key).map_or(String::new(), plain),
                (None, Some(_)) => String::new(),
                (None, None) => group.name.clone(),
            };
            Some(ChartMark { at: (x, mean.value), interval: mean.interval, label, front })
        };
        let name = along.map_or(group.name.clone(), |key| format!("{} by {key}", group.name));
        let mut marks: Vec<ChartMark> = group.points.iter().filter_map(mark).collect();
        // measured times need not follow the number, and a line does not go back
        marks.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
        Series { name, marks, form: Form::Dots, colour: group.colour }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::measures::Measures;
    use crate::measures::tests::run;

    #[test]
    fn lines_do_not_go_back_and_labels_tell_the_number() {
        let mut run = run();
        run.info.points[2].varied = json!({"ratio": 0.5});
        let summary = Summary::new(&Measures::of(&run), None, None).unwrap();
        let found = charts(&run, &summary);
        let titles: Vec<&str> = found.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles.len(), 4 * 2 + 1 + 4, "{titles:?}");
        let chart = |title: &str| found.iter().find(|chart| chart.title.starts_with(title)).unwrap();
        let told = |title: &str| {
            let series = chart(title).series.iter().find(|series| series.name.starts_with("at-edm")).unwrap();
            let marks = series.marks.iter().map(|mark| (mark.at, mark.label.clone(), mark.front));
            (series.name.clone(), marks.collect::<Vec<_>>())
        };
        let label = |label: &str| label.to_string();
        // the higher ratio is faster and comes first
        let marks = vec![((0.8, 23.5), label("0.5"), true), ((0.9, 28.0), label("0.3"), true)];
        assert_eq!(told("PSNR against time"), ("at-edm by ratio".into(), marks));
        let marks = vec![((2.0, 0.5), label("0.5"), true), ((3.0, 0.5), label("0.3"), false)];
        assert_eq!(told("SSIM against FLOPs"), ("at-edm by ratio".into(), marks));
        let marks = vec![((0.3, 28.0), label(""), false), ((0.5, 23.5), label(""), false)];
        assert_eq!(told("PSNR against ratio"), ("at-edm".into(), marks));
        assert_eq!(chart("PSNR against time").x_label, "median seconds per step, Chip, 2 threads");
        // the unpruned point has no distance, but a time
        let names =
            |title: &str| chart(title).series.iter().map(|series| series.name.clone()).collect::<Vec<_>>();
        assert_eq!(names("PSNR against FLOPs"), ["at-edm by ratio"]);
        assert_eq!(names("Time against FLOPs").len(), 2);
    }
}
