//! A line chart as SVG: axes with round ticks, one line a series, a legend.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Colours that stay apart for colour-blind readers (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: String,
    /// Points from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    /// Above the chart.
    pub(crate) title: String,
    /// Below the horizontal axis.
    pub(crate) x_label: String,
    /// Beside the vertical axis.
    pub(crate) y_label: String,
    /// The lines.
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// The chart as an SVG document. Points that are not finite are left out.
    pub(crate) fn to_svg(&self) -> String {
        let points = || {
            self.series
                .iter()
                .flat_map(|series| &series.points)
                .filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let x_axis = Axis::covering(points().map(|point| point.0), false);
        let y_axis = Axis::covering(points().map(|point| point.1), true);
        let place_x = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * x_axis.share(x);
        let place_y = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.share(y);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);

        let mut parts = vec![format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
        )];
        parts.push(format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"));
        parts.push(text(LEFT, TOP - 18.0, "start", &self.title, " font-size=\"14\""));
        for tick in x_axis.ticks() {
            let x = place_x(tick);
            parts.push(line(x, bottom, x, bottom + 5.0, "black"));
            parts.push(text(x, bottom + 19.0, "middle", &label(tick), ""));
        }
        for tick in y_axis.ticks() {
            let y = place_y(tick);
            parts.push(line(LEFT, y, right, y, "#dddddd"));
            parts.push(text(LEFT - 8.0, y + 4.0, "end", &label(tick), ""));
        }
        parts.push(line(LEFT, bottom, right, bottom, "black"));
        parts.push(line(LEFT, TOP, LEFT, bottom, "black"));
        parts.push(text((LEFT + right) / 2.0, HEIGHT - 14.0, "middle", &self.x_label, ""));
        let (x, y) = (18.0, (TOP + bottom) / 2.0);
        parts.push(text(x, y, "middle", &self.y_label, &format!(" transform=\"rotate(-90 {x} {y})\"")));
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let mut path = String::new();
            for (x, y) in series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
                // Writing to a String cannot fail.
                let _ = write!(path, "{:.2},{:.2} ", place_x(*x), place_y(*y));
            }
            parts.push(format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                path.trim_end()
            ));
            let y = TOP + 12.0 + 20.0 * index as f64;
            parts.push(format!(
                "<line x1=\"{:.2}\" y1=\"{y:.2}\" x2=\"{:.2}\" y2=\"{y:.2}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                right + 14.0,
                right + 36.0
            ));
            parts.push(text(right + 42.0, y + 4.0, "start", &series.name, ""));
        }
        parts.push("</svg>\n".into());
        parts.join("\n")
    }
}

/// A range that begins and ends at round numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    start: f64,
    step: f64,
    count: usize,
}

impl Axis {
    fn covering(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let low = if from_zero { low.min(0.0) } else { low };
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let power = 10f64.powf((span / 6.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| span / step <= 6.0);
        let step = step.unwrap_or(10.0 * power);
        let start = (low / step).floor() * step;
        let count = (((low + span - start) / step) - 1e-9).ceil().max(1.0) as usize;
        Self { start, step, count }
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        (0..=self.count).map(move |index| self.start + self.step * index as f64)
    }

    /// Where `value` lies between the ends, from 0 to 1.
    fn share(self, value: f64) -> f64 {
        (value - self.start) / (self.step * self.count as f64)
    }
}

/// A tick's number: plain where that is short, else with an exponent.
fn label(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-2..1e5).contains(&size) {
        return format!("{value:.2e}").replace(".00e", "e").replace("0e", "e");
    }
    let plain = format!("{value:.3}");
    plain.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, colour: &str) -> String {
    format!("<line x1=\"{x1:.2}\" y1=\"{y1:.2}\" x2=\"{x2:.2}\" y2=\"{y2:.2}\" stroke=\"{colour}\"/>")
}

fn text(x: f64, y: f64, anchor: &str, words: &str, more: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\"{more}>{words}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_that_cover_the_data() {
        let axis = Axis::covering([0.0, 49.0].into_iter(), false);
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        let axis = Axis::covering([3.1e-5, 9.7e-5].into_iter(), true);
        let ticks: Vec<f64> = axis.ticks().collect();
        assert!(ticks[0] == 0.0 && *ticks.last().unwrap() >= 9.7e-5 && ticks.len() <= 8, "{ticks:?}");
        assert!(Axis::covering(std::iter::empty(), true).ticks().count() >= 2);
        assert!(Axis::covering([4.0].into_iter(), false).share(4.0).is_finite());
    }

    #[test]
    fn labels_are_short() {
        let labels: Vec<String> = [0.0, 10.0, 0.5, 2e-5, 1.5e-4, 2e6].into_iter().map(label).collect();
        assert_eq!(labels, ["0", "10", "0.5", "2e-5", "1.5e-4", "2e6"]);
    }

    #[test]
    fn every_series_is_a_line_and_text_is_escaped() {
        let series =
            |name: &str| Series { name: name.into(), points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)] };
        let chart = Chart {
            title: "a < b & c".into(),
            x_label: "step".into(),
            y_label: "variance".into(),
            series: vec![series("level 1"), series("level 2")],
        };
        let svg = chart.to_svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("level 2") && !svg.contains("NaN"));
    }
}
