//! Charts as SVG, drawn with `plotters`. They have axes with round ticks, one colour per series, intervals as bars, and
//! a legend.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::failure::{Failure, Outcome};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 380;
/// Names per line of the legend, which is below the chart.
const COLUMNS: u32 = 3;
/// Height of one line of the legend in pixels.
const LINE: u32 = 20;
/// Letters of a name that fit into the legend.
const NAME: usize = 24;
/// The largest number of points whose labels are drawn.
const MOST_LABELS: usize = 24;
/// Colours that colour-blind readers can distinguish (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// The colour of labels next to points.
const GREY: RGBColor = RGBColor(70, 78, 88);

/// A point of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// The position.
    pub at: (f64, f64),
    /// The lower and upper end of a vertical interval around it.
    pub interval: Option<(f64, f64)>,
    /// A short label next to it.
    pub label: String,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line through many points.
    Line,
    /// One dot per point, joined by a thin line.
    Dots,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Points from left to right.
    pub marks: Vec<Mark>,
    /// How they are drawn.
    pub form: Form,
    /// Number of its colour. A series can have the same colour in several charts.
    pub colour: usize,
}

impl Series {
    /// A plain line.
    pub fn line(name: impl Into<String>, colour: usize, points: Vec<(f64, f64)>) -> Self {
        let mark = |at| Mark { at, interval: None, label: String::new() };
        let marks = points.into_iter().map(mark).collect();
        Self { name: name.into(), marks, form: Form::Line, colour }
    }
}

/// The start of the vertical axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Zero, or the lowest point if that is negative.
    Zero,
    /// Just below the lowest point.
    Lowest,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The title above the chart.
    pub title: String,
    /// The label below the horizontal axis.
    pub x_label: String,
    /// The label next to the vertical axis.
    pub y_label: String,
    /// The start of the vertical axis.
    pub base: Base,
    /// The series in the chart.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as an SVG document. Points that are not finite are left out.
    pub fn to_svg(&self) -> Outcome<String> {
        let mut svg = String::new();
        {
            let area =
                SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT + self.legend_height())).into_drawing_area();
            self.draw(&area).map_err(|error| Failure::run(format!("{}: {error}", self.title)))?;
        }
        Ok(svg)
    }

    fn legend_height(&self) -> u32 {
        LINE * (self.series.len() as u32).div_ceil(COLUMNS) + LINE / 2
    }

    fn draw<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        area.fill(&WHITE)?;
        let (plot, legend) = area.split_vertically(HEIGHT);
        let finite = |mark: &&Mark| mark.at.0.is_finite() && mark.at.1.is_finite();
        let marks = || self.series.iter().flat_map(|series| &series.marks).filter(finite);
        let (left, right) = padded(marks().map(|mark| mark.at.0));
        let ends = |mark: &Mark| {
            let (low, high) = mark.interval.unwrap_or((mark.at.1, mark.at.1));
            [low, mark.at.1, high]
        };
        let (mut low, high) = padded(marks().flat_map(ends).filter(|end| end.is_finite()));
        if self.base == Base::Zero {
            low = marks().map(|mark| mark.at.1).fold(0.0, f64::min);
        }
        let mut chart = ChartBuilder::on(&plot)
            .caption(&self.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(left..right, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(224, 224, 224))
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_labels(8)
            .y_labels(8)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        let labelled = marks().count() <= MOST_LABELS;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let marks: Vec<&Mark> = series.marks.iter().filter(finite).collect();
            let thick = if series.form == Form::Line { 2 } else { 1 };
            if series.form == Form::Line || marks.len() > 1 {
                let points = marks.iter().map(|mark| mark.at);
                chart.draw_series(LineSeries::new(points, colour.stroke_width(thick)))?;
            }
            for mark in marks.iter().filter(|_| series.form == Form::Dots) {
                if let Some((low, high)) = mark.interval {
                    let bar = PathElement::new([(mark.at.0, low), (mark.at.0, high)], colour.stroke_width(2));
                    chart.plotting_area().draw(&bar)?;
                }
                chart.plotting_area().draw(&Circle::new(mark.at, 4, colour.filled()))?;
                if labelled && !mark.label.is_empty() {
                    // away from a lower point, and inside the chart at its right end
                    let near = |other: &&Mark| (other.at.0 - mark.at.0).abs() < 0.1 * (right - left);
                    let mut others = self.series.iter().flat_map(|series| &series.marks).filter(near);
                    let up = others.all(|other| other.at.1 <= mark.at.1);
                    let wide = 7 * mark.label.chars().count() as i32;
                    let x = if mark.at.0 > right - 0.2 * (right - left) { -7 - wide } else { 7 };
                    let style = ("sans-serif", 12).into_font().color(&GREY);
                    let beside = EmptyElement::at(mark.at)
                        + Text::new(mark.label.clone(), (x, if up { -16 } else { 5 }), style);
                    chart.plotting_area().draw(&beside)?;
                }
            }
            let (column, line) = (index as u32 % COLUMNS, index as u32 / COLUMNS);
            let (x, y) = ((84 + column * (WIDTH - 84) / COLUMNS) as i32, (line * LINE + 8) as i32);
            legend.draw(&PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)))?;
            legend.draw(&Text::new(shortened(&series.name), (x + 24, y - 6), ("sans-serif", 13)))?;
        }
        area.present()
    }
}

