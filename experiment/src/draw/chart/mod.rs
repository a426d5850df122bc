//! Charts as SVG. They have axes with round ticks, one colour and shape per series, intervals as bars, rings around the marks of
//! a Pareto front, labels that never overlap, and a legend.

mod axis;
mod labels;
mod svg;
#[cfg(test)]
mod tests;

use axis::Range;
use labels::{Area, Drawn, Wanted, place};
use svg::{Anchor, Place, Svg, shortened, width_of};

pub(crate) use svg::escaped;

/// Colours that colour-blind readers can distinguish (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
const INK: &str = "#1B1F24";
const GREY: &str = "#464E58";
const FAINT: &str = "#E0E0E0";
/// Radius of a mark, and of the ring around a mark of the front.
const RADIUS: f64 = 5.0;
const RING: f64 = 8.0;
/// The sizes of texts in pixels.
const SMALL: f64 = 12.0;
const NORMAL: f64 = 13.0;
const TITLE: f64 = 15.0;
/// Height of a line of the legend.
const LINE: f64 = 20.0;
/// Width of the sample in front of a name in the legend.
const SAMPLE: f64 = 26.0;
/// The widest label of a mark.
const LABEL: f64 = 120.0;
/// The space on both sides of a label.
const SIDE: f64 = 2.0;
/// The name of the rings in the legend.
const FRONT: &str = "Pareto front";

/// A point of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// The position.
    pub at: (f64, f64),
    /// The lower and upper end of a vertical interval around it.
    pub interval: Option<(f64, f64)>,
    /// A short label next to it. It is left out if there is no place for it.
    pub label: String,
    /// Whether a ring marks it as a point of the Pareto front.
    pub front: bool,
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
    /// Points in the order in which a line joins them.
    pub marks: Vec<Mark>,
    /// How they are drawn.
    pub form: Form,
    /// Number of its colour and shape. A series can have the same number in several charts.
    pub colour: usize,
}

impl Series {
    /// A plain line.
    pub fn line(name: impl Into<String>, colour: usize, points: Vec<(f64, f64)>) -> Self {
        let mark = |at| Mark { at, interval: None, label: String::new(), front: false };
        let marks = points.into_iter().map(mark).collect();
        Self { name: name.into(), marks, form: Form::Line, colour }
    }

    fn colour(&self) -> &'static str {
        COLOURS[self.colour % COLOURS.len()]
    }

    fn shape(&self) -> usize {
        self.colour / COLOURS.len()
    }

    /// The points that can be drawn.
    fn finite(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(|mark| mark.at.0.is_finite() && mark.at.1.is_finite())
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

/// The size that a chart is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// 640 pixels wide, for pages and papers.
    Wide,
    /// 352 pixels wide, for telephones.
    Narrow,
}

impl View {
    fn width(self) -> f64 {
        match self {
            Self::Wide => 640.0,
            Self::Narrow => 352.0,
        }
    }

    /// The height without the legend.
    fn height(self) -> f64 {
        match self {
            Self::Wide => 380.0,
            Self::Narrow => 300.0,
        }
    }

    /// The most ticks of the horizontal axis.
    fn ticks(self) -> usize {
        match self {
            Self::Wide => 9,
            Self::Narrow => 5,
        }
    }
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The title above the chart; none if empty.
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

/// Where a chart's values are in pixels.
struct Frame {
    area: Area,
    x: Range,
    y: Range,
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> Place {
        let Area { left, top, right, bottom } = self.area;
        (left + (right - left) * self.x.share(x), bottom - (bottom - top) * self.y.share(y))
    }
}

/// A name in the legend: its left end, its line, and the text. The series, or the ring of the front.
struct Entry<'a> {
    left: f64,
    line: usize,
    text: String,
    series: Option<&'a Series>,
}

impl Chart {
    /// The chart as an SVG document. Points that are not finite are left out.
    #[must_use]
    pub fn to_svg(&self, view: View) -> String {
        let frame = self.frame(view);
        let legend = self.legend(view);
        let lines = legend.last().map_or(0, |entry| entry.line + 1);
        let mut svg = Svg::new(view.width(), view.height() + LINE * lines as f64 + LINE / 2.0);
        if !self.title.is_empty() {
            let title = shortened(&self.title, TITLE, view.width() - 16.0);
            svg.text((view.width() / 2.0, 18.0), Anchor::Middle, TITLE, INK, &title);
        }
        self.draw_axes(&mut svg, &frame, view);
        self.draw_series(&mut svg, &frame);
        draw_legend(&mut svg, &legend, view);
        svg.finish()
    }

    fn frame(&self, view: View) -> Frame {
        let marks = || self.series.iter().flat_map(Series::finite);
        let values = || marks().map(|mark| mark.at.1);
        let (least, most) =
            values().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), v| (l.min(v), m.max(v)));
        // one long interval must not flatten all lines: it is cut off at the frame
        let room = if most > least { most - least } else { f64::INFINITY };
        let ends = |mark: &Mark| {
            let (low, high) = mark.interval.unwrap_or((mark.at.1, mark.at.1));
            [low.max(least - room), mark.at.1, high.min(most + room)]
        };
        let mut y = Range::around(marks().flat_map(ends).filter(|end| end.is_finite()));
        if self.base == Base::Zero {
            y.low = values().fold(0.0, f64::min);
        }
        let top = if self.title.is_empty() { 12.0 } else { 36.0 };
        let area = Area { left: 76.0, top, right: view.width() - 24.0, bottom: view.height() - 46.0 };
        Frame { area, x: Range::around(marks().map(|mark| mark.at.0)), y }
    }

    fn draw_axes(&self, svg: &mut Svg, frame: &Frame, view: View) {
        let Area { left, top, right, bottom } = frame.area;
        for (value, label) in frame.x.ticks_across(view.ticks(), right - left, SMALL) {
            let (x, _) = frame.place((value, frame.y.low));
            svg.line(&[(x, top), (x, bottom)], FAINT, 1.0);
            svg.text((x, bottom + 14.0), Anchor::Middle, SMALL, INK, &label);
        }
        for (value, label) in frame.y.ticks(7) {
            let (_, y) = frame.place((frame.x.low, value));
            svg.line(&[(left, y), (right, y)], FAINT, 1.0);
            svg.text((left - 6.0, y), Anchor::End, SMALL, INK, &label);
        }
        svg.line(&[(left, top), (left, bottom), (right, bottom)], INK, 1.0);
        let middle = (f64::midpoint(left, right), f64::midpoint(top, bottom));
        let label = shortened(&self.x_label, NORMAL, view.width() - 16.0);
        let half = width_of(&label, NORMAL) / 2.0;
        let x = middle.0.min(view.width() - 8.0 - half).max(8.0 + half);
        svg.text((x, bottom + 34.0), Anchor::Middle, NORMAL, INK, &label);
        svg.text_upwards((12.0, middle.1), NORMAL, INK, &shortened(&self.y_label, NORMAL, bottom - top));
    }

    fn draw_series(&self, svg: &mut Svg, frame: &Frame) {
        let mut drawn = Drawn::default();
        let (mut wanted, mut texts) = (Vec::new(), Vec::new());
        for series in &self.series {
            let places: Vec<Place> = series.finite().map(|mark| frame.place(mark.at)).collect();
            let thick = if series.form == Form::Line { 2.0 } else { 1.0 };
            if places.len() > 1 {
                svg.line(&places, series.colour(), thick);
            }
            drawn.lines.extend(places.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))));
            if series.form == Form::Line {
                continue;
            }
            for (mark, at) in series.finite().zip(places) {
                if let Some((low, high)) =
                    mark.interval.filter(|(low, high)| low.is_finite() && high.is_finite())
                {
                    let end = |y: f64| frame.place((mark.at.0, y.clamp(frame.y.low, frame.y.high)));
                    let bar = [end(low), end(high)];
                    svg.line(&bar, series.colour(), 2.0);
                    drawn.lines.push((bar[0], bar[1]));
                }
                let radius = if mark.front { RING } else { RADIUS };
                drawn.marks.push(Area::around(at, radius));
                if !mark.label.is_empty() {
                    let text = shortened(&mark.label, SMALL, LABEL);
                    wanted.push(Wanted {
                        at,
                        radius,
                        size: (width_of(&text, SMALL) + 2.0 * SIDE, 1.2 * SMALL),
                    });
                    texts.push(text);
                }
            }
        }
        for series in self.series.iter().filter(|series| series.form == Form::Dots) {
            for mark in series.finite() {
                let at = frame.place(mark.at);
                if mark.front {
                    svg.ring(at, RING, INK);
                }
                let title =
                    format!("{} {}: {}, {}", series.name, mark.label, short(mark.at.0), short(mark.at.1));
                svg.mark(at, series.shape(), series.colour(), &title);
            }
        }
        for (placed, text) in place(&wanted, &drawn, &frame.area).into_iter().zip(texts) {
            let Some(placed) = placed else { continue };
            if let Some((from, to)) = placed.leader {
                svg.line(&[from, to], GREY, 0.6);
            }
            let middle = f64::midpoint(placed.area.top, placed.area.bottom);
            svg.text((placed.area.left + SIDE, middle), Anchor::Start, SMALL, GREY, &text);
        }
    }

    /// The names below the chart. Lines break where the next name does not fit.
    fn legend(&self, view: View) -> Vec<Entry<'_>> {
        let (left, right) = (12.0, view.width() - 12.0);
        let front = self.series.iter().flat_map(|series| &series.marks).any(|mark| mark.front);
        let names = self.series.iter().map(|series| (series.name.as_str(), Some(series)));
        let (mut x, mut line) = (left, 0);
        let mut entries = Vec::new();
        for (name, series) in names.chain(front.then_some((FRONT, None))) {
            let text = shortened(name, SMALL, right - left - SAMPLE);
            let wide = SAMPLE + width_of(&text, SMALL);
            if x > left && x + wide > right {
                (x, line) = (left, line + 1);
            }
            entries.push(Entry { left: x, line, text, series });
            x += wide + 14.0;
        }
        entries
    }
}

fn draw_legend(svg: &mut Svg, legend: &[Entry<'_>], view: View) {
    for Entry { left, line, text, series } in legend {
        let y = view.height() + LINE * (*line as f64 + 0.5);
        match series {
            Some(series) => {
                let thick = if series.form == Form::Line { 3.0 } else { 1.0 };
                svg.line(&[(*left, y), (left + 18.0, y)], series.colour(), thick);
                if series.form == Form::Dots {
                    svg.mark((left + 9.0, y), series.shape(), series.colour(), "");
                }
            }
            None => svg.ring((left + 9.0, y), RING, INK),
        }
        svg.text((left + SAMPLE, y), Anchor::Start, SMALL, INK, text);
    }
}

/// A number with at most four digits after its first one.
fn short(value: f64) -> String {
    match value.abs() {
        plain if (1e-3..1e5).contains(&plain) => {
            let digits = (4.0 - plain.log10().floor()).clamp(0.0, 7.0) as usize;
            let text = format!("{value:.digits$}");
            if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
        }
        0.0 => "0".into(),
        _ => format!("{value:.3e}"),
    }
}