/// A range with some space around the values. If there are no values, any range.
fn padded(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = match high - low {
        // a single value: wide enough for distinct ticks
        none if none <= 1e-9 * high.abs() => (0.1 * high.abs()).max(1e-6),
        span => 0.06 * span,
    };
    (low - room, high + room)
}

/// The number at a tick. Long numbers are written with an exponent.
fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".into();
    }
    if !(1e-2..1e5).contains(&size) {
        return format!("{value:.2e}").replace(".00e", "e").replace("0e", "e");
    }
    let plain = format!("{value:.3}");
    plain.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn shortened(name: &str) -> String {
    match name.chars().count() {
        few if few <= NAME => name.to_string(),
        _ => name.chars().take(NAME - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_room_and_are_never_empty() {
        let (low, high) = padded([0.0, 50.0].into_iter());
        assert!((-5.0..0.0).contains(&low) && (50.0..55.0).contains(&high));
        for values in [vec![], vec![4.0], vec![0.0], vec![-3.0, -3.0]] {
            let (low, high) = padded(values.iter().copied());
            assert!(low < high, "{values:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let numbers: Vec<String> = [0.0, 10.0, 0.5, 2e-5, 1.5e-4, 2e6].into_iter().map(number).collect();
        assert_eq!(numbers, ["0", "10", "0.5", "2e-5", "1.5e-4", "2e6"]);
    }

    #[test]
    fn every_series_is_drawn_and_text_is_escaped() {
        let line = |name: &str| Series::line(name, 0, vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]);
        let mark =
            |x: f64, label: &str| Mark { at: (x, 2.0), interval: Some((1.5, 2.5)), label: label.into() };
        let dots = Series {
            name: "a name that is longer than the legend is wide".into(),
            marks: vec![mark(0.5, "<b>"), mark(1.5, "tau=15")],
            form: Form::Dots,
            colour: 1,
        };
        let chart = Chart {
            title: "a < b & c".into(),
            x_label: "step".into(),
            y_label: "variance".into(),
            base: Base::Zero,
            series: vec![line("level 1"), line("level 2"), dots],
        };
        let svg = chart.to_svg().unwrap();
        let [(r, g, b), ..] = COLOURS.map(|colour| (colour.0, colour.1, colour.2));
        assert!(svg.contains(&format!("#{r:02X}{g:02X}{b:02X}")));
        assert_eq!(svg.matches("<circle").count(), 2);
        for words in ["a &lt; b &amp; c", "level 2", "&lt;b&gt;", "tau=15"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(svg.contains('…') && !svg.contains("NaN") && !svg.contains("<b>"));
        let empty = Chart { series: Vec::new(), ..chart };
        assert!(empty.to_svg().unwrap().ends_with("</svg>\n"));
    }
}
